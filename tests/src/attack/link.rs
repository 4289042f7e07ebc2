//! Packet sockets (`AF_PACKET`): frames go to a device as they are, past every hook that a socket passes.
//!
//! They need `CAP_NET_RAW`, which container runtimes give by default.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, SockAddr, Socket, Type};

use super::frame::{self, Ends, Mac, Segment, TCP};
use super::handmade::{self, Client};
use super::{PATIENCE, Target};

/// The longest frame that is read.
const FRAME: usize = 4096;
const ETHERNET: usize = 14;

/// From the pod's own address, through the device on the way to IMDS.
pub(super) fn own_address(target: &Target) -> io::Result<usize> {
    let link = Link::toward(target.ipv4)?;
    link.fetch(&Client::new(link.address(target.v4())?, target.v4())?)
}

/// The same over IPv6.
pub(super) fn own_address_ipv6(target: &Target) -> io::Result<usize> {
    let link = Link::toward(target.ipv4)?;
    link.fetch(&Client::new(link.address(target.v6())?, target.v6())?)
}

/// A packet socket on one device, and who is at the other end of the link.
pub(super) struct Link {
    socket: Socket,
    device: String,
    own: Mac,
    gateway: Mac,
}

impl Link {
    /// The link that leads to `destination`.
    pub(super) fn toward(destination: Ipv4Addr) -> io::Result<Self> {
        let routes = fs::read_to_string("/proc/net/route")?;
        let (device, gateway) = best_route(&routes, destination).ok_or_else(no_way)?;
        Self::open(&device, gateway)
    }

    /// The link of `device`, whose far end has the address `gateway`.
    fn open(device: &str, gateway: Ipv4Addr) -> io::Result<Self> {
        // Without a protocol it hears nothing until it is bound.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.bind(&packet_address(device)?)?;
        let own = own_mac(device)?;
        let gateway = mac_of(device, gateway)?;
        Ok(Self { socket, device: device.to_owned(), own, gateway })
    }

    /// The device's own address in the family of `peer`.
    pub(super) fn address(&self, peer: SocketAddr) -> io::Result<IpAddr> {
        let own = getifaddrs()?.filter(|interface| interface.interface_name == self.device);
        own.filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        .find(|address| address.is_ipv4() == peer.is_ipv4() && !is_link_local(*address))
        .ok_or_else(no_way)
    }

    /// Sends an IP packet to the far end of the link.
    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.socket.send(&frame::ethernet(self.own, self.gateway, packet)).map(drop)
    }

    /// The first packet of which `read` makes something.
    pub(super) fn hear<T>(&self, deadline: Instant, read: impl Fn(&[u8]) -> Option<T>) -> io::Result<T> {
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

    /// Asks by TCP, in packets with nothing special about them.
    fn fetch(&self, client: &Client) -> io::Result<usize> {
        self.fetch_in(client, |ends, segment| self.send(&frame::ip(ends, TCP, &segment.to_bytes(ends))))
    }

    /// Asks by TCP. `send` gets the segments on their way, and this link hears the answers.
    pub(super) fn fetch_in(
        &self,
        client: &Client,
        send: impl Fn(Ends, &Segment) -> io::Result<()>,
    ) -> io::Result<usize> {
        let ends = client.ends();
        let hear = |deadline| self.hear(deadline, |packet| Segment::from_packet(packet, ends));
        handmade::fetch(client, send, hear)
    }
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

/// The hardware address of a neighbour; the kernel is made to ask for it if it must.
fn mac_of(device: &str, neighbour: Ipv4Addr) -> io::Result<Mac> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let neighbours = fs::read_to_string("/proc/net/arp")?;
        if let Some(mac) = find_mac(&neighbours, device, neighbour) {
            return Ok(mac);
        }
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(b"?", (neighbour, 9))?;
        std::thread::yield_now();
    }
    Err(io::Error::other(format!("{neighbour} is not heard on {device}")))
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

/// The hardware address in `/proc/net/arp`.
fn find_mac(neighbours: &str, device: &str, neighbour: Ipv4Addr) -> Option<Mac> {
    let wanted = neighbour.to_string();
    let line = neighbours
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&&*wanted) && fields.last() == Some(&device))?;
    let bytes: Vec<u8> =
        line.get(3)?.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().ok().filter(|mac| *mac != [0; 6])
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
        let mac = |device, last| find_mac(neighbours, device, Ipv4Addr::new(10, 0, 0, last));
        assert_eq!(mac("uplink", 2), Some([2, 0, 0, 0, 0, 2]));
        assert_eq!((mac("eth0", 1), mac("eth0", 2)), (None, None));
    }
}
