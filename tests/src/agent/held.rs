use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context, Result, ensure};

/// An agent's programs, which stay attached for as long as this lives, whatever becomes of the agent.
#[derive(Debug)]
pub struct HeldPrograms {
    _links: Vec<OwnedFd>,
}

impl HeldPrograms {
    /// Holds the programs of a process.
    pub(super) fn of(process: u32) -> Result<Self> {
        let process = i32::try_from(process).context("a process id fits")?;
        let pidfd = descriptor(|| [libc::SYS_pidfd_open, process.into(), 0, 0]).context("open a pidfd")?;
        let mut links = Vec::new();
        for entry in fs::read_dir(format!("/proc/{process}/fd")).context("list an agent's descriptors")? {
            let entry = entry?;
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            if target.to_string_lossy() == "anon_inode:bpf_link" {
                let number: i64 = entry.file_name().to_string_lossy().parse()?;
                let raw = pidfd.as_raw_fd();
                links.push(
                    descriptor(|| [libc::SYS_pidfd_getfd, raw.into(), number, 0])
                        .context("take a link over")?,
                );
            }
        }
        ensure!(!links.is_empty(), "the agent has no links");
        Ok(Self { _links: links })
    }
}

#[expect(unsafe_code, reason = "no library has these system calls")]
fn descriptor(call: impl Fn() -> [i64; 4]) -> io::Result<OwnedFd> {
    let [number, first, second, third] = call();
    // SAFETY: the arguments are numbers; the descriptor that comes back has no other owner.
    unsafe {
        let raw = libc::syscall(number, first, second, third);
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(i32::try_from(raw).expect("a descriptor is an int")))
    }
}
