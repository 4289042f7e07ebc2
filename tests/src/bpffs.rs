//! A BPF file system that is mounted nowhere: whoever has its descriptor finds it, and with the last descriptor it is gone,
//! and all that was pinned there. A test that is killed leaves nothing behind.

use std::ffi::{CStr, c_long};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process;

use anyhow::{Context, Result};

/// A BPF file system of a test's own.
#[derive(Debug)]
pub(crate) struct Bpffs(OwnedFd);

const FSCONFIG_CMD_CREATE: c_long = 6;

impl Bpffs {
    /// Makes an empty one.
    pub(crate) fn create() -> Result<Self> {
        let make = || -> io::Result<OwnedFd> {
            let kind: &CStr = c"bpf";
            let context = descriptor(call(
                libc::SYS_fsopen,
                [kind.as_ptr().addr().cast_signed() as c_long, 0, 0, 0, 0],
            )?);
            let raw = c_long::from(context.as_raw_fd());
            call(libc::SYS_fsconfig, [raw, FSCONFIG_CMD_CREATE, 0, 0, 0])?;
            Ok(descriptor(call(libc::SYS_fsmount, [raw, 0, 0, 0, 0])?))
        };
        Ok(Self(make().context("make a BPF file system")?))
    }

    /// The path by which other processes find it for as long as this value lives.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd()).into()
    }
}

#[expect(unsafe_code, reason = "no library has these system calls")]
fn call(number: c_long, [a, b, c, d, e]: [c_long; 5]) -> io::Result<c_long> {
    // SAFETY: the only pointer that is ever among the arguments is to a constant, which the kernel reads.
    let outcome = unsafe { libc::syscall(number, a, b, c, d, e) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}

#[expect(unsafe_code, reason = "a descriptor out of a bare system call")]
fn descriptor(raw: c_long) -> OwnedFd {
    let raw = i32::try_from(raw).expect("a descriptor is an int");
    // SAFETY: the kernel has just made it for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
