//! Which pods run here, and which cgroups are theirs: what Kubernetes lists and what the kernel shows, joined in
//! an [`Index`].
//!
//! A pod is known by its cgroup, whose folder the kubelet names after the pod's uid, and a cgroup by the inode
//! number of its folder. Nothing here trusts an IP address, a process id or `/proc/PID/cgroup`, which a private
//! cgroup namespace rewrites. Nothing here decides: the policy judges a [`Pod`] by its [`Workload`].

mod cgroup;
mod index;
mod list;
mod mount;
pub(crate) mod object;
mod tree;

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

pub use index::{Container, Identity, Index, KnownPod};
pub use list::{ListError, parse_list, read_list};
pub use mount::{find_cgroup2_mount, find_guarded_root};
pub use tree::{PodCgroup, Tree, pod_of, walk};

use crate::workload::Workload;

/// A pod's uid as its cgroup is named: `metadata.uid`, or for a static pod the hash of its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodUid(String);

/// A container's id as the runtime names its cgroup, without the runtime's own prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerId(String);

/// A pod as Kubernetes lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub uid: PodUid,
    /// `metadata.uid`, for logs: a static pod has this one in the API and another in its cgroup's name.
    pub declared_uid: String,
    pub name: String,
    pub workload: Workload,
    /// Its service account, once it has been looked up.
    pub service_account: Option<ServiceAccount>,
    /// The names of its containers, init and ephemeral ones too, by the ids of their last start.
    pub containers: BTreeMap<ContainerId, String>,
    /// Where its network has them: they say where its packets come from, and never who it is.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// What is known of a service account beside its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccount {
    pub uid: String,
    /// The IAM role that IRSA gives it.
    pub role: Option<String>,
}

impl PodUid {
    pub fn new(uid: impl Into<String>) -> Self {
        Self(uid.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ContainerId {
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The container whose folder in a pod's cgroup is `name`.
pub fn container_of(name: &str) -> Option<ContainerId> {
    cgroup::container(name)
}

/// Leaves out pods that claim the same cgroup: none of them can be believed. Whoever may create pods can write the
/// annotation that marks a static pod, so this must not cost the others their names.
pub(crate) fn without_shared_uids(mut pods: Vec<Pod>) -> Vec<Pod> {
    let mut claims: BTreeMap<PodUid, usize> = BTreeMap::new();
    for pod in &pods {
        *claims.entry(pod.uid.clone()).or_default() += 1;
    }
    pods.retain(|pod| {
        let alone = claims[&pod.uid] == 1;
        if !alone {
            let (namespace, name) = (&pod.workload.namespace, &pod.name);
            tracing::warn!(namespace, name, uid = %pod.uid, "left out: another pod claims the same cgroup");
        }
        alone
    });
    pods
}
