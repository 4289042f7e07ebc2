//! Answers of IMDS, as they come in: their status, and nothing else. Every packet passes.

use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};

use crate::{
    maps::{AUDITS_REQUESTS, ENDPOINT_BITS, ENDPOINTS, IMDS_ENDPOINT},
    packet::source,
    request,
};

const PASS: i32 = 1;

#[cgroup_skb(ingress)]
pub fn ingress(ctx: SkBuffContext) -> i32 {
    if AUDITS_REQUESTS.load() != 0
        && let Some(address) = source(&ctx)
        && ENDPOINT_BITS.load() & address.bit() != 0
        // SAFETY: the agent fills the map before it attaches, and never changes it again.
        && unsafe { ENDPOINTS.get(address) }.is_some_and(|endpoint| *endpoint == IMDS_ENDPOINT.load())
    {
        request::answer(&ctx);
    }
    PASS
}
