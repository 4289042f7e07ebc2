//! The way to a pod's gate: the connect hook sends an attempt there, `getpeername` shows the address that was asked for,
//! and a gate's own port is nobody's to connect or to bind.

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    helpers::{bpf_get_netns_cookie, bpf_sk_storage_get},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use guard_common::{Address, GATE_PORT_FIRST, Gate, GateKey, HTTP_PORT, Hook, NamespaceCookie, Redirected};

use crate::maps::{GATES, REDIRECTED};

const PASS: i32 = 1;
const REFUSE: i32 = 0;

const SOCK_STREAM: u32 = 1;
/// The hook's context has the lowest byte of the protocol: TCP is 6, and so is MPTCP (262).
const IPPROTO_TCP: u32 = 6;

const LOOPBACK_V4: u32 = u32::from_be_bytes([127, 0, 0, 1]).to_be();
const LOOPBACK_V6: [u32; 4] = [0, 0, 0, 1_u32.to_be()];
const MAPPED_PREFIX: [u32; 3] = [0, 0, 0xffff_u32.to_be()];

/// What a gate listens on, and the addresses that mean the same to connect.
const OWN_HOST: [Address; 4] = [
    Address::from_v4_word(LOOPBACK_V4),
    Address::from_v4_word(0),
    Address::from_v6_words(LOOPBACK_V6),
    Address::from_v6_words([0; 4]),
];

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(Redirected { address, port }) = asked_for(&ctx) {
        // SAFETY: plain writes of the context.
        unsafe {
            (*ctx.sock_addr).user_ip4 = address.words()[3];
            (*ctx.sock_addr).user_port = *port;
        }
    }
    PASS
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(Redirected { address, port }) = asked_for(&ctx) {
        set_destination6(&ctx, address.words());
        // SAFETY: a plain write of the context.
        unsafe { (*ctx.sock_addr).user_port = *port };
    }
    PASS
}

#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    if is_gate(&ctx) { REFUSE } else { PASS }
}

#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    if is_gate(&ctx) { REFUSE } else { PASS }
}

/// Whether this attempt can be sent to `gate`: it is for HTTP, and in the gate's namespace.
#[inline(always)]
pub fn takes(ctx: &SockAddrContext, gate: &Gate, hook: Hook) -> bool {
    // SAFETY: a plain read of the context.
    let port = unsafe { (*ctx.sock_addr).user_port };
    matches!(hook, Hook::Connect4 | Hook::Connect6)
        && is_tcp(ctx)
        && port == u32::from(HTTP_PORT.to_be())
        && gate.namespace == namespace(ctx)
}

/// Sends the attempt to a gate. Without memory to remember the address that it asks for it stays where it is.
#[inline(always)]
pub fn redirect(ctx: &SockAddrContext, address: Address, gate: Gate, hook: Hook) -> bool {
    let port = u32::from(gate.port.to_be());
    // SAFETY: plain reads and writes of the context, whose socket is there; the map copies the value.
    unsafe {
        let mut asked = Redirected { address, port: (*ctx.sock_addr).user_port };
        let map = core::ptr::from_ref(&REDIRECTED).cast_mut().cast();
        let value = core::ptr::from_mut(&mut asked).cast();
        let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        let kept = bpf_sk_storage_get(map, socket.cast(), value, flags).cast::<Redirected>();
        if kept.is_null() {
            return false;
        }
        // A socket that is connected again may have asked for another address before.
        *kept = asked;
        (*ctx.sock_addr).user_port = port;
    }
    match hook {
        // SAFETY: a plain write of the context.
        Hook::Connect4 => unsafe { (*ctx.sock_addr).user_ip4 = LOOPBACK_V4 },
        _ if address.is_mapped() => {
            let [a, b, c] = MAPPED_PREFIX;
            set_destination6(ctx, [a, b, c, LOOPBACK_V4]);
        }
        _ => set_destination6(ctx, LOOPBACK_V6),
    }
    true
}

/// Whether somebody asks for a gate itself. What leads there is the hook alone.
#[inline(always)]
pub fn is_asked_for(ctx: &SockAddrContext, address: Address) -> bool {
    port(ctx) >= GATE_PORT_FIRST && OWN_HOST.contains(&address) && is_gate(ctx)
}

/// Whether the port in the context is a gate's in the socket's namespace.
#[inline(always)]
fn is_gate(ctx: &SockAddrContext) -> bool {
    let port = port(ctx);
    port >= GATE_PORT_FIRST && is_tcp(ctx) && GATES.get_ptr(GateKey::new(namespace(ctx), port)).is_some()
}

#[inline(always)]
fn is_tcp(ctx: &SockAddrContext) -> bool {
    // SAFETY: plain reads of the context.
    let (kind, protocol) = unsafe { ((*ctx.sock_addr).type_, (*ctx.sock_addr).protocol) };
    kind == SOCK_STREAM && protocol & 0xff == IPPROTO_TCP
}

#[inline(always)]
fn port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: a plain read of the context.
    u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16)
}

#[inline(always)]
fn namespace(ctx: &SockAddrContext) -> NamespaceCookie {
    // SAFETY: the context is the program's own.
    NamespaceCookie(unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) })
}

/// The address that a socket asked for before it was sent to a gate, if that is where it is connected: it may have been
/// connected to somebody else since.
#[inline(always)]
fn asked_for(ctx: &SockAddrContext) -> Option<&'static Redirected> {
    if port(ctx) < GATE_PORT_FIRST {
        return None;
    }
    // SAFETY: a context always holds its socket, and the storage lives as long as that.
    unsafe {
        let map = core::ptr::from_ref(&REDIRECTED).cast_mut().cast();
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        bpf_sk_storage_get(map, socket.cast(), core::ptr::null_mut(), 0).cast::<Redirected>().as_ref()
    }
}

#[inline(always)]
fn set_destination6(ctx: &SockAddrContext, words: [u32; 4]) {
    // Word by word, as the verifier wants it.
    for (place, word) in words.into_iter().enumerate() {
        // SAFETY: a plain write of the context.
        unsafe { (*ctx.sock_addr).user_ip6[place] = word };
    }
}
