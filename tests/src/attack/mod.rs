//! The attack suite: every way that is known to us of getting bytes from IMDS.
//!
//! Each [`Vector`] is a small function that a process inside a pod performs against a [`Target`], through the
//! executable `guard-attack`; tests start it with [`Place::attack`](crate::Place::attack) and read the [`Report`].
//! The functions know nothing of the guard and give up after [`PATIENCE`].

mod compat;
mod datagram;
mod frame;
pub mod gate;
mod hammer;
mod handmade;
mod handover;
pub mod http;
mod link;
mod network;
mod outcome;
mod packet;
mod props;
mod shaped;
mod staged;
mod stream;
pub mod suite;
mod theft;
mod uring;
mod wrapped;
mod xdp;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use compat::{PROBE, probe};
pub use hammer::{Blow, Tally, hammer, siege};
pub use handmade::{Conversation, begin_conversation};
pub use handover::{Held, give_socket, hold_sockets};
pub use outcome::{Outcome, Report};
pub use props::Props;
pub use staged::{Siege, Staged};
pub use wrapped::{VXLAN, VXLAN_MAC, VXLAN_PORT};

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
    pub props: Props,
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
    /// The same past the queueing discipline (`PACKET_QDISC_BYPASS`).
    LinkQdiscBypass,
    /// The same through a device that is not on the way to IMDS.
    LinkOtherDevice,
    /// The same through a device of the pod's own on the node's uplink, as an additional network gives it.
    LinkMacvlan,
    /// A datagram in the name of somebody who may.
    LinkSpoofed,
    /// Every packet in fragments of 8 bytes.
    LinkFragments,
    /// Every packet with 40 bytes of IP options.
    LinkOptions,
    /// Every frame with a VLAN tag that names no VLAN.
    LinkTagged,
    /// A conversation in the name of a neighbour on the same bridge, whose place it took by ARP.
    ArpSpoofed,
    /// A connection that a predecessor at the same address began, and the node's connection tracking remembers.
    AddressReused,
    /// An `AF_XDP` socket.
    Xdp,
    /// The same, made ready by a 32-bit program's system calls.
    XdpCompat,
    /// The same, made ready before the pause.
    PreopenedXdp,
    /// A packet socket that was to pass the queueing discipline before the pause.
    PreopenedBypass,
    /// The same over IPv6.
    PreopenedBypassIpv6,
    /// The same with a VLAN tag on each frame.
    PreopenedBypassTagged,
    /// Fragments through a raw socket.
    RawFragments,
    /// IP options through a raw socket.
    RawOptions,
    /// A raw packet to the node, with a source route to IMDS.
    SourceRoute,
    /// An IPv6 packet to the node, with a routing header of type 0 that names IMDS.
    #[serde(rename = "routing-header-0")]
    #[value(name = "routing-header-0")]
    RoutingHeader0,
    /// The same of type 2.
    #[serde(rename = "routing-header-2")]
    #[value(name = "routing-header-2")]
    RoutingHeader2,
    /// The same of type 4, a segment route.
    #[serde(rename = "routing-header-4")]
    #[value(name = "routing-header-4")]
    RoutingHeader4,
    /// A datagram in an IPv4 packet to the node.
    Ipip,
    /// A datagram in a VXLAN packet to the node.
    Vxlan,
    /// Packets that come out of a TUN device of the pod's own.
    TunDevice,
    /// A connection to somewhere else that is translated in the pod's own network.
    DnatInPod,
    /// A connection to a service that the node translates into IMDS.
    Service,
    /// A connect from a user namespace with a network of its own.
    UserNamespace,
    /// A packet socket, as root of a user namespace.
    UserNamespaceLink,
    /// A connect in another pod's network.
    Setns,
    /// A connect with a socket out of another pod's process (`pidfd_getfd`).
    StolenSocket,
    /// A request on a connection out of another pod's process.
    StolenConnection,
    /// A connect by shared memory communications.
    Smc,
    /// A packet socket, after every table and program on the way that it can remove is gone.
    Undo,
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
            Self::Preconnected
                | Self::PreconnectedIpv6
                | Self::PreconnectedUdp
                | Self::PreopenedUnconnected
                | Self::PreopenedXdp
                | Self::PreopenedBypass
                | Self::PreopenedBypassIpv6
                | Self::PreopenedBypassTagged
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
            Self::LinkQdiscBypass => link::without_queue(target).into(),
            Self::LinkOtherDevice | Self::LinkMacvlan => link::other_device(target).into(),
            Self::LinkSpoofed => link::spoofed(target).into(),
            Self::LinkFragments => shaped::fragments(target).into(),
            Self::LinkOptions => shaped::options(target).into(),
            Self::LinkTagged => link::tagged(target).into(),
            Self::ArpSpoofed => link::arp_spoofed(target).into(),
            Self::AddressReused => handmade::go_on(target).into(),
            Self::Xdp => xdp::fetch(target).into(),
            Self::XdpCompat => xdp::by_compat_calls(target).into(),
            Self::PreopenedXdp => xdp::preopened(target).into(),
            Self::PreopenedBypass => link::preopened_without_queue(target).into(),
            Self::PreopenedBypassIpv6 => link::preopened_without_queue_ipv6(target).into(),
            Self::PreopenedBypassTagged => link::preopened_without_queue_tagged(target).into(),
            Self::RawFragments => shaped::raw_fragments(target).into(),
            Self::RawOptions => shaped::raw_options(target).into(),
            Self::SourceRoute => shaped::source_route(target).into(),
            Self::RoutingHeader0 => shaped::routing_header(0, target).into(),
            Self::RoutingHeader2 => shaped::routing_header(2, target).into(),
            Self::RoutingHeader4 => shaped::routing_header(4, target).into(),
            Self::Ipip => wrapped::ipip(target).into(),
            Self::Vxlan => wrapped::vxlan(target).into(),
            Self::TunDevice => network::tunnel_device(target).into(),
            Self::DnatInPod => network::translated(target).into(),
            Self::Service => theft::service(target).into(),
            Self::UserNamespace => theft::from_own_user_namespace(target).into(),
            Self::UserNamespaceLink => theft::as_root_of_a_user_namespace(target).into(),
            Self::Setns => theft::network(target).into(),
            Self::StolenSocket => theft::socket(target).into(),
            Self::StolenConnection => theft::connection(target).into(),
            Self::Smc => theft::smc(target).into(),
            Self::Undo => network::undo(target).into(),
        };
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Report { vector: self, outcome, milliseconds }
    }
}
