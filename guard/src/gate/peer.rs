//! Who is at the other end of a connection: the cgroup in which its socket was made, as the kernel tells it.
//!
//! The connect hook sends only the pod's own sockets to its gate, and turns away whoever asks for the gate's port. What
//! comes in all the same came another way (a process outside the guarded root, a port that is forwarded), and is closed.

use std::{
    cell::RefCell,
    collections::HashSet,
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
};

use guard_common::CgroupId;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};

/// The attribute of an answer that has the cgroup's id (`INET_DIAG_CGROUP_ID`, Linux 5.9).
const CGROUP_ID: u16 = 21;

/// How many cgroups of a pod are looked at: a tenant can make as many as it likes.
const MOST_CGROUPS: usize = 256;

/// Knows a pod's own sockets.
#[derive(Debug)]
pub(super) struct Peers {
    folder: PathBuf,
    /// Those of the pod's cgroups that have been met.
    known: RefCell<HashSet<CgroupId>>,
}

impl Peers {
    /// Knows those of the pod whose cgroup is `folder`.
    pub(super) fn of(folder: PathBuf) -> Self {
        Self { folder, known: RefCell::default() }
    }

    /// Whether the socket at `peer`, which is connected to `own`, was made in the pod.
    pub(super) fn is_own(
        &self,
        diagnosis: &netlink_sys::Socket,
        peer: SocketAddr,
        own: SocketAddr,
    ) -> io::Result<bool> {
        let Some(cgroup) = cgroup_of(diagnosis, peer, own)? else { return Ok(false) };
        if self.known.borrow().contains(&cgroup) {
            return Ok(true);
        }
        let is_own = contains(&self.folder, cgroup)?;
        let mut known = self.known.borrow_mut();
        if is_own && known.len() < MOST_CGROUPS {
            known.insert(cgroup);
        }
        Ok(is_own)
    }
}

/// Whether this kernel tells the cgroup of a connected socket: it needs `inet_diag` and `tcp_diag`.
pub(super) fn probe(diagnosis: &netlink_sys::Socket) -> io::Result<bool> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    Ok(cgroup_of(diagnosis, client.local_addr()?, client.peer_addr()?)?.is_some())
}

/// The cgroup of the socket that is bound to `local` and connected to `remote`, if there is one.
fn cgroup_of(
    diagnosis: &netlink_sys::Socket,
    local: SocketAddr,
    remote: SocketAddr,
) -> io::Result<Option<CgroupId>> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let request = InetRequest {
        family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: local.port(),
            destination_port: remote.port(),
            source_address: local.ip(),
            destination_address: remote.ip(),
            interface_id: 0,
            // Any: the addresses and ports say which socket is meant.
            cookie: [0xff; 8],
        },
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);
    diagnosis.send(&buffer, 0)?;

    // The kernel answers before `send` returns.
    let mut answer = Vec::with_capacity(4096);
    let (_, sender) = diagnosis.recv_from(&mut answer, libc::MSG_DONTWAIT)?;
    if sender.port_number() != 0 {
        return Err(io::Error::other("somebody else than the kernel answers"));
    }
    let answer = NetlinkMessage::<SockDiagMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
            // Where no connected socket is found the kernel tells of one that listens at the same port.
            let SocketId { source_port, destination_port, source_address, destination_address, .. } =
                response.header.socket_id;
            let ends = [(source_address, source_port), (destination_address, destination_port)];
            // An IPv6 socket that is connected to an IPv4 address has it in its mapped form.
            let ends = ends.map(|(address, port)| (address.to_canonical(), port));
            let is_meant = ends == [local, remote].map(|end| (end.ip(), end.port()));
            Ok(cgroup_in(&response).filter(|_| is_meant))
        }
        NetlinkPayload::Error(error) if error.raw_code() == -libc::ENOENT => Ok(None),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::Error::other("an answer that was not asked for")),
    }
}

/// The cgroup in which a socket was made, as the kernel's answer about it tells.
pub(super) fn cgroup_in(response: &InetResponse) -> Option<CgroupId> {
    response.nlas.iter().find_map(cgroup_id)
}

fn cgroup_id(attribute: &Nla) -> Option<CgroupId> {
    let Nla::Other(attribute) = attribute else { return None };
    if attribute.kind() != CGROUP_ID {
        return None;
    }
    let mut value = [0; 8];
    (attribute.value_len() == value.len()).then(|| attribute.emit_value(&mut value))?;
    Some(CgroupId(u64::from_ne_bytes(value)))
}

/// Whether `cgroup` is the cgroup `folder` or lies below it.
pub(super) fn contains(folder: &Path, cgroup: CgroupId) -> io::Result<bool> {
    if fs::metadata(folder)?.ino() == cgroup.0 {
        return Ok(true);
    }
    let mut left = MOST_CGROUPS;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // One that is removed meanwhile is not where a live socket was made.
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            if entry.ino() == cgroup.0 {
                return Ok(true);
            }
            left -= 1;
            if left == 0 {
                return Ok(false);
            }
            folders.push(entry.path());
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use netlink_sys::protocols::NETLINK_SOCK_DIAG;

    use super::*;

    #[test]
    fn the_kernel_tells_the_cgroup_of_a_connected_socket() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("a free port");
            let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
            let (own, peer) = (client.peer_addr().expect("connected"), client.local_addr().expect("bound"));
            let diagnosis = netlink_sys::Socket::new(NETLINK_SOCK_DIAG).expect("a netlink socket");
            let found = cgroup_of(&diagnosis, peer, own).expect("an answer");
            assert!(found.is_some_and(|cgroup| cgroup.0 != 0), "{address}: {found:?}");
            let nobody = SocketAddr::new(peer.ip(), 1);
            assert_eq!(cgroup_of(&diagnosis, nobody, own).expect("an answer"), None, "{address}");
            // Nobody is connected from there; somebody listens there.
            let listening = listener.local_addr().expect("bound");
            assert_eq!(cgroup_of(&diagnosis, listening, nobody).expect("an answer"), None, "{address}");
        }
    }

    #[test]
    fn cgroups_are_known_however_deep_they_lie() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let deep = root.path().join("a/b/c");
        fs::create_dir_all(&deep).expect("folders");
        let id = |path: &Path| CgroupId(fs::metadata(path).expect("there").ino());
        assert!(contains(root.path(), id(&deep)).expect("readable"));
        assert!(contains(root.path(), id(root.path())).expect("readable"));
        assert!(!contains(&deep, id(root.path())).expect("readable"));
    }
}
