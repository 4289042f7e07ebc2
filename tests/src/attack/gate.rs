//! Attacks on a gate itself: to ask it at its own port, to take that port, and to reach it from the neighbourhood.

use std::ffi::CString;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::frame::{SYN_ACK, checksum};
use super::packet::{ip_packet, is_from, payload, syn_to};
use super::{Outcome, PATIENCE, stream};

/// What came of trying to listen on a port, by the address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub address: IpAddr,
    /// Whether `SO_REUSEADDR` and `SO_REUSEPORT` were set.
    pub shared: bool,
    /// None: it was taken.
    pub error: Option<String>,
}

/// What a client saw of one request on a kept connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The peer's address, as the socket tells it.
    pub peer: SocketAddr,
    pub status: u16,
}

/// Asks for the role's name at an address and a port.
pub fn ask(address: SocketAddr) -> Outcome {
    let asked = stream::open(Domain::for_address(address), Protocol::TCP)
        .and_then(|socket| stream::connect_and_fetch(&socket, address));
    asked.into()
}

/// Sends a datagram to an address and a port, and waits for one.
pub fn ask_by_datagram(address: SocketAddr) -> Outcome {
    let asked = || -> io::Result<usize> {
        let socket = super::datagram::open(Domain::for_address(address))?;
        socket.connect(&address.into())?;
        socket.send(b"anybody there?")?;
        (&socket).read(&mut [0; 64])
    };
    asked().into()
}

/// Tries to listen on a port, in every way.
pub fn take_port(port: u16) -> Vec<Taken> {
    let addresses: [IpAddr; 4] = [
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv6Addr::LOCALHOST.into(),
        Ipv6Addr::UNSPECIFIED.into(),
    ];
    let ways = addresses.into_iter().flat_map(|address| [(address, false), (address, true)]);
    ways.map(|(address, shared)| {
        let error = listen((address, port).into(), shared).err().map(|error| error.to_string());
        Taken { address, shared, error }
    })
    .collect()
}

fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(shared)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    socket.listen(1)?;
    Ok(socket.into())
}

/// Has a conversation on one connection: for each path that `next` gives, a request, and what was said of it.
pub fn converse(
    address: SocketAddr,
    mut next: impl FnMut() -> Option<String>,
    mut told: impl FnMut(&Said) -> io::Result<()>,
) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(10 * PATIENCE))?;
    let peer = stream.peer_addr()?;
    while let Some(path) = next() {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")?;
        told(&Said { peer, status: read_answer(&mut stream)? })?;
    }
    Ok(())
}

/// Reads one answer to its end, and returns its status.
fn read_answer(stream: &mut TcpStream) -> io::Result<u16> {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&answer).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or_default()])?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Sends a SYN to a port of the loopback address through a device, past the routes: whoever gets it must have
/// `route_localnet` set to take it. The outcome is the length of the answer that opens the connection.
pub fn inject(device: &str, destination: [u8; 6], source: Ipv4Addr, port: u16) -> Outcome {
    injected(device, destination, source, port).into()
}

#[expect(unsafe_code, reason = "packet sockets have an address that no library makes")]
fn injected(device: &str, destination: [u8; 6], source: Ipv4Addr, port: u16) -> io::Result<usize> {
    let everything = link_number(libc::ETH_P_ALL).to_be();
    // SAFETY: a plain system call; the descriptor that it makes has no other owner.
    let packets = unsafe {
        let descriptor = libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM, i32::from(everything));
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(descriptor)
    };
    let index = if_nametoindex(CString::new(device)?.as_c_str())?;
    let mut link = libc::sockaddr_ll {
        sll_family: link_number(libc::AF_PACKET),
        sll_protocol: link_number(libc::ETH_P_IP).to_be(),
        sll_ifindex: i32::try_from(index).unwrap_or_default(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    link.sll_addr[..6].copy_from_slice(&destination);
    let segment = syn_to(source, Ipv4Addr::LOCALHOST, port);
    let mut packet = ip_packet(source, Ipv4Addr::LOCALHOST, &segment);
    complete_header(&mut packet);
    // SAFETY: the kernel reads `packet.len()` bytes of `packet` and `size_of_val(&link)` bytes of `link`.
    let sent = unsafe {
        libc::sendto(
            packets.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const link).cast(),
            u32::try_from(size_of_val(&link)).unwrap_or_default(),
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    await_answer(&Socket::from(packets), port)
}

/// The kernel's numbers of protocols and families are ints, and 16 bits in an address.
fn link_number(number: libc::c_int) -> u16 {
    u16::try_from(number).expect("a number of 16 bits")
}

/// The kernel completes nothing of what goes out through a packet socket.
fn complete_header(packet: &mut [u8]) {
    let length = u16::try_from(packet.len()).unwrap_or_default();
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn await_answer(mut socket: &Socket, port: u16) -> io::Result<usize> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; 2048];
    while Instant::now() < deadline {
        let length = socket.read(&mut buffer)?;
        let packet = &buffer[..length];
        let Some(segment) = payload(packet).filter(|_| is_from(packet, Ipv4Addr::LOCALHOST)) else {
            continue;
        };
        if segment.get(..2) == Some(&port.to_be_bytes()[..]) {
            match segment.get(13) {
                Some(&SYN_ACK) => return Ok(length),
                _ => return Err(io::Error::from_raw_os_error(libc::ECONNRESET)),
            }
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Holds many connections open without a word, until `enough`.
pub fn hold_connections(address: SocketAddr, count: usize, enough: impl FnOnce()) -> usize {
    let held: Vec<_> = (0..count)
        .map_while(|_| TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok())
        .collect();
    let count = held.len();
    enough();
    count
}
