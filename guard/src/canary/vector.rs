//! The ways to IMDS that are tried: one entry of a table each.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use guard_common::{HTTP_PORT, Lock};
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// One way to IMDS.
#[derive(Debug)]
pub struct Vector {
    /// Its name in metrics and in `status`.
    pub name: &'static str,
    /// The lock that must refuse it, and count that it did.
    pub lock: Lock,
    attempt: fn(&Target) -> Outcome,
}

/// Where IMDS is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

/// What became of an attempt, as the one who made it sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Refused,
    /// It went out.
    Passed,
    /// It never came to an attempt: this host has no such address, no route, or lets nobody try.
    Impossible(String),
}

/// All of them, in the order in which they are tried.
pub static VECTORS: [Vector; 7] = [
    Vector { name: "connect4", lock: Lock::Socket, attempt: |target| connect(Domain::IPV4, target.v4) },
    Vector { name: "connect6", lock: Lock::Socket, attempt: |target| connect(Domain::IPV6, target.v6) },
    Vector {
        name: "connect6_mapped",
        lock: Lock::Socket,
        attempt: |target| connect(Domain::IPV6, target.v4.map(|v4| v4.to_ipv6_mapped())),
    },
    Vector { name: "sendmsg4", lock: Lock::Socket, attempt: |target| send(Domain::IPV4, target.v4) },
    Vector { name: "sendmsg6", lock: Lock::Socket, attempt: |target| send(Domain::IPV6, target.v6) },
    Vector { name: "raw4", lock: Lock::Egress, attempt: |target| ping(Domain::IPV4, target.v4) },
    Vector { name: "raw6", lock: Lock::Egress, attempt: |target| ping(Domain::IPV6, target.v6) },
];

impl Vector {
    /// The vector of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        VECTORS.iter().find(|vector| vector.name == name)
    }

    /// Tries it, from wherever this process is.
    pub fn attempt(&self, target: &Target) -> Outcome {
        (self.attempt)(target)
    }
}

/// Begins a connection. If it is let through, the first packet goes out, and the socket is closed.
fn connect(domain: Domain, address: Option<impl Into<IpAddr>>) -> Outcome {
    open(domain, Type::STREAM.nonblocking(), Protocol::TCP, address, |socket, address| {
        // Without it a connection that was made after all would be ended in good order, with more packets.
        socket.set_linger(Some(std::time::Duration::ZERO))?;
        match socket.connect(&SocketAddr::new(address, HTTP_PORT).into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
            connected => connected,
        }
    })
}

/// Sends one datagram on a socket that is not connected.
fn send(domain: Domain, address: Option<impl Into<IpAddr>>) -> Outcome {
    open(domain, Type::DGRAM.nonblocking(), Protocol::UDP, address, |socket, address| {
        socket.send_to(b"\n", &SocketAddr::new(address, HTTP_PORT).into()).map(drop)
    })
}

/// Sends one echo request, which passes no hook but that of packets.
fn ping(domain: Domain, address: Option<impl Into<IpAddr>>) -> Outcome {
    // Type, code, checksum, identifier, sequence number. The kernel writes the checksum of the other.
    const ECHO_V4: [u8; 8] = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    const ECHO_V6: [u8; 8] = [128, 0, 0, 0, 0, 0, 0, 0];
    let (protocol, echo) =
        if domain == Domain::IPV4 { (Protocol::ICMPV4, ECHO_V4) } else { (Protocol::ICMPV6, ECHO_V6) };
    let Some(address) = address.map(Into::into) else { return Outcome::no_address() };
    let ping = |kind: Type| {
        open(domain, kind.nonblocking(), protocol, Some(address), |socket, address| {
            // Of a raw IPv6 address the port is a protocol's number, which must be the socket's own or none.
            socket.send_to(&echo, &SocketAddr::new(address, 0).into()).map(drop)
        })
    };
    match ping(Type::RAW) {
        // Without CAP_NET_RAW there may still be the sockets that `ping` uses.
        Outcome::Impossible(why) => match ping(Type::DGRAM) {
            Outcome::Impossible(_) => Outcome::Impossible(why),
            outcome => outcome,
        },
        outcome => outcome,
    }
}

/// Opens a socket and makes the attempt with it.
fn open(
    domain: Domain,
    kind: Type,
    protocol: Protocol,
    address: Option<impl Into<IpAddr>>,
    attempt: impl FnOnce(&Socket, IpAddr) -> io::Result<()>,
) -> Outcome {
    let Some(address) = address.map(Into::into) else { return Outcome::no_address() };
    match Socket::new(domain, kind, Some(protocol)) {
        Ok(socket) => Outcome::of(attempt(&socket, address)),
        Err(error) => Outcome::Impossible(format!("open a socket: {error}")),
    }
}

impl Outcome {
    fn no_address() -> Self {
        Self::Impossible("IMDS has no such address here".to_owned())
    }

    /// The guard refuses with ECONNREFUSED, or with EPERM where a kernel has no other way, and so it drops packets. Whether
    /// it was the guard only the kernel's count can tell.
    fn of(attempt: io::Result<()>) -> Self {
        match attempt {
            Ok(()) => Self::Passed,
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ECONNREFUSED | Errno::EPERM) => Self::Refused,
                _ => Self::Impossible(error.to_string()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn every_vector_is_found_by_a_name_of_its_own() {
        for vector in &VECTORS {
            let found = Vector::named(vector.name).expect("its own name");
            assert!(std::ptr::eq(found, vector), "{}", vector.name);
        }
        assert!(Vector::named("").is_none());
    }

    #[test]
    fn what_nobody_refuses_passes_and_what_has_no_address_is_impossible() {
        // Nobody guards this address; a socket holds the port, so that no refusal comes back.
        let Ok(_held) = UdpSocket::bind((Ipv4Addr::LOCALHOST, HTTP_PORT)) else {
            return eprintln!("skipped: the port is taken or not ours to take");
        };
        let target = Target { v4: Some(Ipv4Addr::LOCALHOST), v6: None };
        let attempt = |name| Vector::named(name).expect("a vector").attempt(&target);
        assert_eq!(attempt("sendmsg4"), Outcome::Passed);
        assert_eq!(attempt("connect6"), Outcome::no_address());
    }
}
