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
    /// It gets bytes, and that is a gap of ours, for this reason.
    Gap(&'static str),
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
    /// What is refused to sockets that would pass the queues of a device, and the backstop of those that were there before.
    Bypass,
}

impl Lock {
    /// Every lock.
    pub const ALL: [Self; 5] = [Self::Connect, Self::Egress, Self::Forward, Self::Uplink, Self::Bypass];

    /// What it is, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Connect => {
                "the connect or the unconnected send is refused, or sent to the gate, which answers 403"
            }
            Self::Egress => "packets of the pod's sockets are dropped",
            Self::Forward => "packets that the node forwards are dropped",
            Self::Uplink => "frames of the pod's packet sockets are dropped where they leave the node",
            Self::Bypass => {
                "sockets may not pass the queues of a device, and frames of those that do are dropped"
            }
        }
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Egress => "egress",
            Self::Forward => "forward",
            Self::Uplink => "uplink",
            Self::Bypass => "bypass",
        })
    }
}

const NET_RAW: &str = "NET_RAW";
const NET_ADMIN: &str = "NET_ADMIN";
const SYS_ADMIN: &str = "SYS_ADMIN";

/// Whom the guard does not promise to stop, with the reason, beside the vectors that are declared so.
pub const BEYOND: [(&str, &str); 5] = [
    ("privileged containers, and those with `SYS_ADMIN` or `BPF`", "they may detach the guard"),
    ("hostNetwork pods with `NET_ADMIN` that set out to", "they may take away the backstop, as `undo` does"),
    ("pods that see other pods' processes and may trace them", "they may read the credentials themselves"),
    ("kubelet probes and hooks of the kind `httpGet` with `host:`", "the kubelet, which asks, is no pod"),
    ("containers in virtual machines (Kata)", "their network stack is not the node's"),
];

/// What becomes of `vector` from a pod of this kind.
pub fn fate(vector: Vector, kind: Kind) -> Fate {
    use Vector as V;
    match vector {
        V::ArpSpoofed if kind.host_network => Fate::None("the router is nobody's neighbour on its bridge"),
        V::AddressReused if kind.host_network => Fate::None("the node's address stays the node's"),
        V::LinkMacvlan if kind.host_network => Fate::None("it has the uplink itself"),
        _ => match missing(vector, kind) {
            Some(capability) => Fate::Needs(capability),
            None if kind.host_network => from_host_network(vector),
            None => from_pod_network(vector),
        },
    }
}

/// What leaves a pod's own network is forwarded by the node.
fn from_pod_network(vector: Vector) -> Fate {
    use Vector as V;
    match vector {
        V::Link
        | V::LinkIpv6
        | V::LinkQdiscBypass
        | V::LinkOtherDevice
        | V::LinkSpoofed
        | V::LinkFragments
        | V::LinkOptions
        | V::LinkTagged
        | V::Xdp
        | V::XdpCompat
        | V::PreopenedXdp
        | V::PreopenedBypass
        | V::PreopenedBypassIpv6
        | V::PreopenedBypassTagged
        | V::ArpSpoofed
        | V::AddressReused
        | V::SourceRoute
        | V::RoutingHeader4
        | V::Ipip
        | V::Vxlan
        | V::TunDevice
        | V::Service
        | V::Undo => Fate::Closed(Lock::Forward),
        V::LinkMacvlan => Fate::Closed(Lock::Uplink),
        _ => from_anywhere(vector),
    }
}

/// What leaves the node's network is not.
fn from_host_network(vector: Vector) -> Fate {
    use Vector as V;
    match vector {
        V::Link
        | V::LinkIpv6
        | V::LinkOtherDevice
        | V::LinkSpoofed
        | V::LinkFragments
        | V::LinkOptions
        | V::LinkTagged => Fate::Closed(Lock::Uplink),
        V::Xdp
        | V::LinkQdiscBypass
        | V::PreopenedBypass
        | V::PreopenedBypassIpv6
        | V::PreopenedBypassTagged => Fate::Closed(Lock::Bypass),
        V::XdpCompat => Fate::Gap("a cgroup's programs for `setsockopt` are not run for 32-bit system calls"),
        V::PreopenedXdp => Fate::Gap("an `AF_XDP` socket that is ready before the guard passes everything"),
        // They come back into the node, out of a device of its own.
        V::Ipip | V::Vxlan | V::TunDevice => Fate::Closed(Lock::Forward),
        V::Service => Fate::Closed(Lock::Egress),
        V::SourceRoute | V::RoutingHeader4 => Fate::Harmless("no router behind the node follows it"),
        V::Undo => Fate::OutOfScope("who may change the host's network may undo what guards it"),
        _ => from_anywhere(vector),
    }
}

/// What is the same for both.
fn from_anywhere(vector: Vector) -> Fate {
    use Vector as V;
    match vector {
        V::RawTcp
        | V::RawHdrincl
        | V::RawFragments
        | V::RawOptions
        | V::IcmpPing
        | V::IcmpRaw
        | V::IcmpRawIpv6
        | V::Preconnected
        | V::PreconnectedIpv6
        | V::PreconnectedUdp
        | V::DnatInPod => Fate::Closed(Lock::Egress),
        V::RoutingHeader0 | V::RoutingHeader2 => Fate::Harmless("Linux follows none"),
        V::UserNamespaceLink => Fate::Harmless("its rights count for its own networks alone"),
        V::StolenConnection => {
            Fate::OutOfScope("who may take a process' descriptors may read its credentials")
        }
        // All others make a connection, or send to an address.
        _ => Fate::Closed(Lock::Connect),
    }
}

/// The capability that a pod of this kind lacks for a vector.
fn missing(vector: Vector, kind: Kind) -> Option<&'static str> {
    use Vector as V;
    match vector {
        V::RawTcp
        | V::RawHdrincl
        | V::RawFragments
        | V::RawOptions
        | V::IcmpRaw
        | V::IcmpRawIpv6
        | V::Link
        | V::LinkIpv6
        | V::LinkQdiscBypass
        | V::LinkOtherDevice
        | V::LinkMacvlan
        | V::LinkSpoofed
        | V::LinkFragments
        | V::LinkOptions
        | V::LinkTagged
        | V::ArpSpoofed
        | V::AddressReused
        | V::Xdp
        | V::XdpCompat
        | V::PreopenedXdp
        | V::PreopenedBypass
        | V::PreopenedBypassIpv6
        | V::PreopenedBypassTagged
        | V::SourceRoute
        | V::RoutingHeader0
        | V::RoutingHeader2
        | V::RoutingHeader4
        | V::Ipip => (!kind.has_net_raw()).then_some(NET_RAW),
        V::TunDevice | V::DnatInPod | V::Undo => (!kind.has_net_admin()).then_some(NET_ADMIN),
        V::Setns => Some(SYS_ADMIN),
        _ => None,
    }
}
