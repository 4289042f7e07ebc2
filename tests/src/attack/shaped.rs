//! Packets that are not what a filter expects: in pieces, with longer headers, or on a way round.

use std::io;
use std::net::IpAddr;

use socket2::{Domain, Protocol, Socket, Type};

use super::frame::{self, Ends, Segment, TCP};
use super::handmade::DATAGRAM;
use super::link::{Link, held_port, set_option};
use super::props::needed;
use super::{PATIENCE, Target};

/// The IPv6 extension header that is a routing header.
const ROUTING: u8 = 43;
/// The IPv4 option that does nothing.
const NOTHING: u8 = 1;

/// Every packet in pieces.
pub(super) fn fragments(target: &Target) -> io::Result<usize> {
    let link = Link::toward(target.ipv4)?;
    link.fetch_in(&link.client(target.v4())?, |ends, segment| {
        pieces(ends, segment).iter().try_for_each(|piece| link.send(piece))
    })
}

/// The same through a raw socket.
pub(super) fn raw_fragments(target: &Target) -> io::Result<usize> {
    let link = Link::toward(target.ipv4)?;
    let sender = whole_packets()?;
    link.fetch_in(&link.client(target.v4())?, |ends, segment| {
        pieces(ends, segment).iter().try_for_each(|piece| sender.send_to(piece, &ends.peer.into()).map(drop))
    })
}

fn pieces(ends: Ends, segment: &Segment) -> Vec<Vec<u8>> {
    // Other for every segment of a conversation, and for those who share an address.
    let [_, _, high, low] = segment.acknowledged.wrapping_add(segment.sequence << 4).to_be_bytes();
    let packet = frame::ip(ends, TCP, &segment.to_bytes(ends));
    frame::fragments(&packet, u16::from_be_bytes([high, low]) ^ ends.own.port())
}

/// With options in the IP header, so that the ports are elsewhere.
pub(super) fn options(target: &Target) -> io::Result<usize> {
    let link = Link::toward(target.ipv4)?;
    link.fetch_in(&link.client(target.v4())?, |ends, segment| link.send(&with_options(ends, segment)))
}

/// The same through a raw socket.
pub(super) fn raw_options(target: &Target) -> io::Result<usize> {
    let link = Link::toward(target.ipv4)?;
    let sender = whole_packets()?;
    link.fetch_in(&link.client(target.v4())?, |ends, segment| {
        sender.send_to(&with_options(ends, segment), &ends.peer.into()).map(drop)
    })
}

fn with_options(ends: Ends, segment: &Segment) -> Vec<u8> {
    let (IpAddr::V4(own), IpAddr::V4(peer)) = (ends.own.ip(), ends.peer.ip()) else { return Vec::new() };
    frame::ipv4(own, peer, TCP, &[NOTHING; 40], &segment.to_bytes(ends))
}

/// A datagram to the node, which is to send it on to IMDS. What a raw socket sends so is addressed to the node.
pub(super) fn source_route(target: &Target) -> io::Result<usize> {
    let router = needed(target.props.router, "a router")?;
    let link = Link::toward(target.ipv4)?;
    let sender = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_UDP)))?;
    set_option(&sender, libc::IPPROTO_IP, libc::IP_OPTIONS, &frame::source_route(router))?;
    let own = held_port(link.address(target.v4())?)?;
    let ends = Ends { own: own.local_addr()?, peer: target.v4() };
    sender.send_to(&frame::datagram(ends, DATAGRAM), &target.v4().into())?;
    link.hear_datagram(ends)
}

/// An IPv6 packet to the node, with a routing header that names IMDS.
pub(super) fn routing_header(kind: u8, target: &Target) -> io::Result<usize> {
    let router = needed(target.props.router_ipv6, "a router")?;
    let link = Link::toward(target.ipv4)?;
    let client = link.client(target.v6())?;
    let IpAddr::V6(own) = client.ends().own.ip() else { return Err(io::ErrorKind::AddrNotAvailable.into()) };
    link.fetch_in(&client, |ends, segment| {
        let payload = frame::routed(kind, router, target.ipv6, TCP, &segment.to_bytes(ends));
        link.send(&frame::ipv6(own, router, ROUTING, &payload))
    })
}

/// A raw socket that sends whole packets.
fn whole_packets() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}
