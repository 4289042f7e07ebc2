//! Reading Ethernet frames: what a packet socket sends is as its owner wrote it, so nothing but its bytes is believed.

use aya_ebpf::programs::TcContext;
use guard_common::{Address, EndpointId};

use crate::maps::endpoint_of;

const ETH_P_IP: u16 = 0x0800_u16.to_be();
const ETH_P_IPV6: u16 = 0x86dd_u16.to_be();
const ETH_P_8021Q: u16 = 0x8100_u16.to_be();
const ETH_P_8021AD: u16 = 0x88a8_u16.to_be();

// Where the type stands, and how long the header and each VLAN tag are.
const ETHERTYPE: usize = 12;
const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;

/// How many VLAN tags are looked behind.
const VLAN_TAGS: usize = 2;

const IPV4_DESTINATION: usize = 16;
const IPV6_NEXT_HEADER: usize = 6;
const IPV6_DESTINATION: usize = 24;
const IPV6_LENGTH: usize = 40;

// The headers that may stand between IPv6's own and a routing header.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;

/// How many of them are looked behind.
const EXTENSIONS: usize = 4;

/// Where the addresses of a routing header begin.
const ROUTING_ADDRESSES: usize = 8;

/// The endpoint to which a frame goes, with its address.
#[inline(always)]
pub fn endpoint(ctx: &TcContext) -> Option<(EndpointId, Address)> {
    let mut network = ETHERNET;
    let mut ethertype: u16 = read(ctx, ETHERTYPE)?;
    for _ in 0..VLAN_TAGS {
        if ethertype != ETH_P_8021Q && ethertype != ETH_P_8021AD {
            break;
        }
        ethertype = read(ctx, network - ETHERNET + ETHERTYPE + VLAN_TAG)?;
        network += VLAN_TAG;
    }
    match ethertype {
        ETH_P_IP => found(Address::from_v4_word(read(ctx, network + IPV4_DESTINATION)?)),
        ETH_P_IPV6 => {
            let first = found(Address::from_v6_words(read(ctx, network + IPV6_DESTINATION)?));
            first.or_else(|| routed(ctx, network))
        }
        _ => None,
    }
}

/// The endpoint to which a routing header leads, at its first address or at its last: which of them is the end of the way
/// depends on the header's kind.
#[inline(always)]
fn routed(ctx: &TcContext, network: usize) -> Option<(EndpointId, Address)> {
    let mut kind: u8 = read(ctx, network + IPV6_NEXT_HEADER)?;
    let mut start = network + IPV6_LENGTH;
    for _ in 0..EXTENSIONS {
        if kind != HOP_BY_HOP && kind != DESTINATION_OPTIONS {
            break;
        }
        let header: [u8; 2] = ctx.load(start).ok()?;
        kind = header[0];
        start += (header[1] as usize + 1) * 8;
    }
    if kind != ROUTING {
        return None;
    }
    let header: [u8; 2] = ctx.load(start).ok()?;
    // In units of eight bytes, of which an address has two.
    let addresses = header[1] as usize / 2;
    if addresses == 0 {
        return None;
    }
    let at = |place: usize| {
        let words: [u32; 4] = ctx.load(start + ROUTING_ADDRESSES + place * 16).ok()?;
        found(Address::from_v6_words(words))
    };
    at(0).or_else(|| at(addresses - 1))
}

#[inline(always)]
fn found(address: Address) -> Option<(EndpointId, Address)> {
    endpoint_of(address).map(|endpoint| (endpoint, address))
}

/// Reads the frame where it lies; a helper copies what it has not at hand.
#[inline(always)]
fn read<T: Copy>(ctx: &TcContext, offset: usize) -> Option<T> {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + offset + size_of::<T>() <= end {
        // SAFETY: these bytes lie between the frame's start and its end, as the verifier checks.
        Some(unsafe { ((start + offset) as *const T).read_unaligned() })
    } else {
        ctx.load(offset).ok()
    }
}
