use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::outcome::unsupported;
use super::staged::pause;
use super::{PATIENCE, Target};

/// What version 1 of IMDS answers with the name of the node's role.
pub(super) const REQUEST: &[u8] = b"GET /latest/meta-data/iam/security-credentials/ HTTP/1.1\r\n\
    Host: 169.254.169.254\r\nConnection: close\r\n\r\n";

pub(super) fn tcp(target: &Target) -> io::Result<usize> {
    connect_and_fetch(&open(Domain::IPV4, Protocol::TCP)?, target.v4())
}

pub(super) fn tcp_mapped(target: &Target) -> io::Result<usize> {
    connect_and_fetch(&open(Domain::IPV6, Protocol::TCP)?, target.mapped())
}

pub(super) fn tcp_ipv6(target: &Target) -> io::Result<usize> {
    connect_and_fetch(&open(Domain::IPV6, Protocol::TCP)?, target.v6())
}

pub(super) fn tcp_fast_open(target: &Target) -> io::Result<usize> {
    fetch_with_first_packet(&open(Domain::IPV4, Protocol::TCP)?, target.v4())
}

pub(super) fn tcp_nonblocking(target: &Target) -> io::Result<usize> {
    let socket = open(Domain::IPV4, Protocol::TCP)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&target.v4().into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => return Err(error),
        _ => {}
    }
    let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    if poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], timeout)? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    socket.set_nonblocking(false)?;
    fetch(&socket)
}

pub(super) fn mptcp(target: &Target) -> io::Result<usize> {
    connect_and_fetch(&open_mptcp(Domain::IPV4)?, target.v4())
}

pub(super) fn mptcp_mapped(target: &Target) -> io::Result<usize> {
    connect_and_fetch(&open_mptcp(Domain::IPV6)?, target.mapped())
}

pub(super) fn mptcp_fast_open(target: &Target) -> io::Result<usize> {
    fetch_with_first_packet(&open_mptcp(Domain::IPV4)?, target.v4())
}

pub(super) fn preconnected(target: &Target) -> io::Result<usize> {
    connect_pause_and_fetch(&open(Domain::IPV4, Protocol::TCP)?, target.v4())
}

pub(super) fn preconnected_ipv6(target: &Target) -> io::Result<usize> {
    connect_pause_and_fetch(&open(Domain::IPV6, Protocol::TCP)?, target.v6())
}

pub(super) fn preopened(target: &Target) -> io::Result<usize> {
    let socket = open(Domain::IPV4, Protocol::TCP)?;
    pause()?;
    connect_and_fetch(&socket, target.v4())
}

/// Opens a stream socket whose every call ends within our patience: `SO_SNDTIMEO` bounds connect too.
pub(super) fn open(domain: Domain, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, Some(protocol))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

pub(super) fn connect_and_fetch(socket: &Socket, address: SocketAddr) -> io::Result<usize> {
    socket.connect(&address.into())?;
    fetch(socket)
}

fn connect_pause_and_fetch(socket: &Socket, address: SocketAddr) -> io::Result<usize> {
    socket.connect(&address.into())?;
    pause()?;
    fetch(socket)
}

/// Sends the request over a connected socket and counts the bytes of the answer.
pub(super) fn fetch(mut socket: &Socket) -> io::Result<usize> {
    socket.write_all(REQUEST)?;
    count_answer(socket)
}

fn open_mptcp(domain: Domain) -> io::Result<Socket> {
    open(domain, Protocol::MPTCP).map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPROTONOSUPPORT | Errno::ENOPROTOOPT | Errno::EINVAL) => unsupported("MPTCP", &error),
        _ => error,
    })
}

/// Sends the request with the call that opens the connection.
fn fetch_with_first_packet(socket: &Socket, address: SocketAddr) -> io::Result<usize> {
    let sent = socket.send_to_with_flags(REQUEST, &address.into(), libc::MSG_FASTOPEN);
    match sent {
        Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
            Err(unsupported("TCP fast open", &error))
        }
        Err(error) => Err(error),
        Ok(_) => count_answer(socket),
    }
}

/// Bytes that came before an error are bytes won, unless they are the gate's own answer.
fn count_answer(mut socket: &Socket) -> io::Result<usize> {
    let mut won = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => won.extend_from_slice(&buffer[..count]),
            Err(error) if won.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    if is_denial(&won) { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(won.len()) }
}

/// Whether it is what a gate answers to what the policy denies. IMDS has no such header.
fn is_denial(answer: &[u8]) -> bool {
    let head = String::from_utf8_lossy(answer);
    head.starts_with("HTTP/1.1 403 ") && head.lines().any(|line| line.starts_with("x-imds-guard-rule: "))
}
