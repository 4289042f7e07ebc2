use std::fmt;

use crate::Capabilities;

/// A kind of pod that attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    pub host_network: bool,
    pub capabilities: Capabilities,
}

impl Kind {
    /// Every kind, in the order of the table's columns.
    pub const ALL: [Self; 6] = [
        Self::on_pod_network(Capabilities::None),
        Self::on_pod_network(Capabilities::Default),
        Self::on_pod_network(Capabilities::NetAdmin),
        Self::on_host_network(Capabilities::None),
        Self::on_host_network(Capabilities::Default),
        Self::on_host_network(Capabilities::NetAdmin),
    ];

    /// Those that are named in `$IMDS_GUARD_ATTACK_PODS`, else every kind: an emulated processor takes its time for each.
    pub(super) fn chosen() -> Vec<Self> {
        let names = std::env::var("IMDS_GUARD_ATTACK_PODS").unwrap_or_default();
        let is_named = |kind: &Self| names.split_whitespace().any(|name| name == kind.account());
        Self::ALL.into_iter().filter(|kind| names.is_empty() || is_named(kind)).collect()
    }

    const fn on_pod_network(capabilities: Capabilities) -> Self {
        Self { host_network: false, capabilities }
    }

    const fn on_host_network(capabilities: Capabilities) -> Self {
        Self { host_network: true, capabilities }
    }

    /// Whether it may use raw and packet sockets.
    pub fn has_net_raw(self) -> bool {
        self.capabilities != Capabilities::None
    }

    /// Whether it may change its network.
    pub fn has_net_admin(self) -> bool {
        matches!(self.capabilities, Capabilities::NetAdmin | Capabilities::All)
    }

    /// A name that may stand in a service account's.
    pub fn account(self) -> String {
        let network = if self.host_network { "host" } else { "pod" };
        let capabilities = match self.capabilities {
            Capabilities::None => "hardened",
            Capabilities::Default => "default",
            Capabilities::NetAdmin => "net-admin",
            Capabilities::All => "privileged",
        };
        format!("{network}-{capabilities}")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = if self.host_network { "hostNetwork" } else { "pod" };
        let capabilities = match self.capabilities {
            Capabilities::None => ", no capabilities",
            Capabilities::Default => "",
            Capabilities::NetAdmin => " with NET_ADMIN",
            Capabilities::All => ", privileged",
        };
        write!(f, "{network}{capabilities}")
    }
}
