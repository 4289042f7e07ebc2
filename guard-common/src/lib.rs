//! The kernel ABI of imds-guard: keys, values and event records that the kernel programs and the agent share,
//! and [`decide`], the one decision that both the kernel and the host tests run.
//!
//! Everything here is plain data with a fixed layout. It allocates nothing, names no kernel helper and no map.
//! A change to any layout is a change of [`ABI_VERSION`].
#![cfg_attr(not(test), no_std)]
#![warn(missing_docs)]

mod address;
#[cfg(feature = "aya")]
mod aya;
mod counter;
mod decide;
mod event;
mod gate;
mod pod;
mod request;
mod rule;

pub use address::Address;
pub use counter::{CounterKey, OVERFLOW_SLOTS};
pub use decide::{Decision, decide, way};
pub use event::{AttemptEvent, Budget, COMM_LEN, EVENTS_PER_POD_AND_SECOND, Lost};
pub use gate::{GATE_PORT_FIRST, Gate, GateKey, HTTP_PORT, NamespaceCookie, Redirected};
pub use pod::{CgroupId, Kind, PodEntry, Ruling, SocketOrigin};
pub use request::{OpenRequest, REQUEST_LINE_LEN, RequestRecord, SCAN_BUDGET, Scan, Sent, status_of};
pub use rule::{CANARY_RULE, MAX_RULES, RuleId, RuleLabel};

/// Goes up with every change to a layout in this crate: state that is pinned under another version is replaced, not read.
///
/// The books are the exception, so that every version can carry on what another one counted: the keys and values of the
/// maps `COUNTERS`, `OVERFLOW`, `LOST`, `RULES` and `ENDPOINTS` never change, and codes are only added.
pub const ABI_VERSION: u32 = if cfg!(feature = "next-abi") { 4 } else { 3 };

/// How many endpoints a node can guard: the length of [`PodEntry::rulings`].
pub const MAX_ENDPOINTS: usize = 8;

/// Which protected endpoint an address belongs to: an index into [`PodEntry::rulings`], below [`MAX_ENDPOINTS`].
pub type EndpointId = u8;

/// A one-byte code with a checked meaning. Kernel memory is never read as a Rust enum: bytes are decoded, and a
/// byte that is not known decodes to the closed choice.
macro_rules! code {
    (
        $(#[$meta:meta])* $name:ident, closed: $closed:ident,
        { $($(#[$vmeta:meta])* $variant:ident = $code:literal $text:literal),+ $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant = $code),+ }

        impl $name {
            /// Every variant, in the order of its code.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The byte that stands for it in kernel memory.
            #[inline(always)]
            pub const fn code(self) -> u8 { self as u8 }

            /// Decodes a byte; one that is not known is the closed choice.
            #[inline(always)]
            pub const fn from_code(code: u8) -> Self {
                match code { $($code => Self::$variant,)+ _ => Self::$closed }
            }

            /// Its name in metrics, logs and the command line.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}
pub(crate) use code;

code! {
    /// What the policy says of a pod and an endpoint.
    Verdict, closed: Deny, {
        /// Everything.
        Allow = 0 "allow",
        /// Nothing: the gate answers 403, and where there is no gate the attempt ends with an errno.
        Deny = 1 "deny",
        /// Some of the endpoint's paths: the gate decides by request, and without it nothing passes.
        Filter = 2 "filter",
    }
}

code! {
    /// Whether a verdict is carried out or only recorded.
    Mode, closed: Enforce, {
        /// Recorded, and let through.
        Audit = 0 "audit",
        /// Carried out.
        Enforce = 1 "enforce",
    }
}

code! {
    /// How an attempt goes on.
    Way, closed: Refused, {
        /// To where it wanted to.
        Direct = 0 "direct",
        /// To the pod's gate, which answers in the endpoint's stead.
        Gate = 1 "gate",
        /// It ends with an errno.
        Refused = 2 "refused",
    }
}

code! {
    /// Which of the locks saw the traffic.
    Lock, closed: Egress, {
        /// connect or sendmsg: one attempt of a process.
        Socket = 0 "socket",
        /// A packet on its way out of a socket that the first lock never judged.
        Egress = 1 "egress",
        /// A frame on its way out of the host: of a packet socket, or sent on for somebody.
        Uplink = 2 "uplink",
    }
}

code! {
    /// The kernel hook an event comes from.
    Hook, closed: Egress, {
        /// `cgroup/connect4`.
        Connect4 = 0 "connect4",
        /// `cgroup/connect6`.
        Connect6 = 1 "connect6",
        /// `cgroup/sendmsg4`.
        Sendmsg4 = 2 "sendmsg4",
        /// `cgroup/sendmsg6`.
        Sendmsg6 = 3 "sendmsg6",
        /// `cgroup_skb/egress`.
        Egress = 4 "egress",
        /// tc egress at a device that leads out of the host.
        Uplink = 5 "uplink",
    }
}

impl Hook {
    /// The lock that the hook belongs to.
    #[inline(always)]
    pub const fn lock(self) -> Lock {
        match self {
            Self::Egress => Lock::Egress,
            Self::Uplink => Lock::Uplink,
            Self::Connect4 | Self::Connect6 | Self::Sendmsg4 | Self::Sendmsg6 => Lock::Socket,
        }
    }
}
