//! The cgroup tree changes: a bell for the agent, which then walks the tree. No cgroup structure is read here: its
//! layout differs between kernels.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::maps::CGROUP_CHANGES;

#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub fn cgroup_mkdir(_: RawTracePointContext) -> i32 {
    ring()
}

#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
pub fn cgroup_rmdir(_: RawTracePointContext) -> i32 {
    ring()
}

/// A full buffer means that the bell is ringing already.
#[inline(always)]
fn ring() -> i32 {
    let _ = CGROUP_CHANGES.output(1_u64, 0);
    0
}
