//! The kernel programs of imds-guard. They are attached to the guarded root, the cgroup under which all pods live,
//! and run for every guarded process:
//!
//! | program | hook | what it does |
//! |---|---|---|
//! | `connect4`, `connect6` | a socket is connected | the first lock: decides an attempt, and sends it to the pod's gate |
//! | `getpeername4`, `getpeername6` | a socket's peer is asked for | shows the address asked for, not the gate's |
//! | `bind4`, `bind6` | a socket is bound | keeps the gates' ports free |
//! | `sendmsg4`, `sendmsg6` | an unconnected datagram is sent | the first lock: decides an attempt |
//! | `sock_create` | a socket is made | remembers the creator, for sockets that are handed on |
//! | `egress` | a packet leaves | the second lock: raw sockets, sockets from before the guard; sees requests to IMDS |
//! | `ingress` | a packet comes in | sees the status of their answers |
//! | `setsockopt` | a socket's option is set | keeps denied pods from sending frames past the queues |
//! | `uplink` | a frame leaves the host (tc egress of each uplink) | packet sockets, and what is sent on |
//! | `cgroup_mkdir`, `cgroup_rmdir` | the cgroup tree changes | rings the agent's bell |
//!
//! The maps, and who writes which, are drawn in `maps.rs`. What is decided is decided by [`guard_common::decide`].
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "the atomic add of `AtomicU64` is not compiled for BPF")
)]

#[cfg(target_arch = "bpf")]
mod account;
#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod egress;
#[cfg(target_arch = "bpf")]
mod frame;
#[cfg(target_arch = "bpf")]
mod gate;
#[cfg(target_arch = "bpf")]
mod identity;
#[cfg(target_arch = "bpf")]
mod ingress;
#[cfg(target_arch = "bpf")]
mod lifecycle;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod request;
#[cfg(target_arch = "bpf")]
mod socket_option;
#[cfg(target_arch = "bpf")]
mod uplink;

/// On the host the crate is an empty program, so that `cargo check --workspace` passes.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // The verifier accepts no path that gets here.
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
