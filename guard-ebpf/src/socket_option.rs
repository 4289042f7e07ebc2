//! What a denied pod on the host's network may not ask of a socket: to send frames past all locks. `PACKET_QDISC_BYPASS`
//! passes the queues, and with them tc; a socket of `AF_XDP` hands frames to the device itself, and can do nothing before
//! its rings are set up with options.

use aya_ebpf::{helpers::bpf_get_netns_cookie, macros::cgroup_sockopt, programs::SockoptContext};
use guard_common::decide;

use crate::{
    identity::{Ancestors, Party},
    maps::{HOST_NETWORK, IMDS_ENDPOINT},
};

const PASS: i32 = 1;
/// The call ends with EPERM.
const REFUSE: i32 = 0;

const SOL_PACKET: i32 = 263;
const PACKET_QDISC_BYPASS: i32 = 20;
const SOL_XDP: i32 = 283;

#[cgroup_sockopt(setsockopt)]
pub fn setsockopt(ctx: SockoptContext) -> i32 {
    // SAFETY: plain accesses to the context. 0 says that the kernel is to read the caller's value itself: of one that is
    // longer than a page there is no whole copy here.
    let (level, option) = unsafe {
        (*ctx.sockopt).optlen = 0;
        ((*ctx.sockopt).level, (*ctx.sockopt).optname)
    };
    let goes_past = level == SOL_XDP || (level == SOL_PACKET && option == PACKET_QDISC_BYPASS);
    if !goes_past || is_denied_nothing(&ctx) { PASS } else { REFUSE }
}

/// In a network of its own a pod passes the host all the same.
#[inline(always)]
fn is_denied_nothing(ctx: &SockoptContext) -> bool {
    // SAFETY: the helper takes the program's own context.
    if unsafe { bpf_get_netns_cookie(ctx.sockopt.cast()) } != HOST_NETWORK.load() {
        return true;
    }
    let Some(ancestors) = Ancestors::of_task() else { return true };
    decide(Party::find(ancestors).ruling(IMDS_ENDPOINT.load()), None).passes()
}
