//! The second lock: every packet that leaves a guarded socket. It stops what passes no socket hook: raw sockets, and
//! sockets that were connected before the guard was attached.

use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};
use guard_common::{Address, AttemptEvent, CounterKey, EndpointId, Hook, Lock, Way, decide};

use crate::{
    account::{count, report},
    identity::{Ancestors, Party, origin, socket_of_packet},
    maps::{ENDPOINT_BITS, ENDPOINTS},
};

const PASS: i32 = 1;
const DROP: i32 = 0;

const ETH_P_IP: u32 = (0x0800_u16).to_be() as u32;
const ETH_P_IPV6: u32 = (0x86dd_u16).to_be() as u32;
/// Where the destination address stands in an IPv4 and in an IPv6 header.
const IPV4_DESTINATION: usize = 16;
const IPV6_DESTINATION: usize = 24;

#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    let Some(address) = destination(&ctx) else { return PASS };
    if ENDPOINT_BITS.load() & address.bit() == 0 {
        return PASS;
    }
    // SAFETY: the agent fills the map before it attaches, and never changes it again.
    match unsafe { ENDPOINTS.get(address) } {
        None => PASS,
        Some(endpoint) => judge(&ctx, address, *endpoint),
    }
}

#[inline(always)]
fn judge(ctx: &SkBuffContext, address: Address, endpoint: EndpointId) -> i32 {
    let party = Party::find(Ancestors::of_packet(ctx.skb.skb));
    let decision = decide(party.ruling(endpoint), None);
    // What passes on a socket that the first lock has judged was counted there. What is dropped counts in any case.
    let judged =
        origin(socket_of_packet(ctx.skb.skb)).is_some_and(|origin| origin.judged & (1 << endpoint) != 0);
    if !(decision.passes() && judged) {
        let way = if decision.passes() { Way::Direct } else { Way::Refused };
        count(ctx, &CounterKey::new(party.pod, endpoint, Lock::Egress, decision.ruling, way));
        let mut event = AttemptEvent::new(Hook::Egress, decision, way);
        event.address = address;
        event.endpoint = endpoint;
        event.pod = party.pod;
        report(event);
    }
    if decision.passes() { PASS } else { DROP }
}

/// Where the packet goes. The data starts at the network header.
#[inline(always)]
fn destination(ctx: &SkBuffContext) -> Option<Address> {
    // SAFETY: a plain read of the context.
    match unsafe { (*ctx.skb.skb).protocol } {
        ETH_P_IP => read(ctx, IPV4_DESTINATION).map(Address::from_v4_word),
        ETH_P_IPV6 => read(ctx, IPV6_DESTINATION).map(Address::from_v6_words),
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
