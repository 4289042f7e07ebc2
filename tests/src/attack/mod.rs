//! The attack suite: every way that is known to us of getting bytes from IMDS.
//!
//! Each [`Vector`] is a small function that a process inside a pod performs against a [`Target`], through the
//! executable `guard-attack`; tests start it with [`Place::attack`](crate::Place::attack) and read the [`Report`].
//! The functions know nothing of the guard and give up after [`PATIENCE`].

mod datagram;
mod frame;
pub mod gate;
mod hammer;
mod handmade;
mod handover;
pub mod http;
mod link;
mod outcome;
mod packet;
mod staged;
mod stream;
mod uring;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use hammer::{Blow, Tally, hammer, siege};
pub use handover::give_socket;
pub use outcome::{Outcome, Report};
pub use staged::{Siege, Staged};

/// How long an attack waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// What is attacked.
#[derive(Clone, Debug)]
pub struct Target {
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
    pub port: u16,
    /// The cgroup of the attacker, for the vectors that make cgroups of their own.
    pub cgroup: Option<PathBuf>,
}

impl Target {
    fn v4(&self) -> SocketAddr {
        (self.ipv4, self.port).into()
    }

    fn v6(&self) -> SocketAddr {
        (self.ipv6, self.port).into()
    }

    /// The IPv4 address through an IPv6 socket.
    fn mapped(&self) -> SocketAddr {
        (IpAddr::V6(self.ipv4.to_ipv6_mapped()), self.port).into()
    }
}

/// A way of reaching IMDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Vector {
    /// A blocking connect.
    Tcp,
    /// An IPv6 socket to `::ffff:169.254.169.254`: Linux runs only the IPv6 hooks.
    TcpMapped,
    /// The IPv6 address of IMDS.
    TcpIpv6,
    /// `sendto` with `MSG_FASTOPEN`: a connection without a connect call.
    TcpFastOpen,
    /// A connect that returns before it is done.
    TcpNonblocking,
    /// A protocol number other than TCP's.
    Mptcp,
    /// The same through an IPv4-mapped address.
    MptcpMapped,
    /// The same without a connect call.
    MptcpFastOpen,
    /// A connected UDP socket.
    UdpConnected,
    /// The same over IPv6.
    UdpConnectedIpv6,
    /// A destination with every datagram.
    UdpUnconnected,
    /// The same through an IPv4-mapped address.
    UdpUnconnectedMapped,
    /// The same over IPv6.
    UdpUnconnectedIpv6,
    /// Many datagrams with one call.
    Sendmmsg,
    /// A hand-made SYN through a raw socket.
    RawTcp,
    /// The same with a hand-made IP header.
    RawHdrincl,
    /// An echo request through a ping socket.
    IcmpPing,
    /// An echo request through a raw socket.
    IcmpRaw,
    /// The same over IPv6.
    IcmpRawIpv6,
    /// A connect made by the kernel for `io_uring`.
    #[serde(rename = "io-uring-connect")]
    #[value(name = "io-uring-connect")]
    IoUringConnect,
    /// A child in a cgroup that the attacker made below its own.
    ChildInSubCgroup,
    /// A connection that was open before the pause.
    Preconnected,
    /// The same over IPv6.
    PreconnectedIpv6,
    /// A UDP socket that was connected before the pause, and sends after it.
    PreconnectedUdp,
    /// A socket that was open before the pause, and is connected after it.
    PreopenedUnconnected,
    /// An unconnected socket that another process, of another pod maybe, made and handed over.
    ScmRights,
    /// A whole conversation through a packet socket, from the pod's own address.
    Link,
    /// The same over IPv6.
    LinkIpv6,
}

impl Vector {
    /// Every vector.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Those that pass a hook of sockets, so that the guard counts an attempt or a packet of them.
    pub fn of_sockets() -> impl Iterator<Item = Self> {
        Self::all().iter().copied().filter(|vector| *vector < Self::Link)
    }

    /// Its name on the command line and in reports.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it prints `ready` half-way and waits for a line.
    pub fn pauses(self) -> bool {
        matches!(
            self,
            Self::Preconnected | Self::PreconnectedIpv6 | Self::PreconnectedUdp | Self::PreopenedUnconnected
        )
    }

    /// Performs it, from wherever this process runs.
    pub fn perform(self, target: &Target) -> Report {
        let started = Instant::now();
        let outcome = match self {
            Self::Tcp => stream::tcp(target).into(),
            Self::TcpMapped => stream::tcp_mapped(target).into(),
            Self::TcpIpv6 => stream::tcp_ipv6(target).into(),
            Self::TcpFastOpen => stream::tcp_fast_open(target).into(),
            Self::TcpNonblocking => stream::tcp_nonblocking(target).into(),
            Self::Mptcp => stream::mptcp(target).into(),
            Self::MptcpMapped => stream::mptcp_mapped(target).into(),
            Self::MptcpFastOpen => stream::mptcp_fast_open(target).into(),
            Self::UdpConnected => datagram::connected(target).into(),
            Self::UdpConnectedIpv6 => datagram::connected_ipv6(target).into(),
            Self::UdpUnconnected => datagram::unconnected(target).into(),
            Self::UdpUnconnectedMapped => datagram::unconnected_mapped(target).into(),
            Self::UdpUnconnectedIpv6 => datagram::unconnected_ipv6(target).into(),
            Self::Sendmmsg => datagram::many_at_once(target).into(),
            Self::RawTcp => packet::raw_tcp(target).into(),
            Self::RawHdrincl => packet::raw_with_ip_header(target).into(),
            Self::IcmpPing => packet::ping_socket(target).into(),
            Self::IcmpRaw => packet::raw_ping(target).into(),
            Self::IcmpRawIpv6 => packet::raw_ping_ipv6(target).into(),
            Self::IoUringConnect => uring::connect(target).into(),
            Self::ChildInSubCgroup => handover::child_in_sub_cgroup(target)
                .unwrap_or_else(|error| Outcome::Broken(error.to_string())),
            Self::Preconnected => stream::preconnected(target).into(),
            Self::PreconnectedIpv6 => stream::preconnected_ipv6(target).into(),
            Self::PreconnectedUdp => datagram::preconnected(target).into(),
            Self::PreopenedUnconnected => stream::preopened(target).into(),
            Self::ScmRights => handover::taken_socket(target).into(),
            Self::Link => link::own_address(target).into(),
            Self::LinkIpv6 => link::own_address_ipv6(target).into(),
        };
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Report { vector: self, outcome, milliseconds }
    }
}
