//! The hooks at which the guard has programs, as the bare system call sees them: what is attached, and how to attach
//! a program that does nothing, or to detach one. No loader, no map: it knows nothing of the guard but where it stands.

use std::ffi::c_long;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context, Result};

/// A hook, by the name of the guard's program there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Connect4,
    Connect6,
    Sendmsg4,
    Sendmsg6,
    Bind4,
    Bind6,
    Getpeername4,
    Getpeername6,
    Ingress,
    Egress,
    SockCreate,
}

/// An empty program at a hook. Dropping it detaches it.
#[derive(Debug)]
pub(crate) struct EmptyProgram {
    _link: OwnedFd,
}

impl Hook {
    /// Every hook that the guard uses.
    pub const ALL: [Self; 11] = [
        Self::Connect4,
        Self::Connect6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Bind4,
        Self::Bind6,
        Self::Getpeername4,
        Self::Getpeername6,
        Self::Ingress,
        Self::Egress,
        Self::SockCreate,
    ];

    /// The ids of the programs that the kernel runs here for sockets of a cgroup, those attached above it included.
    pub fn programs(self, cgroup: &Path) -> Result<Vec<u32>> {
        let folder = open(cgroup)?;
        let mut ids = [0_u32; MOST_PROGRAMS as usize];
        let mut query = Query {
            target_fd: descriptor(folder.as_raw_fd()),
            attach_type: self.attach_type(),
            flags: BPF_F_QUERY_EFFECTIVE,
            program_ids: (&raw mut ids).expose_provenance() as u64,
            program_count: MOST_PROGRAMS,
            ..Query::default()
        };
        bpf(BPF_PROG_QUERY, &mut query)
            .with_context(|| format!("ask for the programs at {self:?} of {}", cgroup.display()))?;
        Ok(ids[..query.program_count as usize].to_vec())
    }

    /// Attaches the least that a program here can be: two instructions that let everything pass.
    pub(crate) fn attach_empty(self, cgroup: &Path) -> Result<EmptyProgram> {
        let link = attach_empty(&open(cgroup)?, self);
        Ok(EmptyProgram { _link: link.with_context(|| format!("attach an empty {self:?}"))? })
    }

    /// Attaches an empty program as some do that know of no others: without a flag, so that nobody else may attach here or
    /// below. It stays until the cgroup is gone.
    pub fn attach_exclusively(self, cgroup: &Path) -> Result<()> {
        let program = load_empty(self).context("load an empty program")?;
        let folder = open(cgroup)?;
        let mut attach = Attach {
            target: descriptor(folder.as_raw_fd()),
            program: descriptor(program.as_raw_fd()),
            hook: self.attach_type(),
            flags: 0,
        };
        bpf(BPF_PROG_ATTACH, &mut attach).with_context(|| format!("attach an empty {self:?} alone"))?;
        Ok(())
    }

    /// Detaches whatever links hold at a cgroup itself, behind the back of their owner, and says how many those were.
    pub fn detach(self, cgroup: &Path) -> Result<usize> {
        let id = std::fs::metadata(cgroup).with_context(|| format!("look at {}", cgroup.display()))?.ino();
        let mut detached = 0;
        let mut next = Id::default();
        while bpf(BPF_LINK_GET_NEXT_ID, &mut next).is_ok() {
            let mut open = Id { number: next.next, ..Id::default() };
            next.number = next.next;
            // One that is gone meanwhile is nobody's.
            let Ok(link) = bpf(BPF_LINK_GET_FD_BY_ID, &mut open).map(owned) else { continue };
            let mut found = LinkInfo::default();
            let mut ask = AskInfo {
                descriptor: descriptor(link.as_raw_fd()),
                length: u32::try_from(size_of::<LinkInfo>())?,
                info: (&raw mut found).expose_provenance() as u64,
            };
            bpf(BPF_OBJ_GET_INFO_BY_FD, &mut ask).context("ask about a link")?;
            if found.kind == BPF_LINK_TYPE_CGROUP
                && (found.cgroup_id, found.attach_type) == (id, self.attach_type())
            {
                let mut detach = Detach { link: descriptor(link.as_raw_fd()) };
                bpf(BPF_LINK_DETACH, &mut detach).with_context(|| format!("detach {self:?}"))?;
                detached += 1;
            }
        }
        Ok(detached)
    }

    /// `enum bpf_prog_type`.
    fn program_type(self) -> u32 {
        match self {
            Self::Ingress | Self::Egress => 8,
            Self::SockCreate => 9,
            Self::Connect4
            | Self::Connect6
            | Self::Sendmsg4
            | Self::Sendmsg6
            | Self::Bind4
            | Self::Bind6
            | Self::Getpeername4
            | Self::Getpeername6 => 18,
        }
    }

    /// `enum bpf_attach_type`.
    fn attach_type(self) -> u32 {
        match self {
            Self::Ingress => 0,
            Self::Egress => 1,
            Self::SockCreate => 2,
            Self::Bind4 => 8,
            Self::Bind6 => 9,
            Self::Getpeername4 => 29,
            Self::Getpeername6 => 30,
            Self::Connect4 => 10,
            Self::Connect6 => 11,
            Self::Sendmsg4 => 14,
            Self::Sendmsg6 => 15,
        }
    }
}

/// As many as the kernel lets stand at one hook of one cgroup (`BPF_CGROUP_MAX_PROGS`).
const MOST_PROGRAMS: u32 = 64;

// `enum bpf_cmd` and the flags that are used here.
const BPF_PROG_LOAD: c_long = 5;
const BPF_PROG_ATTACH: c_long = 8;
const BPF_PROG_QUERY: c_long = 16;
const BPF_OBJ_GET_INFO_BY_FD: c_long = 15;
const BPF_LINK_CREATE: c_long = 28;
const BPF_LINK_GET_FD_BY_ID: c_long = 30;
const BPF_LINK_GET_NEXT_ID: c_long = 31;
const BPF_LINK_DETACH: c_long = 34;
const BPF_LINK_TYPE_CGROUP: u32 = 3;
const BPF_F_QUERY_EFFECTIVE: u32 = 1;

/// `struct bpf_insn`.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// `r0 = 1; exit`: everything passes.
static PASS: [Instruction; 2] = [
    Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 1 },
    Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
];

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` needs.
#[derive(Default)]
#[repr(C)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` needs.
#[repr(C)]
struct Link {
    program_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_PROG_ATTACH` needs.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    hook: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_GET_NEXT_ID` and `BPF_LINK_GET_FD_BY_ID` need.
#[derive(Default)]
#[repr(C)]
struct Id {
    number: u32,
    next: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` needs.
#[repr(C)]
struct AskInfo {
    descriptor: u32,
    length: u32,
    info: u64,
}

/// The part of `union bpf_attr` that `BPF_LINK_DETACH` needs.
#[repr(C)]
struct Detach {
    link: u32,
}

/// `struct bpf_link_info`, as far as it tells of a link to a cgroup.
#[derive(Default)]
#[repr(C)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    cgroup_id: u64,
    attach_type: u32,
    padding_at_end: u32,
}

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` needs.
#[derive(Default)]
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    program_ids: u64,
    program_count: u32,
    reserved: u32,
}

/// What the kernel reads and writes as a `union bpf_attr`.
///
/// # Safety
/// Its layout is the kernel's, without padding, and what it points to lives as long as it does.
#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
pub(crate) unsafe trait Attribute {}

#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
// SAFETY: laid out as in linux/bpf.h; its pointers are to constants.
unsafe impl Attribute for Load {}

#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
// SAFETY: laid out as in linux/bpf.h; no pointers.
unsafe impl Attribute for Link {}

#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
// SAFETY: laid out as in linux/bpf.h; its pointer is to the caller's array of as many ids as it says.
unsafe impl Attribute for Query {}

#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
// SAFETY: laid out as in linux/bpf.h; no pointers.
unsafe impl Attribute for Attach {}

#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
// SAFETY: laid out as in linux/bpf.h; no pointers.
unsafe impl Attribute for Id {}

#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
// SAFETY: laid out as in linux/bpf.h; its pointer is to the caller's structure of the length that it says.
unsafe impl Attribute for AskInfo {}

#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
// SAFETY: laid out as in linux/bpf.h; no pointers.
unsafe impl Attribute for Detach {}

fn load_empty(hook: Hook) -> io::Result<OwnedFd> {
    let mut load = Load {
        program_type: hook.program_type(),
        instruction_count: 2,
        instructions: (&raw const PASS).addr() as u64,
        license: c"Dual MIT/GPL".as_ptr().addr() as u64,
        name: *b"floor\0\0\0\0\0\0\0\0\0\0\0",
        expected_attach_type: hook.attach_type(),
        ..Load::default()
    };
    bpf(BPF_PROG_LOAD, &mut load).map(owned)
}

fn attach_empty(cgroup: &File, hook: Hook) -> io::Result<OwnedFd> {
    let program = load_empty(hook)?;
    let mut link = Link {
        program_fd: descriptor(program.as_raw_fd()),
        target_fd: descriptor(cgroup.as_raw_fd()),
        attach_type: hook.attach_type(),
        flags: 0,
    };
    bpf(BPF_LINK_CREATE, &mut link).map(owned)
}

#[expect(unsafe_code, reason = "a bare system call")]
pub(crate) fn bpf<A: Attribute>(command: c_long, attribute: &mut A) -> io::Result<RawFd> {
    // SAFETY: the kernel reads and writes `size_of::<A>()` bytes that `attribute` owns, and what they point to is as
    // `Attribute` promises.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attribute, size_of::<A>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(RawFd::try_from(result).expect("bpf(2) returns an int"))
}

#[expect(unsafe_code, reason = "a descriptor out of a bare system call")]
pub(crate) fn owned(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made it for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

pub(crate) fn descriptor(raw: RawFd) -> u32 {
    u32::try_from(raw).expect("an open descriptor is not negative")
}

fn open(cgroup: &Path) -> Result<File> {
    File::open(cgroup).with_context(|| format!("open {}", cgroup.display()))
}
