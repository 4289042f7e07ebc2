use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::{self, Command, Stdio};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket};

use super::{Outcome, PATIENCE, Report, Target, Vector, stream};

/// Makes a TCP socket and hands it over, unconnected, to whoever is at the other end of the standard input, which
/// must be a unix socket.
pub fn give_socket() -> io::Result<()> {
    let socket = stream::open(Domain::IPV4, Protocol::TCP)?;
    let descriptors = [socket.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let stdin = io::stdin().as_raw_fd();
    sendmsg::<()>(stdin, &[IoSlice::new(b"s")], &rights, MsgFlags::empty(), None)?;
    Ok(())
}

/// Two sockets of a process, by their descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub unconnected: i32,
    pub connected: i32,
}

/// Makes a socket, connects another one to the target, has both told, and holds them until a line comes in.
pub fn hold_sockets<E>(target: &Target, tell: impl FnOnce(&Held) -> Result<(), E>) -> io::Result<()>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let unconnected = stream::open(Domain::IPV4, Protocol::TCP)?;
    let connected = stream::open(Domain::IPV4, Protocol::TCP)?;
    connected.connect(&target.v4().into())?;
    tell(&Held { unconnected: unconnected.as_raw_fd(), connected: connected.as_raw_fd() })
        .map_err(io::Error::other)?;
    io::stdin().read_line(&mut String::new()).map(drop)
}

/// Takes a socket from the standard input, the other end of [`give_socket`], and connects it.
pub(super) fn taken_socket(target: &Target) -> io::Result<usize> {
    // An error here is not the target's doing.
    let socket = take_socket().map_err(io::Error::other)?;
    stream::connect_and_fetch(&socket, target.v4())
}

#[expect(unsafe_code, reason = "a descriptor that came in a message has no owner yet")]
fn take_socket() -> io::Result<Socket> {
    let stdin = Socket::from(io::stdin().as_fd().try_clone_to_owned()?);
    stdin.set_read_timeout(Some(10 * PATIENCE))?;
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let mut rights = nix::cmsg_space!(OwnedFd);
    let message =
        recvmsg::<()>(stdin.as_raw_fd(), &mut buffers, Some(&mut rights), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let received = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    let descriptor = received.ok_or_else(|| io::Error::other("nobody handed a socket over"))?;
    // SAFETY: the kernel has just made this descriptor for us, and nothing else knows its number.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    Ok(Socket::from(descriptor))
}

/// Makes a cgroup below its own and connects from a child that has moved into it. The outcome is the child's; an
/// error is one of setting it up.
pub(super) fn child_in_sub_cgroup(target: &Target) -> io::Result<Outcome> {
    let own = target.cgroup.as_ref().ok_or_else(|| io::Error::other("the attacker's cgroup is not given"))?;
    let sub = own.join(format!("attack-{}", process::id()));
    fs::create_dir(&sub)?;
    let output = Command::new(std::env::current_exe()?)
        .args(["run", &Vector::Tcp.name(), "--port", &target.port.to_string()])
        .args(["--ipv4", &target.ipv4.to_string(), "--ipv6", &target.ipv6.to_string()])
        .arg("--move-to")
        .arg(&sub)
        .stderr(Stdio::inherit())
        .output();
    fs::remove_dir(&sub)?;
    let report: Report = serde_json::from_slice(&output?.stdout)?;
    Ok(report.outcome)
}
