//! The last lock: every frame that leaves the host by one of its uplinks. It stops what passes no hook of a socket: packet
//! sockets on the host's network, whose creator is judged; and what the host sends on for pods whose packets come past
//! its packet filter.

use aya_ebpf::{helpers::bpf_sk_fullsock, macros::classifier, programs::TcContext};
use guard_common::{
    Address, AttemptEvent, CgroupId, CounterKey, EndpointId, Hook, Lock, Mode, Ruling, Verdict, Way, decide,
};

use crate::{
    account::{count, report},
    frame,
    identity::{Ancestors, Party},
    maps::FORWARDED,
};

/// Whatever else is attached here has its say, too (`TC_ACT_UNSPEC`, and the same number for TCX).
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
const DROP: i32 = 2;

const AF_PACKET: u32 = 17;

#[classifier]
pub fn uplink(ctx: TcContext) -> i32 {
    match frame::endpoint(&ctx) {
        None => NEXT,
        Some((endpoint, address)) => judge(&ctx, address, endpoint),
    }
}

#[inline(always)]
fn judge(ctx: &TcContext, address: Address, endpoint: EndpointId) -> i32 {
    let skb = ctx.skb.skb;
    let (pod, decision) = match Ancestors::of_guarded_packet(skb) {
        Some(ancestors) => {
            let party = Party::find(ancestors);
            (party.pod, decide(party.ruling(endpoint), None))
        }
        None if is_sent_on(ctx) && !may_be_sent_on(endpoint) => {
            (CgroupId::UNIDENTIFIED, decide(Ruling::new(Verdict::Deny, Mode::Enforce, 0), None))
        }
        None => return NEXT,
    };
    // What passes on another socket was counted where that was judged. What is dropped counts in any case.
    if decision.passes() && !is_of_packet_socket(ctx) {
        return NEXT;
    }
    let way = if decision.passes() { Way::Direct } else { Way::Refused };
    count(&CounterKey::new(pod, endpoint, Lock::Uplink, decision.ruling, way));
    let mut event = AttemptEvent::new(Hook::Uplink, decision, way);
    event.address = address;
    event.endpoint = endpoint;
    event.pod = pod;
    report(event);
    if decision.passes() { NEXT } else { DROP }
}

/// Whether the host made none of it: it came in, and has no socket here.
#[inline(always)]
fn is_sent_on(ctx: &TcContext) -> bool {
    let skb = ctx.skb.skb;
    // SAFETY: plain reads of the context.
    unsafe { (*skb).__bindgen_anon_2.sk.is_null() && (*skb).ingress_ifindex != 0 }
}

#[inline(always)]
fn may_be_sent_on(endpoint: EndpointId) -> bool {
    // SAFETY: the agent replaces the one value whole.
    FORWARDED.get(0).is_none_or(|endpoints| endpoints >> endpoint & 1 == 0)
}

#[inline(always)]
fn is_of_packet_socket(ctx: &TcContext) -> bool {
    // SAFETY: `skb` is the program's own context, and the helper takes the pointer once it is known not to be null.
    unsafe {
        let socket = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if socket.is_null() {
            return false;
        }
        let socket = bpf_sk_fullsock(socket);
        !socket.is_null() && (*socket).family == AF_PACKET
    }
}
