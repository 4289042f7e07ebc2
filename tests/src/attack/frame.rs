//! Packets made by hand, and read: bytes in, bytes out. It sends nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;
pub(super) const SYN_ACK: u8 = SYN | ACK;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const HOPS: u8 = 64;

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// Both ends of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ends {
    pub(super) own: SocketAddr,
    pub(super) peer: SocketAddr,
}

/// A TCP segment without options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    pub(super) flags: u8,
    pub(super) payload: Vec<u8>,
}

impl Segment {
    /// The segment as it stands behind an IP header.
    pub(super) fn to_bytes(&self, ends: Ends) -> Vec<u8> {
        let mut header = [0; 20];
        header[0..2].copy_from_slice(&ends.own.port().to_be_bytes());
        header[2..4].copy_from_slice(&ends.peer.port().to_be_bytes());
        header[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        header[8..12].copy_from_slice(&self.acknowledged.to_be_bytes());
        header[12] = 5 << 4;
        header[13] = self.flags;
        header[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        with_checksum([&header[..], &self.payload].concat(), ends, TCP, 16)
    }

    /// The segment of a packet that the peer sent to our own end; `None` for every other packet.
    pub(super) fn from_packet(packet: &[u8], ends: Ends) -> Option<Self> {
        let bytes = sent_by_peer(packet, ends, TCP)?;
        let header = 4 * usize::from(bytes.get(12)? >> 4);
        Some(Self {
            sequence: u32::from_be_bytes(*bytes.get(4..)?.first_chunk()?),
            acknowledged: u32::from_be_bytes(*bytes.get(8..)?.first_chunk()?),
            flags: *bytes.get(13)?,
            payload: bytes.get(header..)?.to_vec(),
        })
    }
}

/// A UDP datagram as it stands behind an IP header.
pub(super) fn datagram(ends: Ends, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let mut header = [0; 8];
    header[0..2].copy_from_slice(&ends.own.port().to_be_bytes());
    header[2..4].copy_from_slice(&ends.peer.port().to_be_bytes());
    header[4..6].copy_from_slice(&length.to_be_bytes());
    with_checksum([&header, payload].concat(), ends, UDP, 6)
}

/// The payload of a datagram that the peer sent to our own end.
pub(super) fn datagram_from_packet(packet: &[u8], ends: Ends) -> Option<&[u8]> {
    sent_by_peer(packet, ends, UDP)?.get(8..)
}

/// An IP packet of the family of the ends, with a header without anything special.
pub(super) fn ip(ends: Ends, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (ends.own.ip(), ends.peer.ip()) {
        (IpAddr::V4(own), IpAddr::V4(peer)) => ipv4(own, peer, protocol, &[], payload),
        (IpAddr::V6(own), IpAddr::V6(peer)) => ipv6(own, peer, protocol, payload),
        _ => Vec::new(),
    }
}

/// An IPv4 packet. `options` must fill whole words of 32 bits.
pub(super) fn ipv4(own: Ipv4Addr, peer: Ipv4Addr, protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut header = [&[0; 20], options].concat();
    let words = u8::try_from(header.len() / 4).unwrap_or(5);
    let length = u16::try_from(header.len() + payload.len()).unwrap_or(u16::MAX);
    header[0] = 4 << 4 | words;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[8] = HOPS;
    header[9] = protocol;
    header[12..16].copy_from_slice(&own.octets());
    header[16..20].copy_from_slice(&peer.octets());
    complete_ipv4(&mut header);
    [header, payload.to_vec()].concat()
}

/// Writes the checksum of an IPv4 header anew.
fn complete_ipv4(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// An IPv6 packet; `next` says what `payload` begins with.
pub(super) fn ipv6(own: Ipv6Addr, peer: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut header = [0; 40];
    header[0] = 6 << 4;
    header[4..6].copy_from_slice(&length.to_be_bytes());
    header[6] = next;
    header[7] = HOPS;
    header[8..24].copy_from_slice(&own.octets());
    header[24..40].copy_from_slice(&peer.octets());
    [&header[..], payload].concat()
}

/// An IPv4 packet in fragments, as small as they can be: each has 8 bytes of what stands behind the header, so that the
/// first has the ports and hardly more.
pub(super) fn fragments(packet: &[u8], identification: u16) -> Vec<Vec<u8>> {
    const MORE: u16 = 0x2000;
    let words = packet.first().map_or(0, |first| usize::from(first & 0x0f));
    let (header, payload) = packet.split_at(packet.len().min(4 * words));
    let count = payload.len().div_ceil(8);
    let fragment = |(number, piece): (usize, &[u8])| {
        let mut header = header.to_vec();
        let more = if number + 1 < count { MORE } else { 0 };
        let length = u16::try_from(header.len() + piece.len()).unwrap_or(u16::MAX);
        header[2..4].copy_from_slice(&length.to_be_bytes());
        header[4..6].copy_from_slice(&identification.to_be_bytes());
        header[6..8].copy_from_slice(&(more | u16::try_from(number).unwrap_or(u16::MAX)).to_be_bytes());
        complete_ipv4(&mut header);
        [header, piece.to_vec()].concat()
    };
    payload.chunks(8).enumerate().map(fragment).collect()
}

/// The IPv4 option that has a packet go on to `destination` from where it is addressed to (loose source routing).
pub(super) fn source_route(destination: Ipv4Addr) -> [u8; 8] {
    let [a, b, c, d] = destination.octets();
    [0x83, 7, 4, a, b, c, d, 0]
}

/// An IPv6 routing header of a kind before `payload`: the packet goes to where it is addressed to, `by`, and on to
/// `destination`.
pub(super) fn routed(kind: u8, by: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    const SEGMENT_ROUTING: u8 = 4;
    let (last_entry, stops) = match kind {
        // All stops are listed, the last one first.
        SEGMENT_ROUTING => (1, [destination.octets(), by.octets()].concat()),
        _ => (0, destination.octets().to_vec()),
    };
    let length = u8::try_from(stops.len() / 8).unwrap_or(u8::MAX);
    [&[next, length, kind, 1, last_entry, 0, 0, 0], &stops[..], payload].concat()
}

/// A packet in an Ethernet frame that has a VLAN tag with nothing in it: neither a VLAN nor a priority.
pub(super) fn tagged(own: Mac, peer: Mac, packet: &[u8]) -> Vec<u8> {
    let tag = [0x81, 0x00, 0x00, 0x00];
    [&peer[..], &own, &tag, &ethertype(packet).to_be_bytes(), packet].concat()
}

/// The frame by which whoever is at `address` asks for the hardware address of `wanted`, and tells its own.
pub(super) fn arp_request(own: Mac, address: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
    let what = [0, 1, 0x08, 0, 6, 4, 0, 1];
    let everybody = [0xff; 6];
    [&everybody[..], &own, &ETHERTYPE_ARP, &what, &own, &address.octets(), &[0; 6], &wanted.octets()].concat()
}

/// A packet in an Ethernet frame in what VXLAN puts before it.
pub(super) fn vxlan(network: u32, own: Mac, peer: Mac, packet: &[u8]) -> Vec<u8> {
    let header = [0x0800_0000_u32.to_be_bytes(), (network << 8).to_be_bytes()].concat();
    [header, ethernet(own, peer, packet)].concat()
}

/// A packet in an Ethernet frame.
pub(super) fn ethernet(own: Mac, peer: Mac, packet: &[u8]) -> Vec<u8> {
    [&peer[..], &own, &ethertype(packet).to_be_bytes(), packet].concat()
}

/// What a frame says it carries, if it carries `packet`.
pub(super) fn ethertype(packet: &[u8]) -> u16 {
    if packet.first().is_some_and(|first| first >> 4 == 6) { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }
}

/// The internet checksum.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default());
    let sum = bytes.chunks(2).map(word).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded + (folded >> 16)) & 0xffff).unwrap_or_default()
}

/// Writes the checksum over the pseudo-header and `bytes` into its `place`. It is the one of the last destination,
/// whatever the packet's way there.
fn with_checksum(mut bytes: Vec<u8>, ends: Ends, protocol: u8, place: usize) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let pseudo_header = match (ends.own.ip(), ends.peer.ip()) {
        (IpAddr::V4(own), IpAddr::V4(peer)) => [own.octets(), peer.octets()].concat(),
        (IpAddr::V6(own), IpAddr::V6(peer)) => [own.octets(), peer.octets()].concat(),
        _ => Vec::new(),
    };
    let rest = [&length.to_be_bytes()[..], &[0, 0, 0, protocol]].concat();
    let sum = checksum(&[pseudo_header, rest, bytes.clone()].concat());
    bytes[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// What stands behind the IP header of a packet of this protocol from the peer to our own end.
fn sent_by_peer(packet: &[u8], ends: Ends, protocol: u8) -> Option<&[u8]> {
    let (source, destination, found, payload) = match packet.first()? >> 4 {
        4 => (
            IpAddr::from(*packet.get(12..)?.first_chunk::<4>()?),
            IpAddr::from(*packet.get(16..)?.first_chunk::<4>()?),
            *packet.get(9)?,
            packet.get(
                4 * usize::from(packet[0] & 0x0f)..usize::from(u16::from_be_bytes([packet[2], packet[3]])),
            )?,
        ),
        6 => (
            IpAddr::from(*packet.get(8..)?.first_chunk::<16>()?),
            IpAddr::from(*packet.get(24..)?.first_chunk::<16>()?),
            *packet.get(6)?,
            packet.get(40..)?,
        ),
        _ => return None,
    };
    let port = |place: usize| Some(u16::from_be_bytes(*payload.get(place..)?.first_chunk()?));
    let ours = found == protocol
        && SocketAddr::new(source, port(0)?) == ends.peer
        && SocketAddr::new(destination, port(2)?) == ends.own;
    ours.then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(own: &str, peer: &str) -> Ends {
        Ends { own: own.parse().expect("an address"), peer: peer.parse().expect("an address") }
    }

    #[test]
    fn what_is_written_is_read_by_the_other_end() {
        for (own, peer) in
            [("10.0.0.1:40000", "169.254.169.254:80"), ("[fd12::1]:40000", "[fd00:ec2::254]:80")]
        {
            let ours = ends(own, peer);
            let theirs = Ends { own: ours.peer, peer: ours.own };
            let segment =
                Segment { sequence: 7, acknowledged: 9, flags: PSH | ACK, payload: b"GET".to_vec() };
            let packet = ip(ours, TCP, &segment.to_bytes(ours));
            assert_eq!(Segment::from_packet(&packet, theirs), Some(segment));
            assert_eq!(Segment::from_packet(&packet, ours), None);
            let packet = ip(ours, UDP, &datagram(ours, b"odd"));
            assert_eq!(datagram_from_packet(&packet, theirs), Some(&b"odd"[..]));
        }
    }

    #[test]
    fn fragments_make_the_whole_again() {
        let ends = ends("10.0.0.1:40000", "169.254.169.254:80");
        let packet = ip(ends, UDP, &datagram(ends, b"fifteen bytes.."));
        let fragments = fragments(&packet, 7);
        let offsets: Vec<_> = fragments.iter().map(|fragment| (fragment[6], fragment[7])).collect();
        assert_eq!(offsets, [(0x20, 0), (0x20, 1), (0, 2)]);
        assert!(fragments.iter().all(|fragment| checksum(&fragment[..20]) == 0));
        let payload: Vec<u8> = fragments.iter().flat_map(|fragment| fragment[20..].to_vec()).collect();
        assert_eq!(payload, packet[20..]);
    }

    #[test]
    fn checksums_are_those_of_the_standard() {
        // The example of RFC 1071, whose sum is 0xddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        // Whoever sums up what has its checksum in it gets nothing.
        let ends = ends("10.0.0.1:40000", "169.254.169.254:80");
        let packet = ip(ends, UDP, &datagram(ends, b"odd"));
        assert_eq!(checksum(&packet[..20]), 0);
    }
}
