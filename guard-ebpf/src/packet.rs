//! Reading packets. Their data starts at the network header.

use aya_ebpf::programs::SkBuffContext;
use guard_common::Address;

const ETH_P_IP: u32 = (0x0800_u16).to_be() as u32;
const ETH_P_IPV6: u32 = (0x86dd_u16).to_be() as u32;

// Where the addresses stand in an IPv4 and in an IPv6 header, and how long the latter is.
const IPV4_SOURCE: usize = 12;
const IPV4_DESTINATION: usize = 16;
const IPV6_SOURCE: usize = 8;
const IPV6_DESTINATION: usize = 24;
const IPV6_LENGTH: usize = 40;

const IPPROTO_TCP: u32 = 6;
const SYN: u8 = 2;

/// Where the packet goes.
#[inline(always)]
pub fn destination(ctx: &SkBuffContext) -> Option<Address> {
    address(ctx, IPV4_DESTINATION, IPV6_DESTINATION)
}

/// Where the packet comes from.
#[inline(always)]
pub fn source(ctx: &SkBuffContext) -> Option<Address> {
    address(ctx, IPV4_SOURCE, IPV6_SOURCE)
}

/// The TCP part of a packet, in host order.
pub struct Segment {
    pub source_port: u16,
    pub destination_port: u16,
    /// The sequence number of the first byte of the payload.
    pub sequence: u32,
    pub acknowledged: u32,
    /// Whether it begins a connection.
    pub is_first: bool,
    /// Where the payload stands in the packet, and how long it is.
    pub start: usize,
    pub length: usize,
}

impl Segment {
    /// That of a packet that has one, right behind its network header.
    #[inline(always)]
    pub fn of(ctx: &SkBuffContext) -> Option<Self> {
        // SAFETY: plain reads of the context.
        let (protocol, packet_length) = unsafe { ((*ctx.skb.skb).protocol, (*ctx.skb.skb).len as usize) };
        let (transport, network_length) = match protocol {
            ETH_P_IP => {
                let header: [u32; 3] = ctx.load(0).ok()?;
                let [first, fragment, protocol] = header.map(u32::from_be);
                if fragment & 0x1fff != 0 {
                    return None;
                }
                (protocol >> 16 & 0xff, (first >> 24 & 15) as usize * 4)
            }
            ETH_P_IPV6 => {
                let header: [u32; 2] = ctx.load(0).ok()?;
                (u32::from_be(header[1]) >> 8 & 0xff, IPV6_LENGTH)
            }
            _ => return None,
        };
        if transport != IPPROTO_TCP {
            return None;
        }
        let [ports, sequence, acknowledged, rest, _]: [u32; 5] = ctx.load(network_length).ok()?;
        let [ports, rest] = [u32::from_be(ports), u32::from_be(rest)];
        let is_first = (rest >> 16) as u8 & SYN != 0;
        let start = network_length + (rest >> 28) as usize * 4;
        Some(Self {
            source_port: (ports >> 16) as u16,
            destination_port: ports as u16,
            // A SYN has a number of its own, before that of the payload.
            sequence: u32::from_be(sequence).wrapping_add(u32::from(is_first)),
            acknowledged: u32::from_be(acknowledged),
            is_first,
            start,
            length: packet_length.saturating_sub(start),
        })
    }

    /// The sequence number after the payload.
    #[inline(always)]
    pub fn end(&self) -> u32 {
        self.sequence.wrapping_add(self.length as u32)
    }
}

#[inline(always)]
fn address(ctx: &SkBuffContext, in_ipv4: usize, in_ipv6: usize) -> Option<Address> {
    // SAFETY: a plain read of the context.
    match unsafe { (*ctx.skb.skb).protocol } {
        ETH_P_IP => read(ctx, in_ipv4).map(Address::from_v4_word),
        ETH_P_IPV6 => read(ctx, in_ipv6).map(Address::from_v6_words),
        _ => None,
    }
}

/// Reads the packet where it lies; a helper copies what a packet has not at hand.
#[inline(always)]
fn read<T: Copy>(ctx: &SkBuffContext, offset: usize) -> Option<T> {
    let skb = ctx.skb.skb;
    // SAFETY: plain reads of the context, and of the packet between its start and its end, as the verifier checks.
    unsafe {
        let start = (*skb).data as usize;
        let end = (*skb).data_end as usize;
        if start + offset + size_of::<T>() <= end {
            Some(*((start + offset) as *const T))
        } else {
            ctx.load(offset).ok()
        }
    }
}
