use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// The lowest port that a gate may have; the highest is the last there is. They lie above the range from which Linux
/// takes ports for outgoing connections (32768 to 60999, unless somebody changes it).
pub const GATE_PORT_FIRST: u16 = 61_000;

/// The port on which IMDS listens, and the only one that leads to a gate.
pub const HTTP_PORT: u16 = 80;

/// The kernel's 64-bit id of a network namespace (`SO_NETNS_COOKIE`). It is never used again.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct NamespaceCookie(pub u64);

/// Where a pod's gate listens: on this port of the loopback addresses of this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gate {
    /// A sandbox that is made again has the same cgroup and another namespace, in which this gate is not.
    pub namespace: NamespaceCookie,
    /// Never 0.
    pub port: u16,
}

/// The key of the map `GATES`, which has every port that is a gate's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GateKey {
    namespace: NamespaceCookie,
    port: u16,
    reserved: [u8; 6],
}

impl GateKey {
    /// The key of the gate at `port` in a namespace.
    #[inline(always)]
    pub const fn new(namespace: NamespaceCookie, port: u16) -> Self {
        Self { namespace, port, reserved: [0; 6] }
    }

    /// The gate's port.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl From<Gate> for GateKey {
    fn from(Gate { namespace, port }: Gate) -> Self {
        Self::new(namespace, port)
    }
}

/// What is kept with a socket that was sent to a gate: the address that it asked for, which `getpeername` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Redirected {
    /// As it was asked for.
    pub address: Address,
    /// In network order, as the hook's context has it.
    pub port: u32,
}
