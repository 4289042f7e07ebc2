//! The first lock: every connect, and every send of an unconnected datagram, whatever the protocol.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_ancestor_cgroup_id, bpf_set_retval},
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use guard_common::{
    Address, AttemptEvent, CgroupId, CounterKey, EndpointId, Hook, Lock, Verdict, Way, decide, way,
};

use crate::{
    account::{count, report},
    gate,
    identity::{Ancestors, Party, origin, remember_creator},
    maps::{HAS_SET_RETVAL, ROOT_LEVEL, endpoint_of},
};

const PASS: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    guard(&ctx, destination4(&ctx), Hook::Connect4)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    guard(&ctx, destination6(&ctx), Hook::Connect6)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    guard(&ctx, destination4(&ctx), Hook::Sendmsg4)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    guard(&ctx, destination6(&ctx), Hook::Sendmsg6)
}

#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    remember_creator(ctx.sock);
    PASS
}

/// Nearly every call ends at the first two tests: the port is no gate's, and the address none of the protected ones.
#[inline(always)]
fn guard(ctx: &SockAddrContext, address: Address, hook: Hook) -> i32 {
    if gate::is_asked_for(ctx, address) {
        return refuse();
    }
    match endpoint_of(address) {
        None => PASS,
        Some(endpoint) => judge(ctx, address, endpoint, hook),
    }
}

#[inline(always)]
fn judge(ctx: &SockAddrContext, address: Address, endpoint: EndpointId, hook: Hook) -> i32 {
    // SAFETY: a context always holds its socket.
    let origin = origin(unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk });
    let creator = origin.as_ref().map(|origin| Ancestors(origin.ancestors));
    let task = Ancestors::of_task();
    // A process outside the guarded root that uses a pod's socket acts for that pod. If the guard was not there when
    // the socket was made, the pod is not known.
    let party = Party::find(task.or(creator).unwrap_or(Ancestors([0; 2])));
    let other = creator.filter(|creator| Some(*creator) != task).map(Party::find);
    // Two containers of one pod are one party.
    let other = other.filter(|other| other.pod.0 != party.pod.0);
    let decision = decide(party.ruling(endpoint), other.as_ref().map(|other| other.ruling(endpoint)));
    // A socket of another pod belongs to that pod's gate, if what holds there is no weaker than what holds here.
    let host = match &other {
        None => Some(&party),
        Some(other) if decision.by_creator || party.ruling(endpoint).verdict() == Verdict::Allow => {
            Some(other)
        }
        Some(_) => None,
    };
    let gated = host.is_none_or(|host| host.is_gated(endpoint));
    let gate = host.and_then(Party::gate).filter(|gate| gate::takes(ctx, gate, hook));
    let way = way(decision, gated, gate.is_some());

    if let Some(origin) = origin {
        origin.judged |= 1 << endpoint;
    }
    count(&CounterKey::new(party.pod, endpoint, Lock::Socket, decision.ruling, way));

    let mut event = AttemptEvent::new(hook, decision, way);
    event.address = address;
    event.endpoint = endpoint;
    event.pod = party.pod;
    if let (true, Some(other)) = (decision.by_creator, other) {
        event.creator = other.pod;
    }
    // SAFETY: the helper takes any level.
    event.container =
        CgroupId(unsafe { bpf_get_current_ancestor_cgroup_id(ROOT_LEVEL.load() as i32 + party.depth + 1) });
    event.pid = ctx.tgid();
    event.comm = ctx.command().unwrap_or_default();
    // SAFETY: plain reads of the context.
    unsafe {
        event.port = u16::from_be((*ctx.sock_addr).user_port as u16);
        event.protocol = (*ctx.sock_addr).protocol as u8;
    }
    if party.is_told_of() {
        report(event);
    }

    match (way, gate) {
        (Way::Direct, _) => PASS,
        (Way::Gate, Some(gate)) if gate::redirect(ctx, address, gate, hook) => PASS,
        (Way::Gate | Way::Refused, _) => refuse(),
    }
}

/// Ends the call with ECONNREFUSED: clients take it for an answer. Without `bpf_set_retval` the kernel says EPERM.
#[inline(always)]
fn refuse() -> i32 {
    if HAS_SET_RETVAL.load() != 0 {
        // SAFETY: the helper only sets the return value of the system call.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    REFUSE
}

#[inline(always)]
fn destination4(ctx: &SockAddrContext) -> Address {
    // SAFETY: a plain read of the context.
    Address::from_v4_word(unsafe { (*ctx.sock_addr).user_ip4 })
}

#[inline(always)]
fn destination6(ctx: &SockAddrContext) -> Address {
    // Word by word: copied as an array, it is read through a pointer into the context, which the verifier forbids.
    // SAFETY: a plain read of the context.
    let word = |place: usize| unsafe { (*ctx.sock_addr).user_ip6[place] };
    Address::from_v6_words([word(0), word(1), word(2), word(3)])
}
