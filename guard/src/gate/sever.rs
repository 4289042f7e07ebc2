//! Ends the connections that a pod has from before it was denied: they would hang, for the egress lock drops what goes out
//! on them. The kernel ends each with ECONNABORTED (`SOCK_DESTROY`, which a kernel may be built without).

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use prometheus::IntCounter;

use super::peer;

/// What is to end: a pod's connections to some addresses.
pub(super) struct Severance {
    /// In their plain form: no IPv4 address is mapped.
    pub(super) addresses: Vec<IpAddr>,
    /// In a network that the pod shares: its cgroup, in which a socket must have been made to be the pod's.
    pub(super) made_in: Option<PathBuf>,
    /// Counts those that were ended.
    pub(super) ended: IntCounter,
}

/// How much the kernel tells in one message, and more.
const MESSAGE: usize = 64 << 10;

impl Severance {
    /// Ends what the network namespace has of it that the calling thread is in.
    pub(super) fn carry_out(&self) -> io::Result<()> {
        let diagnosis = Socket::new(NETLINK_SOCK_DIAG)?;
        let mut outcome = Ok(());
        for protocol in [IPPROTO_TCP, IPPROTO_UDP] {
            for family in [AF_INET, AF_INET6] {
                for connection in self.connections(&diagnosis, family, protocol)? {
                    match destroy(&diagnosis, request(family, protocol, connection)) {
                        Ok(ended) => self.ended.inc_by(u64::from(ended)),
                        // One that can't be ended, for it is ending say, keeps none of the others.
                        Err(error) => outcome = outcome.and(Err(error)),
                    }
                }
            }
        }
        outcome
    }

    fn connections(&self, diagnosis: &Socket, family: u8, protocol: u8) -> io::Result<Vec<SocketId>> {
        let any = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
        let mut found = Vec::new();
        list(diagnosis, request(family, protocol, any), |response| {
            let to = response.header.socket_id.destination_address.to_canonical();
            if self.addresses.contains(&to) && self.is_own(&response)? {
                found.push(response.header.socket_id);
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn is_own(&self, response: &InetResponse) -> io::Result<bool> {
        let made_in = |folder: &Path| match peer::cgroup_in(response) {
            Some(cgroup) => peer::contains(folder, cgroup),
            None => Ok(false),
        };
        self.made_in.as_deref().map_or(Ok(true), made_in)
    }
}

/// Whether this kernel ends connections of others (`CONFIG_INET_DIAG_DESTROY`). Nothing is ended: it is asked for one that
/// nobody can have.
pub fn ends_connections() -> io::Result<bool> {
    let diagnosis = Socket::new(NETLINK_SOCK_DIAG)?;
    match destroy(&diagnosis, request(AF_INET, IPPROTO_TCP, SocketId::new_v4())) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A request for one socket, or for all that are connected.
fn request(family: u8, protocol: u8, socket_id: SocketId) -> InetRequest {
    let idle = StateFlags::LISTEN | StateFlags::CLOSE | StateFlags::TIME_WAIT;
    let states = StateFlags::all() - idle;
    InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states, socket_id }
}

/// Ends a connection. Says whether it was still there.
fn destroy(diagnosis: &Socket, request: InetRequest) -> io::Result<bool> {
    let message = SockDiagDestroy::new(SockDiagMessage::InetRequest(request));
    send(diagnosis, NLM_F_REQUEST | NLM_F_ACK, message)?;
    let mut answer = Vec::with_capacity(MESSAGE);
    receive(diagnosis, &mut answer)?;
    match NetlinkMessage::<SockDiagMessage>::deserialize(&answer).map_err(io::Error::other)?.payload {
        NetlinkPayload::Error(error) => match -error.raw_code() {
            0 => Ok(true),
            libc::ENOENT | libc::ESTALE => Ok(false),
            code => Err(io::Error::from_raw_os_error(code)),
        },
        _ => Err(io::Error::other("an answer that was not asked for")),
    }
}

/// Has the kernel tell of all sockets that are asked for.
fn list(
    diagnosis: &Socket,
    request: InetRequest,
    mut each: impl FnMut(InetResponse) -> io::Result<()>,
) -> io::Result<()> {
    send(diagnosis, NLM_F_REQUEST | NLM_F_DUMP, SockDiagMessage::InetRequest(request))?;
    let mut answer = Vec::with_capacity(MESSAGE);
    loop {
        answer.clear();
        receive(diagnosis, &mut answer)?;
        let mut rest = &answer[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => each(*response)?,
                NetlinkPayload::Done(_) => return Ok(()),
                // A kernel without `udp_diag` has nothing to tell.
                NetlinkPayload::Error(error) if error.raw_code() == -libc::ENOENT => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => return Err(io::Error::other("an answer that was not asked for")),
            }
            // Messages begin at multiples of four.
            let length = (message.header.length as usize).next_multiple_of(4).max(16);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn send<M>(diagnosis: &Socket, flags: u16, message: M) -> io::Result<()>
where
    M: NetlinkSerializable + Into<NetlinkPayload<M>>,
{
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, message.into());
    message.finalize();
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);
    diagnosis.send(&buffer, 0).map(drop)
}

fn receive(diagnosis: &Socket, answer: &mut Vec<u8>) -> io::Result<()> {
    let (_, sender) = diagnosis.recv_from(answer, 0)?;
    if sender.port_number() == 0 {
        Ok(())
    } else {
        Err(io::Error::other("somebody else than the kernel answers"))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream, UdpSocket},
    };

    use super::*;

    fn severance(address: &str, made_in: Option<PathBuf>) -> Severance {
        let ended = IntCounter::new("ended", "Ended.").expect("a good metric");
        Severance { addresses: vec![address.parse().expect("an address")], made_in, ended }
    }

    #[test]
    fn connections_to_an_address_end_and_others_go_on() {
        if !matches!(ends_connections(), Ok(true)) {
            return eprintln!("skipped: {:?}", ends_connections());
        }
        // Nobody else has anything to do with these.
        let (denied, allowed) = ("127.83.1.9", "127.83.1.10");
        let listen = |address| TcpListener::bind((address, 0)).expect("a free port");
        let listeners = [listen(denied), listen(allowed)];
        let [mut ended, mut lives] = listeners
            .each_ref()
            .map(|to| TcpStream::connect(to.local_addr().expect("bound")).expect("there"));
        let mapped = listeners[0].local_addr().expect("bound").port();
        let mut mapped = TcpStream::connect((format!("::ffff:{denied}").as_str(), mapped)).expect("there");
        let datagrams = UdpSocket::bind("0.0.0.0:0").expect("a free port");
        datagrams.connect((denied, 9)).expect("a route");

        let nowhere = tempfile::tempdir().expect("a temporary folder");
        let of_nobody = severance(denied, Some(nowhere.path().to_owned()));
        of_nobody.carry_out().expect("carried out");
        assert_eq!(of_nobody.ended.get(), 0, "they were made somewhere else");
        ended.write_all(b"x").expect("it lives");

        let severance = severance(denied, None);
        severance.carry_out().expect("carried out");
        // Two streams and the datagrams' socket: the streams' other ends are connected to where they come from.
        assert_eq!(severance.ended.get(), 3);
        for stream in [&mut ended, &mut mapped] {
            let error = stream.read(&mut [0]).expect_err("it was ended");
            assert_eq!(error.raw_os_error(), Some(libc::ECONNABORTED));
        }
        assert!(datagrams.send(b"x").is_err());
        lives.write_all(b"x").expect("it lives");
    }
}
