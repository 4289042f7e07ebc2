use std::io;
use std::os::fd::AsRawFd as _;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket};

use super::outcome::unsupported;
use super::{PATIENCE, Target, stream};

/// Connects through `io_uring`, where no task of ours makes the call, and then asks as any client does.
pub(super) fn connect(target: &Target) -> io::Result<usize> {
    let mut ring = IoUring::new(2).map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSYS | Errno::EPERM) => unsupported("io_uring", &error),
        _ => error,
    })?;
    let socket = stream::open(Domain::IPV4, Protocol::TCP)?;
    submit_connect(&mut ring, &socket, &SockAddr::from(target.v4()))?;
    stream::fetch(&socket)
}

#[expect(unsafe_code, reason = "io_uring takes pointers")]
fn submit_connect(ring: &mut IoUring, socket: &Socket, address: &SockAddr) -> io::Result<()> {
    let entry = opcode::Connect::new(Fd(socket.as_raw_fd()), address.as_ptr().cast(), address.len()).build();
    // SAFETY: the kernel reads the address while the entry is submitted, which `submit_with_args` does before it
    // waits; the address and the socket outlive this function.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    let patience = Timespec::from(PATIENCE);
    match ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&patience)) {
        Err(error) if error.raw_os_error() == Some(Errno::ETIME as i32) => {
            return Err(io::ErrorKind::TimedOut.into());
        }
        submitted => submitted?,
    };
    let completion = ring.completion().next().ok_or(io::ErrorKind::TimedOut)?;
    if completion.result() < 0 { Err(io::Error::from_raw_os_error(-completion.result())) } else { Ok(()) }
}
