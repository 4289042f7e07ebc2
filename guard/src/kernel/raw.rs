//! The bare system call, for the commands of bpf(2) that aya lacks or keeps to itself.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    thread::sleep,
    time::Duration,
};

/// The part of `union bpf_attr` that belongs to one command.
///
/// # Safety
/// Its layout is the kernel's, without padding that the kernel reads, and what it points to lives as long as it does
/// and is as large as it says.
#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
pub(super) unsafe trait Attributes {
    /// `enum bpf_cmd`.
    const COMMAND: libc::c_int;
}

/// Carries out a command; what it returns depends on which.
#[expect(unsafe_code, reason = "a bare system call")]
pub(super) fn bpf<A: Attributes>(attributes: &mut A) -> io::Result<i32> {
    let size = libc::c_uint::try_from(size_of::<A>()).expect("a small structure");
    // SAFETY: the kernel reads and writes at most `size` bytes of `attributes`, which are its own, and what they point
    // to is as `Attributes` promises. No other reference to them exists during the call.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, A::COMMAND, &raw mut *attributes, size) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(outcome).expect("bpf(2) returns an int"))
}

/// Carries out a command that returns a new descriptor.
#[expect(unsafe_code, reason = "a descriptor out of a bare system call")]
pub(super) fn bpf_fd<A: Attributes>(attributes: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just made it for us, and nobody else knows it.
    bpf(attributes).map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A map or a link, which can be pinned.
#[derive(Debug)]
pub(super) struct Object(pub(super) OwnedFd);

impl Object {
    /// What is pinned at `path`; none if nothing is there.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let path = c_path(path)?;
        match bpf_fd(&mut Get { path: pointer(&path), ..Get::default() }) {
            Ok(object) => Ok(Some(Self(object))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Pins it at a path where nothing is yet.
    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        let path = c_path(path)?;
        let get = Get { path: pointer(&path), object: number(self.0.as_fd()), ..Get::default() };
        bpf(&mut Pin(get)).map(drop)
    }
}

/// Waits until every program that is running now has ended: they run in sections of RCU, whose end a global membarrier
/// (Linux 4.3) waits for. Without it a moment must do, which is a hundred thousand times as long as a program runs.
pub(super) fn wait_for_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    #[expect(unsafe_code, reason = "no library has this system call")]
    // SAFETY: the call has no pointers.
    let outcome = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if outcome != 0 {
        sleep(Duration::from_millis(100));
    }
}

pub(super) fn number(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn pointer(path: &CString) -> u64 {
    path.as_ptr().expose_provenance() as u64
}

/// `BPF_OBJ_GET`, and with a descriptor `BPF_OBJ_PIN`.
#[repr(C)]
#[derive(Default)]
struct Get {
    path: u64,
    object: u32,
    flags: u32,
}

#[repr(transparent)]
struct Pin(Get);

#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
// SAFETY: laid out as in linux/bpf.h; its pointer is to the caller's path.
unsafe impl Attributes for Get {
    const COMMAND: libc::c_int = 7;
}

#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
// SAFETY: as above.
unsafe impl Attributes for Pin {
    const COMMAND: libc::c_int = 6;
}
