//! What others have: their networks and their sockets.

use std::fs::File;
use std::io;
use std::net::SocketAddr;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::{Domain, Protocol, Socket, Type};

use super::outcome::unsupported;
use super::props::needed;
use super::{Target, link, stream};

/// From the network of another pod, which the attacker enters for good.
pub(super) fn network(target: &Target) -> io::Result<usize> {
    let victim = needed(target.props.victim, "somebody else's process")?;
    let network = File::open(format!("/proc/{victim}/ns/net"))?;
    setns(network, CloneFlags::CLONE_NEWNET)?;
    stream::tcp(target)
}

/// With a socket out of another pod's process, and a connection that it has not made.
pub(super) fn socket(target: &Target) -> io::Result<usize> {
    stream::connect_and_fetch(&steal(target)?, target.v4())
}

/// With a socket out of another pod's process that is connected already.
pub(super) fn connection(target: &Target) -> io::Result<usize> {
    stream::fetch(&steal(target)?)
}

fn steal(target: &Target) -> io::Result<Socket> {
    let victim = needed(target.props.victim, "somebody else's process")?;
    let descriptor = needed(target.props.descriptor, "somebody else's socket")?;
    let victim = i32::try_from(victim).ok().and_then(Pid::from_raw);
    let process = pidfd_open(needed(victim, "somebody else's process")?, PidfdFlags::empty())?;
    Ok(Socket::from(pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty())?))
}

/// From a user namespace that has a network of its own, for good, with a socket of the network before.
pub(super) fn from_own_user_namespace(target: &Target) -> io::Result<usize> {
    let socket = stream::open(Domain::IPV4, Protocol::TCP)?;
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|error| unsupported("user namespaces", &error.into()))?;
    stream::connect_and_fetch(&socket, target.v4())
}

/// From a new user namespace and the network before: what one may do there counts for nothing here.
pub(super) fn as_root_of_a_user_namespace(target: &Target) -> io::Result<usize> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| unsupported("user namespaces", &error.into()))?;
    link::own_address(target)
}

/// At an address that the node translates.
pub(super) fn service(target: &Target) -> io::Result<usize> {
    let address: SocketAddr = needed(target.props.service, "a service")?;
    stream::connect_and_fetch(&stream::open(Domain::for_address(address), Protocol::TCP)?, address)
}

/// The family of shared memory communications, which libc does not name.
const AF_SMC: i32 = 43;

/// By shared memory communications, which fall back to a TCP connection of the kernel's own.
pub(super) fn smc(target: &Target) -> io::Result<usize> {
    let socket =
        Socket::new(Domain::from(AF_SMC), Type::STREAM, None).map_err(|error| unsupported("SMC", &error))?;
    stream::connect_and_fetch(&socket, target.v4())
}
