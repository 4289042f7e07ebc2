//! Packets in packets: addressed to the node, which unwraps them and sends on what was in them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use super::Target;
use super::frame::{self, Ends, Mac, UDP};
use super::handmade::{DATAGRAM, port_of_nobody};
use super::link::{Link, address_of, held_port, way_to};
use super::props::needed;

/// The VXLAN that the node takes part in.
pub const VXLAN: u32 = 42;
/// The port on which the node takes what is in it.
pub const VXLAN_PORT: u16 = 4789;
/// The node's hardware address in it.
pub const VXLAN_MAC: Mac = [2, 0, 0, 0, 0x42, 0x42];

/// In VXLAN, as overlays of many CNIs: a plain UDP socket is enough, for sending and, if the answer comes to us, for
/// hearing it.
pub(super) fn vxlan(target: &Target) -> io::Result<usize> {
    let router = needed(target.props.router, "a router")?;
    let inner = Inner::new(router, target)?;
    let packet = frame::ip(inner.ends, UDP, &frame::datagram(inner.ends, DATAGRAM));
    let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    sender.send_to(&frame::vxlan(VXLAN, [2, 0, 0, 0, 0, 9], VXLAN_MAC, &packet), (router, VXLAN_PORT))?;
    inner.hear()
}

/// In IPv4 once more.
pub(super) fn ipip(target: &Target) -> io::Result<usize> {
    let router = needed(target.props.router, "a router")?;
    let inner = Inner::new(router, target)?;
    let packet = frame::ip(inner.ends, UDP, &frame::datagram(inner.ends, DATAGRAM));
    let sender = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_IPIP)))?;
    sender.send_to(&packet, &SocketAddr::from((router, 0)).into())?;
    inner.hear()
}

/// Whose the packet inside is, and where its answer is heard.
struct Inner {
    ends: Ends,
    ear: Ear,
}

enum Ear {
    Socket(UdpSocket),
    Link(Link),
    /// The answer goes elsewhere.
    None,
}

impl Inner {
    /// The router would not send on what comes from an address of its own: who shares it takes one of somebody else.
    fn new(router: Ipv4Addr, target: &Target) -> io::Result<Self> {
        let (device, _) = way_to(target.ipv4)?;
        let own = address_of(&device, target.v4())?;
        if own == IpAddr::V4(router) {
            let claimed = needed(target.props.claim, "an address of somebody else")?;
            let ends = Ends { own: (claimed, port_of_nobody()).into(), peer: target.v4() };
            return Ok(Self { ends, ear: Link::toward(target.ipv4).map_or(Ear::None, Ear::Link) });
        }
        let socket = held_port(own)?;
        Ok(Self { ends: Ends { own: socket.local_addr()?, peer: target.v4() }, ear: Ear::Socket(socket) })
    }

    fn hear(&self) -> io::Result<usize> {
        match &self.ear {
            Ear::Socket(socket) => socket.recv(&mut [0; 64]),
            Ear::Link(link) => link.hear_datagram(self.ends),
            Ear::None => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
