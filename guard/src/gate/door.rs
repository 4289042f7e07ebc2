//! Opens the sockets of gates: a thread that enters the network namespace of a sandbox, opens there what a gate needs, or
//! ends the connections that are not to be any more, and goes back to the host's. It serves nobody; sockets stay in the namespace in which they were opened.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use guard_common::{Gate, NamespaceCookie};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};

use super::{peer, sever::Severance};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;

/// What a gate listens with, all of it in the pod's network namespace.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) gate: Gate,
    pub(super) v4: Socket,
    /// A host without IPv6 has none.
    pub(super) v6: Option<Socket>,
    /// Tells who is at the other end of a connection.
    pub(super) diagnosis: netlink_sys::Socket,
}

/// Why a gate could not be opened, or none can.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    #[error("open the host's network namespace {path}")]
    Host {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("enter a network namespace")]
    Enter(#[source] io::Error),
    #[error("ask for the id of a network namespace, which Linux tells from 5.14 on")]
    Cookie(#[source] io::Error),
    #[error("open a listener")]
    Listen(#[source] io::Error),
    #[error("no free port was found")]
    Ports,
    #[error("open a socket that tells about others")]
    Diagnosis(#[source] io::Error),
    #[error("the kernel does not tell whose a socket is: it needs inet_diag and tcp_diag")]
    Peers,
    #[error("end old connections")]
    Sever(#[source] io::Error),
    #[error("start a thread")]
    Thread(#[source] io::Error),
    #[error("the thread that opens gates has ended")]
    Ended,
}

/// The thread's other side.
#[derive(Debug)]
pub(super) struct Doorkeeper {
    orders: mpsc::Sender<Order>,
    pub(super) host: NamespaceCookie,
}

/// What is to be done in a network namespace.
struct Order {
    namespace: File,
    errand: Errand,
}

enum Errand {
    /// Open a gate at the first of some ports that is free.
    Open { ports: Vec<u16>, done: mpsc::SyncSender<Result<Door, DoorError>> },
    /// End connections. Nobody waits for it.
    Sever(Severance),
}

/// Opens a network namespace, whose path may be the host's `/proc/1/ns/net`.
pub(super) fn open_host(path: &Path) -> Result<File, DoorError> {
    File::open(path).map_err(|source| DoorError::Host { path: path.to_owned(), source })
}

/// Moves the calling thread, for good or until the next call.
pub(super) fn enter(namespace: &File) -> Result<(), DoorError> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| DoorError::Enter(error.into()))
}

impl Doorkeeper {
    /// Starts the thread, in the host's namespace. It ends when this is dropped.
    pub(super) fn start(host: File) -> Result<Self, DoorError> {
        let (orders, queue) = mpsc::channel::<Order>();
        let (tell, told) = mpsc::sync_channel(1);
        let work = move || {
            let at_home = enter(&host).and_then(|()| tells_peers()).and_then(|()| cookie());
            let is_home = at_home.is_ok();
            // Whoever started this waits for it.
            let _ = tell.send(at_home);
            for Order { namespace, errand } in queue.iter().take_while(|_| is_home) {
                let entered = enter(&namespace);
                // Staying would keep the namespace alive after its pod.
                drop(namespace);
                match errand {
                    Errand::Open { ports, done } => {
                        let door = entered.and_then(|()| open(&ports));
                        let back = enter(&host);
                        let _ = done.send(back.and(door));
                    }
                    Errand::Sever(severance) => {
                        let severed = entered.and_then(|()| severance.carry_out().map_err(DoorError::Sever));
                        if let Err(error) = enter(&host).and(severed) {
                            let error = crate::agent::chain(&error);
                            tracing::warn!(error, "old connections of a pod are not ended: they hang");
                        }
                    }
                }
            }
        };
        thread::Builder::new().name("gate-opener".to_owned()).spawn(work).map_err(DoorError::Thread)?;
        let host = told.recv().map_err(|_| DoorError::Ended)??;
        Ok(Self { orders, host })
    }

    /// Opens a gate in `namespace`, at the first of `ports` that is free there.
    pub(super) fn open(&self, namespace: File, ports: Vec<u16>) -> Result<Door, DoorError> {
        let (done, outcome) = mpsc::sync_channel(1);
        let errand = Errand::Open { ports, done };
        self.orders.send(Order { namespace, errand }).map_err(|_| DoorError::Ended)?;
        outcome.recv().map_err(|_| DoorError::Ended)?
    }

    /// Ends connections in `namespace`, soon.
    pub(super) fn sever(&self, namespace: File, severance: Severance) -> Result<(), DoorError> {
        let errand = Errand::Sever(severance);
        self.orders.send(Order { namespace, errand }).map_err(|_| DoorError::Ended)
    }
}

fn open(ports: &[u16]) -> Result<Door, DoorError> {
    let namespace = cookie()?;
    let diagnosis = netlink_sys::Socket::new(NETLINK_SOCK_DIAG).map_err(DoorError::Diagnosis)?;
    for port in ports {
        let v4 = match listen(IpAddr::V4(Ipv4Addr::LOCALHOST), *port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
            listening => listening.map_err(DoorError::Listen)?,
        };
        let v6 = match listen(IpAddr::V6(Ipv6Addr::LOCALHOST), *port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            listening => Some(listening.map_err(DoorError::Listen)?),
        };
        return Ok(Door { gate: Gate { namespace, port: *port }, v4, v6, diagnosis });
    }
    Err(DoorError::Ports)
}

/// Opens a listener on a loopback address that may still be missing, in a sandbox that has just been made. Bound to the
/// device: else whoever can send packets to the pod could reach it where `route_localnet` is set. Nobody else may
/// share the port, so neither `SO_REUSEADDR` nor `SO_REUSEPORT` is set.
fn listen(address: IpAddr, port: u16) -> io::Result<Socket> {
    let address = SocketAddr::new(address, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.bind_device(Some(b"lo"))?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// A gate that can't know who asks answers nobody: better none than that.
fn tells_peers() -> Result<(), DoorError> {
    let diagnosis = netlink_sys::Socket::new(NETLINK_SOCK_DIAG).map_err(DoorError::Diagnosis)?;
    match peer::probe(&diagnosis) {
        Ok(true) => Ok(()),
        Ok(false) => Err(DoorError::Peers),
        Err(error) => Err(DoorError::Diagnosis(error)),
    }
}

/// The id of the namespace that the calling thread is in.
pub fn own_namespace() -> io::Result<NamespaceCookie> {
    namespace_of(Socket::new(Domain::UNIX, Type::DGRAM, None)?)
}

fn cookie() -> Result<NamespaceCookie, DoorError> {
    own_namespace().map_err(DoorError::Cookie)
}

/// The id of the namespace that a socket is in (`SO_NETNS_COOKIE`, Linux 5.14).
fn namespace_of(socket: impl AsFd) -> io::Result<NamespaceCookie> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of_val(&cookie)).expect("eight bytes");
    #[expect(unsafe_code, reason = "no library has this socket option")]
    // SAFETY: the descriptor is open as long as `socket` is borrowed; the kernel writes at most `length` bytes to
    // `cookie`, and the number it wrote to `length`.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if outcome == 0 { Ok(NamespaceCookie(cookie)) } else { Err(io::Error::last_os_error()) }
}
