//! Asks the kernel which programs are attached to a cgroup.

use std::{fs::File, io, os::fd::AsRawFd};

use super::raw::{Attributes, bpf};

/// The hooks that the guard attaches to, with the kernel's numbers for them (`enum bpf_attach_type`).
pub(super) const HOOKS: [(&str, u32); 11] = [
    ("cgroup_skb/ingress", 0),
    ("cgroup_skb/egress", 1),
    ("cgroup/sock_create", 2),
    ("cgroup/bind4", 8),
    ("cgroup/bind6", 9),
    ("cgroup/connect4", 10),
    ("cgroup/connect6", 11),
    ("cgroup/sendmsg4", 14),
    ("cgroup/sendmsg6", 15),
    ("cgroup/getpeername4", 29),
    ("cgroup/getpeername6", 30),
];

/// Whether the programs of a cgroup and a hook let others in beside them or below them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Attached without flags: no other program may be attached here or below.
    Exclusive,
    /// `BPF_F_ALLOW_OVERRIDE`: one that is attached below replaces it there; none may join it here.
    Overridable,
    /// `BPF_F_ALLOW_MULTI`, and all links: everyone runs.
    Shared,
}

const BPF_F_ALLOW_OVERRIDE: u32 = 1;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// How many programs one cgroup can have at one hook (`BPF_CGROUP_MAX_PROGS`).
const MAX_PROGRAMS: usize = 64;

/// `BPF_PROG_QUERY` (Linux 4.15), to its very end: Linux 6.17 writes `revision` even when it was told that the caller's
/// structure ends before it.
#[repr(C)]
#[derive(Default)]
struct QueryAttributes {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
// SAFETY: laid out as in linux/bpf.h; its pointer is to as many ids as it says.
unsafe impl Attributes for QueryAttributes {
    const COMMAND: libc::c_int = 16;
}

/// The programs that are attached to the cgroup `folder` itself.
pub(super) fn query(folder: &File, attach_type: u32) -> io::Result<(Sharing, Vec<u32>)> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut attributes = QueryAttributes {
        target_fd: folder.as_raw_fd().cast_unsigned(),
        attach_type,
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
        prog_cnt: u32::try_from(ids.len()).expect("a small array"),
        ..QueryAttributes::default()
    };
    bpf(&mut attributes)?;
    let sharing = match attributes.attach_flags {
        flags if flags & BPF_F_ALLOW_MULTI != 0 => Sharing::Shared,
        flags if flags & BPF_F_ALLOW_OVERRIDE != 0 => Sharing::Overridable,
        _ => Sharing::Exclusive,
    };
    Ok((sharing, ids.into_iter().take(attributes.prog_cnt as usize).collect()))
}
