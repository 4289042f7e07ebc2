//! The second lock: every packet that leaves a guarded socket. It stops what passes no socket hook: raw sockets, and
//! sockets that were connected before the guard was attached. What passes to IMDS is looked at by [`request`].

use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};
use guard_common::{Address, AttemptEvent, CounterKey, EndpointId, Hook, Lock, Way, decide};

use crate::{
    account::{count, report},
    identity::{Ancestors, Party, origin, socket_of_packet},
    maps::{AUDITS_REQUESTS, IMDS_ENDPOINT, endpoint_of},
    packet::destination,
    request,
};

const PASS: i32 = 1;
const DROP: i32 = 0;

#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    let Some(address) = destination(&ctx) else { return PASS };
    match endpoint_of(address) {
        None => PASS,
        Some(endpoint) => judge(&ctx, address, endpoint),
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
        count(&CounterKey::new(party.pod, endpoint, Lock::Egress, decision.ruling, way));
        let mut event = AttemptEvent::new(Hook::Egress, decision, way);
        event.address = address;
        event.endpoint = endpoint;
        event.pod = party.pod;
        if party.is_told_of() {
            report(event);
        }
    }
    if !decision.passes() {
        return DROP;
    }
    if endpoint == IMDS_ENDPOINT.load() && AUDITS_REQUESTS.load() != 0 {
        request::observe(ctx, party.pod, endpoint, decision.ruling);
    }
    PASS
}
