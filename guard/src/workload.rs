//! Who makes an attempt, in Kubernetes' words: everything that a policy's selectors can look at.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Labels of a Kubernetes object.
pub type Labels = BTreeMap<String, String>;

/// What the policy may know of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    pub namespace: String,
    pub namespace_labels: Labels,
    pub service_account: String,
    /// The pod's owners as `kind/name`, the kind in lower case: `replicaset/kcl-5d8f7c9b6d`, `deployment/kcl`.
    pub owners: Vec<String>,
    /// The pod's own labels: written by whoever may create pods.
    pub labels: Labels,
    pub host_network: bool,
    pub node_labels: Labels,
}
