//! The link between a program and the guarded root: made once, pinned, and from then on updated in one step, so that a
//! hook has one program at any time, whoever brings a new one. aya can neither update a link of a cgroup nor ask which
//! cgroup it is of.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use guard_common::CgroupId;

use super::raw::{Attributes, Object, bpf, bpf_fd, number};

/// A link of a program to a cgroup. It is gone when the last descriptor of it and the last pin are.
#[derive(Debug)]
pub(super) struct CgroupLink(Object);

impl CgroupLink {
    /// Attaches a program to a cgroup. Links stand beside others at the same hook.
    pub(super) fn create(
        program: BorrowedFd<'_>,
        cgroup: BorrowedFd<'_>,
        attach_type: u32,
    ) -> io::Result<Self> {
        let mut create =
            Create { program: number(program), target: number(cgroup), attach_type, ..Create::default() };
        bpf_fd(&mut create).map(|link| Self(Object(link)))
    }

    /// The link that is pinned at `path`; none if nothing is there.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        Ok(Object::open(path)?.map(Self))
    }

    /// Pins it at a path where nothing is yet.
    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        self.0.pin(path)
    }

    /// Puts another program in the place of the one that it has, in one step.
    pub(super) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut update =
            Update { link: number(self.0.0.as_fd()), program: number(program), ..Update::default() };
        bpf(&mut update).map(drop)
    }

    /// The cgroup that it is of; none if that is gone, or somebody has detached it.
    pub(super) fn cgroup(&self) -> io::Result<Option<CgroupId>> {
        let mut info = Info::default();
        let mut query = QueryInfo {
            object: number(self.0.0.as_fd()),
            length: u32::try_from(size_of::<Info>()).expect("a small structure"),
            info: (&raw mut info).expose_provenance() as u64,
        };
        bpf(&mut query)?;
        Ok((info.cgroup != 0).then_some(CgroupId(info.cgroup)))
    }
}

#[repr(C)]
#[derive(Default)]
struct Create {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct Update {
    pub(super) link: u32,
    pub(super) program: u32,
    pub(super) flags: u32,
    pub(super) old_program: u32,
}

#[repr(C)]
pub(super) struct QueryInfo {
    pub(super) object: u32,
    pub(super) length: u32,
    pub(super) info: u64,
}

/// `struct bpf_link_info` of a cgroup's link.
#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    cgroup: u64,
    attach_type: u32,
    end: u32,
}

#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
// SAFETY: laid out as in linux/bpf.h; no pointers.
unsafe impl Attributes for Create {
    const COMMAND: libc::c_int = 28;
}

#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
// SAFETY: laid out as in linux/bpf.h; no pointers.
unsafe impl Attributes for Update {
    const COMMAND: libc::c_int = 29;
}

#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
// SAFETY: laid out as in linux/bpf.h; its pointer is to an `Info` as long as it says.
unsafe impl Attributes for QueryInfo {
    const COMMAND: libc::c_int = 15;
}
