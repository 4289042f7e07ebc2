//! File systems that are mounted nowhere: whoever has the descriptor finds it, and with the last descriptor it is gone, and
//! all that was in it. A test that is killed leaves nothing behind.

use std::ffi::{CString, c_long};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process;

use anyhow::{Context, Result};

/// A file system of a test's own. Dropping it is what unmounting is to whoever knows its path.
#[derive(Debug)]
pub struct DetachedMount(OwnedFd);

const FSCONFIG_SET_STRING: c_long = 1;
const FSCONFIG_CMD_CREATE: c_long = 6;
/// `FSOPEN_CLOEXEC` and `FSMOUNT_CLOEXEC`.
const CLOEXEC: c_long = 1;

impl DetachedMount {
    /// An empty one for BPF's pins.
    pub fn bpf() -> Result<Self> {
        make("bpf", &[]).map(Self).context("make a BPF file system")
    }

    /// An empty one with room for so many bytes.
    pub fn tmpfs(bytes: u64) -> Result<Self> {
        make("tmpfs", &[("size", &bytes.to_string())]).map(Self).context("make a small file system")
    }

    /// The path by which other processes find it for as long as this value lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd()).into()
    }
}

fn make(kind: &str, options: &[(&str, &str)]) -> io::Result<OwnedFd> {
    let text = |text: &str| CString::new(text).expect("no zero in it");
    let pointer = |text: &CString| text.as_ptr().addr().cast_signed() as c_long;
    let kind = text(kind);
    let context = descriptor(call(libc::SYS_fsopen, [pointer(&kind), CLOEXEC, 0, 0, 0])?);
    let raw = c_long::from(context.as_raw_fd());
    for (key, value) in options {
        let (key, value) = (text(key), text(value));
        call(libc::SYS_fsconfig, [raw, FSCONFIG_SET_STRING, pointer(&key), pointer(&value), 0])?;
    }
    call(libc::SYS_fsconfig, [raw, FSCONFIG_CMD_CREATE, 0, 0, 0])?;
    Ok(descriptor(call(libc::SYS_fsmount, [raw, CLOEXEC, 0, 0, 0])?))
}

#[expect(unsafe_code, reason = "no library has these system calls")]
fn call(number: c_long, arguments: [c_long; 5]) -> io::Result<c_long> {
    let [first, second, third, fourth, fifth] = arguments;
    // SAFETY: the pointers that may be among the arguments are to texts that live past the call, and are only read.
    let outcome = unsafe { libc::syscall(number, first, second, third, fourth, fifth) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}

#[expect(unsafe_code, reason = "a descriptor out of a bare system call")]
fn descriptor(raw: c_long) -> OwnedFd {
    let raw = i32::try_from(raw).expect("a descriptor is an int");
    // SAFETY: the kernel has just made it for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
