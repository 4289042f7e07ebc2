//! What is declared of every vector and every kind of pod: the table of docs/security.md, as code. The suite holds the
//! guard to it, and itself: what is closed must be an attack where nothing guards.

use std::fmt;

use super::Kind;
use crate::attack::Vector;

/// What becomes of a vector where everyone is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It reaches IMDS without the guard, and not with it.
    Closed(Lock),
    /// A pod of this kind may not do it.
    Needs(&'static str),
    /// It reaches nothing, guard or not, for this reason.
    Harmless(&'static str),
    /// There is no such thing, for this reason.
    None(&'static str),
    /// It gets bytes, and that is no promise of ours that it doesn't, for this reason.
    OutOfScope(&'static str),
}

/// What closes the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// `connect4`, `connect6`, `sendmsg4`, `sendmsg6`.
    Connect,
    /// The lock on packets of sockets, `egress`.
    Egress,
    /// The backstop of what the node forwards.
    Forward,
    /// The backstop of what leaves the node by packet sockets.
    Uplink,
    /// The BPF LSM, where the kernel has it switched on.
    Lsm,
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Egress => "egress",
            Self::Forward => "forward",
            Self::Uplink => "uplink",
            Self::Lsm => "lsm",
        })
    }
}

const NET_RAW: &str = "NET_RAW";
const NET_ADMIN: &str = "NET_ADMIN";
const SYS_ADMIN: &str = "SYS_ADMIN";

/// What becomes of `vector` from a pod of this kind.
pub fn fate(vector: Vector, kind: Kind) -> Fate {
    match vector {
        Vector::ArpSpoofed if kind.host_network => {
            return Fate::None("the router is nobody's neighbour on its bridge");
        }
        Vector::AddressReused if kind.host_network => {
            return Fate::None("the node's address stays the node's");
        }
        _ => {}
    }
    if let Some(capability) = missing(vector, kind) {
        return Fate::Needs(capability);
    }
    match vector {
        Vector::Tcp
        | Vector::TcpMapped
        | Vector::TcpIpv6
        | Vector::TcpFastOpen
        | Vector::TcpNonblocking
        | Vector::Mptcp
        | Vector::MptcpMapped
        | Vector::MptcpFastOpen
        | Vector::UdpConnected
        | Vector::UdpConnectedIpv6
        | Vector::UdpUnconnected
        | Vector::UdpUnconnectedMapped
        | Vector::UdpUnconnectedIpv6
        | Vector::Sendmmsg
        | Vector::IoUringConnect
        | Vector::ChildInSubCgroup
        | Vector::PreopenedUnconnected
        | Vector::ScmRights
        | Vector::UserNamespace
        | Vector::StolenSocket
        | Vector::Smc => Fate::Closed(Lock::Connect),

        Vector::RawTcp
        | Vector::RawHdrincl
        | Vector::RawFragments
        | Vector::RawOptions
        | Vector::IcmpPing
        | Vector::IcmpRaw
        | Vector::IcmpRawIpv6
        | Vector::Preconnected
        | Vector::PreconnectedIpv6
        | Vector::PreconnectedUdp
        | Vector::DnatInPod => Fate::Closed(Lock::Egress),

        Vector::Service if kind.host_network => Fate::Closed(Lock::Egress),
        Vector::Xdp if kind.host_network => Fate::Closed(Lock::Lsm),
        Vector::SourceRoute | Vector::RoutingHeader4 if kind.host_network => {
            Fate::Harmless("no router behind the node follows it")
        }
        Vector::Undo if kind.host_network => {
            Fate::OutOfScope("who may change the host's network may undo what guards it")
        }

        Vector::Link
        | Vector::LinkIpv6
        | Vector::LinkQdiscBypass
        | Vector::LinkOtherDevice
        | Vector::LinkSpoofed
        | Vector::LinkFragments
        | Vector::LinkOptions
        | Vector::LinkTagged
            if kind.host_network =>
        {
            Fate::Closed(Lock::Uplink)
        }
        // What leaves a pod's own network is forwarded by the node.
        Vector::Link
        | Vector::LinkIpv6
        | Vector::LinkQdiscBypass
        | Vector::LinkOtherDevice
        | Vector::LinkSpoofed
        | Vector::LinkFragments
        | Vector::LinkOptions
        | Vector::LinkTagged
        | Vector::Xdp
        | Vector::ArpSpoofed
        | Vector::AddressReused
        | Vector::SourceRoute
        | Vector::RoutingHeader4
        | Vector::Ipip
        | Vector::Vxlan
        | Vector::TunDevice
        | Vector::Service
        | Vector::Undo => Fate::Closed(Lock::Forward),

        Vector::RoutingHeader0 | Vector::RoutingHeader2 => Fate::Harmless("Linux follows none"),
        Vector::UserNamespaceLink => Fate::Harmless("its rights count for its own networks alone"),
        Vector::StolenConnection => {
            Fate::OutOfScope("who may take a process' descriptors may read its credentials")
        }
        Vector::Setns => Fate::Needs(SYS_ADMIN),
    }
}

/// The capability that a pod of this kind lacks for a vector.
fn missing(vector: Vector, kind: Kind) -> Option<&'static str> {
    match vector {
        Vector::RawTcp
        | Vector::RawHdrincl
        | Vector::RawFragments
        | Vector::RawOptions
        | Vector::IcmpRaw
        | Vector::IcmpRawIpv6
        | Vector::Link
        | Vector::LinkIpv6
        | Vector::LinkQdiscBypass
        | Vector::LinkOtherDevice
        | Vector::LinkSpoofed
        | Vector::LinkFragments
        | Vector::LinkOptions
        | Vector::LinkTagged
        | Vector::ArpSpoofed
        | Vector::AddressReused
        | Vector::Xdp
        | Vector::SourceRoute
        | Vector::RoutingHeader0
        | Vector::RoutingHeader2
        | Vector::RoutingHeader4
        | Vector::Ipip => (!kind.has_net_raw()).then_some(NET_RAW),
        Vector::TunDevice | Vector::DnatInPod | Vector::Undo => (!kind.has_net_admin()).then_some(NET_ADMIN),
        Vector::Setns => Some(SYS_ADMIN),
        _ => None,
    }
}
