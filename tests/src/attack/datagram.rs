use std::io::{self, IoSlice, Read as _};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use socket2::{Domain, Protocol, Socket, Type};

use super::staged::pause;
use super::{PATIENCE, Target};

const PAYLOAD: &[u8] = b"anybody there?";

pub(super) fn connected(target: &Target) -> io::Result<usize> {
    connect_and_send(&open(Domain::IPV4)?, target.v4())
}

pub(super) fn connected_ipv6(target: &Target) -> io::Result<usize> {
    connect_and_send(&open(Domain::IPV6)?, target.v6())
}

pub(super) fn unconnected(target: &Target) -> io::Result<usize> {
    send_to(&open(Domain::IPV4)?, target.v4())
}

pub(super) fn unconnected_mapped(target: &Target) -> io::Result<usize> {
    send_to(&open(Domain::IPV6)?, target.mapped())
}

pub(super) fn unconnected_ipv6(target: &Target) -> io::Result<usize> {
    send_to(&open(Domain::IPV6)?, target.v6())
}

pub(super) fn many_at_once(target: &Target) -> io::Result<usize> {
    let socket = open(Domain::IPV4)?;
    let messages = [[IoSlice::new(PAYLOAD)], [IoSlice::new(PAYLOAD)]];
    let addresses = [Some(SockaddrStorage::from(target.v4())); 2];
    let mut headers = MultiHeaders::preallocate(messages.len(), None);
    let nothing: [ControlMessage<'_>; 0] = [];
    sendmmsg(socket.as_raw_fd(), &mut headers, &messages, addresses, nothing, MsgFlags::empty())?;
    receive(&socket)
}

pub(super) fn preconnected(target: &Target) -> io::Result<usize> {
    let socket = open(Domain::IPV4)?;
    socket.connect(&target.v4().into())?;
    pause()?;
    send(&socket)
}

/// Opens a UDP socket whose every call ends within our patience.
pub(super) fn open(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn connect_and_send(socket: &Socket, address: SocketAddr) -> io::Result<usize> {
    socket.connect(&address.into())?;
    send(socket)
}

fn send(socket: &Socket) -> io::Result<usize> {
    socket.send(PAYLOAD)?;
    receive(socket)
}

fn send_to(socket: &Socket, address: SocketAddr) -> io::Result<usize> {
    socket.send_to(PAYLOAD, &address.into())?;
    receive(socket)
}

fn receive(mut socket: &Socket) -> io::Result<usize> {
    socket.read(&mut [0; 2048])
}
