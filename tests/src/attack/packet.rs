use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process;
use std::time::Instant;

use nix::ifaddrs::getifaddrs;
use socket2::{Domain, Protocol, Socket, Type};

use super::frame::{SYN, SYN_ACK, checksum};
use super::handmade::port_of_nobody;
use super::{PATIENCE, Target};

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
/// The protocol of raw sockets that send whole packets, `IPPROTO_RAW`.
const WHOLE_PACKETS: i32 = 255;

pub(super) fn raw_tcp(target: &Target) -> io::Result<usize> {
    let socket = open(Domain::IPV4, Type::RAW, Protocol::TCP)?;
    socket.send_to(&syn(own_address()?, target), &target.v4().into())?;
    await_syn_ack(&socket, target)
}

pub(super) fn raw_with_ip_header(target: &Target) -> io::Result<usize> {
    let listener = open(Domain::IPV4, Type::RAW, Protocol::TCP)?;
    let sender = open(Domain::IPV4, Type::RAW, Protocol::from(WHOLE_PACKETS))?;
    let source = own_address()?;
    let segment = syn(source, target);
    sender.send_to(&ip_packet(source, target.ipv4, &segment), &target.v4().into())?;
    await_syn_ack(&listener, target)
}

pub(super) fn ping_socket(target: &Target) -> io::Result<usize> {
    let socket = open(Domain::IPV4, Type::DGRAM, Protocol::ICMPV4)?;
    socket.send_to(&echo_request(ECHO_REQUEST), &target.v4().into())?;
    receive(&socket, |message| message.first() == Some(&ECHO_REPLY))
}

pub(super) fn raw_ping(target: &Target) -> io::Result<usize> {
    let socket = open(Domain::IPV4, Type::RAW, Protocol::ICMPV4)?;
    socket.send_to(&echo_request(ECHO_REQUEST), &target.v4().into())?;
    receive(&socket, |packet| {
        is_from(packet, target.ipv4) && payload(packet).is_some_and(|icmp| icmp.first() == Some(&ECHO_REPLY))
    })
}

/// Here the kernel writes the checksum, and hands over what follows the IP header. Echoes to others in the same network
/// come in as well: ours bears our mark.
pub(super) fn raw_ping_ipv6(target: &Target) -> io::Result<usize> {
    let socket = open(Domain::IPV6, Type::RAW, Protocol::ICMPV6)?;
    let request = echo_request(ECHO_REQUEST_V6);
    // The port of a raw IPv6 address is a protocol number.
    socket.send_to(&request, &SocketAddr::from((target.ipv6, 0)).into())?;
    receive(&socket, |message| {
        message.first() == Some(&ECHO_REPLY_V6) && message.get(4..8) == request.get(4..8)
    })
}

fn open(domain: Domain, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(domain, kind, Some(protocol))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn await_syn_ack(socket: &Socket, target: &Target) -> io::Result<usize> {
    receive(socket, |packet| {
        is_from(packet, target.ipv4)
            && payload(packet).is_some_and(|segment| {
                segment.get(..2) == Some(&target.port.to_be_bytes())
                    && segment.get(2..4) == Some(&port_of_nobody().to_be_bytes())
                    && segment.get(13) == Some(&SYN_ACK)
            })
    })
}

/// The length of the first packet that is `wanted`: a raw socket hears those of everybody.
fn receive(mut socket: &Socket, wanted: impl Fn(&[u8]) -> bool) -> io::Result<usize> {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; 2048];
    while Instant::now() < deadline {
        let length = socket.read(&mut buffer)?;
        if wanted(&buffer[..length]) {
            return Ok(length);
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// The first address that is not loopback's. Asking the kernel for a route would be an attempt of its own.
fn own_address() -> io::Result<Ipv4Addr> {
    getifaddrs()?
        .filter_map(|interface| interface.address?.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip))
        .find(|address| !address.is_loopback())
        .ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "no IPv4 address of our own"))
}

fn syn(source: Ipv4Addr, target: &Target) -> Vec<u8> {
    syn_to(source, target.ipv4, target.port)
}

pub(super) fn syn_to(source: Ipv4Addr, destination: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[0..2].copy_from_slice(&port_of_nobody().to_be_bytes());
    segment[2..4].copy_from_slice(&port.to_be_bytes());
    segment[4..8].copy_from_slice(&process::id().to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = SYN;
    segment[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let pseudo_header = [&source.octets()[..], &destination.octets(), &[0, 6, 0, 20]].concat();
    let sum = checksum(&[pseudo_header, segment.clone()].concat());
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// The kernel fills in the length, the identification and the checksum.
pub(super) fn ip_packet(source: Ipv4Addr, destination: Ipv4Addr, segment: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[0] = 4 << 4 | 5;
    header[8] = 64;
    header[9] = 6;
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    [header, segment.to_vec()].concat()
}

fn echo_request(kind: u8) -> Vec<u8> {
    let mut message = vec![0; 16];
    message[0] = kind;
    message[4..8].copy_from_slice(&process::id().to_be_bytes());
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

pub(super) fn is_from(packet: &[u8], source: Ipv4Addr) -> bool {
    packet.get(12..16) == Some(&source.octets())
}

/// What follows the IP header.
pub(super) fn payload(packet: &[u8]) -> Option<&[u8]> {
    let words = usize::from(packet.first()? & 0x0f);
    packet.get(4 * words..)
}
