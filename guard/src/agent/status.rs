//! What the agent says of itself: the answer to `/status`, as `imds-guard status` reads it.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// The answer to `/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub node: Option<String>,
    /// Where `/metrics` is.
    pub listen: SocketAddr,
    pub guarded_root: String,
    /// Whether a denial is carried out for at least one pod.
    pub enforcing: bool,
    pub policy: PolicyStatus,
    /// How many rulings the kernel holds for pods and QoS classes, those of pods that are just gone included.
    pub rulings: usize,
    /// How many counters the kernel holds.
    pub counters: usize,
    /// Features that are degraded.
    pub degraded: Vec<String>,
    pub pods: Vec<PodStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyStatus {
    pub path: String,
    pub sha256: String,
    /// Why the policy as it stands now was refused. The one with the hash above goes on deciding.
    pub refused: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodStatus {
    pub cgroup: u64,
    /// Left out for a pod that has no name yet, like the next two.
    pub namespace: Option<String>,
    pub pod: Option<String>,
    pub service_account: Option<String>,
    /// By endpoint.
    pub rulings: BTreeMap<String, RulingStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RulingStatus {
    pub verdict: String,
    pub mode: String,
    pub rule: String,
}
