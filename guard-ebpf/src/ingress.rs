//! Answers of IMDS, as they come in: their status, and nothing else. Every packet passes.

use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};

use crate::{
    maps::{AUDITS_REQUESTS, IMDS_ENDPOINT, endpoint_of},
    packet::source,
    request,
};

const PASS: i32 = 1;

#[cgroup_skb(ingress)]
pub fn ingress(ctx: SkBuffContext) -> i32 {
    if AUDITS_REQUESTS.load() != 0
        && let Some(address) = source(&ctx)
        && endpoint_of(address).is_some_and(|endpoint| endpoint == IMDS_ENDPOINT.load())
    {
        request::answer(&ctx);
    }
    PASS
}
