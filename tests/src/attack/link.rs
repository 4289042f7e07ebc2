//! Packet sockets (`AF_PACKET`): frames go to a device as they are, past every hook that a socket passes.
//!
//! They need `CAP_NET_RAW`, which container runtimes give by default.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, SockAddr, Socket, Type};

use super::frame::{self, Ends, Mac, Segment, TCP, UDP};
use super::handmade::{self, Client, DATAGRAM};
use super::props::needed;
use super::staged::pause;
use super::{PATIENCE, Target};

/// The longest frame that is read.
const FRAME: usize = 4096;
const ETHERNET: usize = 14;

/// From the pod's own address, through the device on the way to IMDS.
pub(super) fn own_address(target: &Target) -> io::Result<usize> {
    Link::toward(target.ipv4)?.fetch(target.v4())
}

/// The same over IPv6.
pub(super) fn own_address_ipv6(target: &Target) -> io::Result<usize> {
    Link::toward(target.ipv4)?.fetch(target.v6())
}

/// Through another device.
pub(super) fn other_device(target: &Target) -> io::Result<usize> {
    let device = needed(target.props.device.as_ref(), "another device")?;
    Link::open(device, None)?.fetch(target.v4())
}

/// Past the queueing discipline, where programs of `tc` stand.
pub(super) fn without_queue(target: &Target) -> io::Result<usize> {
    let link = Link::toward(target.ipv4)?;
    link.pass_queue()?;
    link.fetch(target.v4())
}

/// The same with a socket that was ready before the pause.
pub(super) fn preopened_without_queue(target: &Target) -> io::Result<usize> {
    let link = Link::toward(target.ipv4)?;
    link.pass_queue()?;
    pause()?;
    link.fetch(target.v4())
}

/// The same over IPv6.
pub(super) fn preopened_without_queue_ipv6(target: &Target) -> io::Result<usize> {
    let link = Link::toward(target.ipv4)?;
    link.pass_queue()?;
    pause()?;
    link.fetch(target.v6())
}

/// The same with an empty VLAN tag on each frame.
pub(super) fn preopened_without_queue_tagged(target: &Target) -> io::Result<usize> {
    let link = Link::toward(target.ipv4)?;
    link.pass_queue()?;
    pause()?;
    link.fetch_tagged(target.v4())
}

/// With an empty VLAN tag on each frame.
pub(super) fn tagged(target: &Target) -> io::Result<usize> {
    Link::toward(target.ipv4)?.fetch_tagged(target.v4())
}

/// In the name of somebody else: one datagram. Its answer goes to whom it names, and is heard where it comes by here.
pub(super) fn spoofed(target: &Target) -> io::Result<usize> {
    let claimed = needed(target.props.claim, "an address of somebody else")?;
    let link = Link::toward(target.ipv4)?;
    let ends = Ends { own: (claimed, handmade::port_of_nobody()).into(), peer: target.v4() };
    link.send(&frame::ip(ends, UDP, &frame::datagram(ends, DATAGRAM)))?;
    link.hear_datagram(ends)
}

/// In the name of a neighbour, whose address it tells the router to be its own.
pub(super) fn arp_spoofed(target: &Target) -> io::Result<usize> {
    let claimed = needed(target.props.claim, "an address of somebody else")?;
    let link = Link::toward(target.ipv4)?;
    // The router believes the sender of a question at once, and that of an answer only after a while.
    link.socket.send(&frame::arp_request(link.own, claimed, link.gateway_address))?;
    let client = Client::in_the_name_of((claimed, handmade::port_of_nobody()).into(), target.v4());
    link.fetch_as(&client)
}

/// A packet socket on one device, and who is at the other end of the link.
pub(super) struct Link {
    socket: Socket,
    device: String,
    own: Mac,
    gateway: Mac,
    gateway_address: Ipv4Addr,
}

impl Link {
    /// The link that leads to `destination`.
    pub(super) fn toward(destination: Ipv4Addr) -> io::Result<Self> {
        let (device, gateway) = way_to(destination)?;
        Self::open(&device, Some(gateway))
    }

    /// The link of `device`, whose far end has the address `gateway`, or the first that is known there.
    fn open(device: &str, gateway: Option<Ipv4Addr>) -> io::Result<Self> {
        // Without a protocol it hears nothing until it is bound.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.bind(&packet_address(device)?)?;
        let own = own_mac(device)?;
        let (gateway_address, gateway) = neighbour(device, gateway)?;
        Ok(Self { socket, device: device.to_owned(), own, gateway, gateway_address })
    }

    /// The device's name.
    pub(super) fn device(&self) -> &str {
        &self.device
    }

    /// The device's own address in the family of `peer`.
    pub(super) fn address(&self, peer: SocketAddr) -> io::Result<IpAddr> {
        address_of(&self.device, peer)
    }

    /// A client at the device's own address.
    pub(super) fn client(&self, peer: SocketAddr) -> io::Result<Client> {
        Client::new(self.address(peer)?, peer)
    }

    /// An IP packet in a frame for the far end of the link.
    pub(super) fn frame(&self, packet: &[u8]) -> Vec<u8> {
        frame::ethernet(self.own, self.gateway, packet)
    }

    /// Sends an IP packet to the far end of the link.
    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.socket.send(&self.frame(packet)).map(drop)
    }

    /// Sends a TCP segment to the far end of the link, in a packet with nothing special about it.
    pub(super) fn send_segment(&self, ends: Ends, segment: &Segment) -> io::Result<()> {
        self.send(&frame::ip(ends, TCP, &segment.to_bytes(ends)))
    }

    /// Has its frames handed to the device at once, past `tc`.
    fn pass_queue(&self) -> io::Result<()> {
        set_option(&self.socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1_i32.to_ne_bytes())
    }

    /// The first packet of which `read` makes something.
    fn hear<T>(&self, deadline: Instant, read: impl Fn(&[u8]) -> Option<T>) -> io::Result<T> {
        let mut buffer = [0; FRAME];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left))?;
            let length = (&self.socket).read(&mut buffer)?;
            if let Some(found) = buffer.get(ETHERNET..length).and_then(&read) {
                return Ok(found);
            }
        }
    }

    /// Waits for a datagram from the peer.
    pub(super) fn hear_datagram(&self, ends: Ends) -> io::Result<usize> {
        self.hear(Instant::now() + PATIENCE, |packet| {
            frame::datagram_from_packet(packet, ends).map(<[u8]>::len)
        })
    }

    /// Waits for a segment from the peer.
    pub(super) fn hear_segment(&self, ends: Ends, deadline: Instant) -> io::Result<Segment> {
        self.hear(deadline, |packet| Segment::from_packet(packet, ends))
    }

    /// Asks by TCP, from the device's own address, in packets with nothing special about them.
    fn fetch(&self, peer: SocketAddr) -> io::Result<usize> {
        self.fetch_as(&self.client(peer)?)
    }

    /// The same with an empty VLAN tag on each frame.
    fn fetch_tagged(&self, peer: SocketAddr) -> io::Result<usize> {
        self.fetch_in(&self.client(peer)?, |ends, segment| {
            let packet = frame::ip(ends, TCP, &segment.to_bytes(ends));
            self.socket.send(&frame::tagged(self.own, self.gateway, &packet)).map(drop)
        })
    }

    /// The same as somebody.
    fn fetch_as(&self, client: &Client) -> io::Result<usize> {
        self.fetch_in(client, |ends, segment| self.send_segment(ends, segment))
    }

    /// Asks by TCP. `send` gets the segments on their way, and this link hears the answers.
    pub(super) fn fetch_in(
        &self,
        client: &Client,
        send: impl Fn(Ends, &Segment) -> io::Result<()>,
    ) -> io::Result<usize> {
        handmade::fetch(client, send, |deadline| self.hear_segment(client.ends(), deadline))
    }
}

/// The device on the way to `destination`, and the address of the router.
pub(super) fn way_to(destination: Ipv4Addr) -> io::Result<(String, Ipv4Addr)> {
    let routes = fs::read_to_string("/proc/net/route")?;
    best_route(&routes, destination).ok_or_else(no_way)
}

/// The address of a device in the family of `peer`.
pub(super) fn address_of(device: &str, peer: SocketAddr) -> io::Result<IpAddr> {
    let own = getifaddrs()?.filter(|interface| interface.interface_name == device);
    own.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    })
    .find(|address| address.is_ipv4() == peer.is_ipv4() && !is_link_local(*address))
    .ok_or_else(no_way)
}

/// A UDP socket on a port of its own of the address `own`: for what it hears, or to keep the port.
pub(super) fn held_port(own: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((own, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Sets an option of a socket to the bytes of its value.
#[expect(unsafe_code, reason = "these options have no wrapper")]
pub(super) fn set_option(socket: &impl AsRawFd, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    let length = u32::try_from(value.len()).unwrap_or_default();
    // SAFETY: the kernel reads `length` bytes of `value`, which has as many.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.as_ptr().cast(), length) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn no_way() -> io::Error {
    io::Error::other("no way to IMDS is known")
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[expect(unsafe_code, reason = "packet sockets have an address that no library makes")]
fn packet_address(device: &str) -> io::Result<SockAddr> {
    let index = if_nametoindex(CString::new(device)?.as_c_str())?;
    // SAFETY: the storage is large enough for every address, all zeroes are a valid one, and the length is that of
    // the address which is written.
    let (result, address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = storage.cast::<libc::sockaddr_ll>();
            (*link).sll_family = link_number(libc::AF_PACKET);
            (*link).sll_protocol = link_number(libc::ETH_P_ALL).to_be();
            (*link).sll_ifindex = i32::try_from(index).unwrap_or_default();
            *length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default();
            Ok(())
        })?
    };
    let () = result;
    Ok(address)
}

/// The kernel's numbers of protocols and families are ints, and 16 bits in an address.
fn link_number(number: libc::c_int) -> u16 {
    u16::try_from(number).expect("a number of 16 bits")
}

fn own_mac(device: &str) -> io::Result<Mac> {
    getifaddrs()?
        .filter(|interface| interface.interface_name == device)
        .find_map(|interface| interface.address?.as_link_addr()?.addr())
        .ok_or_else(no_way)
}

/// A neighbour, the first that is known if it has no name; the kernel is made to ask for it if it must.
fn neighbour(device: &str, wanted: Option<Ipv4Addr>) -> io::Result<(Ipv4Addr, Mac)> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let neighbours = fs::read_to_string("/proc/net/arp")?;
        if let Some(found) = find_neighbour(&neighbours, device, wanted) {
            return Ok(found);
        }
        if let Some(wanted) = wanted {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(b"?", (wanted, 9))?;
        }
        std::thread::yield_now();
    }
    Err(io::Error::other(format!("no neighbour is heard on {device}")))
}

/// Device and gateway of the narrowest route in `/proc/net/route` that leads to `destination`.
fn best_route(routes: &str, destination: Ipv4Addr) -> Option<(String, Ipv4Addr)> {
    let narrowest = routes
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let number = |field: usize| u32::from_str_radix(fields.get(field)?, 16).ok().map(u32::swap_bytes);
            let (network, gateway, mask) = (number(1)?, number(2)?, number(7)?);
            (destination.to_bits() & mask == network).then(|| (mask, (*fields[0]).to_owned(), gateway))
        })
        .max()?;
    let (_, device, gateway) = narrowest;
    Some((device, Ipv4Addr::from_bits(gateway)))
}

/// A neighbour in `/proc/net/arp`.
fn find_neighbour(neighbours: &str, device: &str, wanted: Option<Ipv4Addr>) -> Option<(Ipv4Addr, Mac)> {
    neighbours.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let address: Ipv4Addr = fields.first()?.parse().ok()?;
        let bytes: Vec<u8> =
            fields.get(3)?.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        let mac: Mac = bytes.try_into().ok()?;
        let fits = fields.last() == Some(&device) && wanted.is_none_or(|wanted| wanted == address);
        (fits && mac != [0; 6]).then_some((address, mac))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_is_read_as_the_kernel_writes_it() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            uplink\tFEA9FEA9\t0200000A\t0007\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n";
        let imds = Ipv4Addr::new(169, 254, 169, 254);
        assert_eq!(best_route(routes, imds), Some(("uplink".to_owned(), Ipv4Addr::new(10, 0, 0, 2))));
        let elsewhere = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(best_route(routes, elsewhere), Some(("eth0".to_owned(), Ipv4Addr::new(10, 0, 0, 1))));
        let neighbours = "IP address       HW type     Flags       HW address            Mask     Device\n\
            10.0.0.1         0x1         0x0         00:00:00:00:00:00     *        eth0\n\
            10.0.0.2         0x1         0x6         02:00:00:00:00:02     *        uplink\n";
        let far_end = Ipv4Addr::new(10, 0, 0, 2);
        let found = Some((far_end, [2, 0, 0, 0, 0, 2]));
        assert_eq!(find_neighbour(neighbours, "uplink", Some(far_end)), found);
        assert_eq!(find_neighbour(neighbours, "uplink", None), found);
        assert_eq!(find_neighbour(neighbours, "eth0", Some(far_end)), None);
        assert_eq!(find_neighbour(neighbours, "eth0", None), None);
    }
}
