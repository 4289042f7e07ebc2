//! What the agent says of itself: the answer to `/status`, as `imds-guard status` reads it.

use std::{collections::BTreeMap, net::SocketAddr};

use guard_common::{CgroupId, Verdict};
use serde::{Deserialize, Serialize};

use super::{selftest::SelftestStatus, state::State};
use crate::{
    issued::Held,
    pods::Identity,
    policy::{Explanation, RuleName},
    workload::Workload,
};

/// The answer to `/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// The agent's process, as it sees itself.
    #[serde(default)]
    pub pid: u32,
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
    /// None on a host that can have no gates.
    #[serde(default)]
    pub gates: Option<GateStatus>,
    #[serde(default)]
    pub selftest: SelftestStatus,
    /// The service accounts that are denied now and may still hold credentials of the node's role from before.
    #[serde(default)]
    pub credentials: Vec<Held>,
    /// Features that are degraded.
    pub degraded: Vec<String>,
    pub pods: Vec<PodStatus>,
}

/// Pods that reach IMDS through a gate alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateStatus {
    pub open: usize,
    /// Those whose gate is not open: they are refused.
    pub missing: usize,
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
    /// Whether it was there when the programs were attached.
    #[serde(default)]
    pub started_unguarded: bool,
    /// By endpoint.
    pub rulings: BTreeMap<String, RulingStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RulingStatus {
    pub verdict: String,
    pub mode: String,
    pub rule: String,
}

/// The answer to `/explain`: why the policy in force decides as it does about one of this node's pods.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explained {
    pub workload: Workload,
    pub explanation: Explanation,
    /// Where those who are denied find help.
    pub help: Option<String>,
}

impl State {
    /// Explains what the pod `namespace/name` may do, if it is on this node.
    pub(super) fn explain(&self, pod: &str) -> Option<Explained> {
        let (namespace, name) = pod.split_once('/')?;
        let (cgroup, pod) = self.index.pods().find_map(|(cgroup, identity)| match identity {
            Identity::Pod(pod) if pod.workload.namespace == namespace && pod.name == name => {
                Some((cgroup, pod))
            }
            Identity::Pod(_) | Identity::Unidentified => None,
        })?;
        let policy = &self.policy.policy;
        let mut explanation = policy.explain(&pod.workload, self.day);
        if self.is_agent(cgroup) {
            for outcome in &mut explanation.outcomes {
                (outcome.verdict, outcome.rule, outcome.filter) = (Verdict::Allow, RuleName::SELF, None);
            }
        }
        Some(Explained {
            workload: pod.workload.clone(),
            explanation,
            help: policy.help().map(ToOwned::to_owned),
        })
    }

    pub(super) fn status(&mut self) -> Status {
        self.collect();
        self.note_issued();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            node: self.settings.node_name.clone(),
            listen: self.listen,
            guarded_root: self.root().display().to_string(),
            enforcing: self.enforcing(),
            policy: PolicyStatus {
                path: self.settings.policy.display().to_string(),
                sha256: self.policy.policy.sha256().to_owned(),
                refused: self.policy.refused.clone(),
            },
            rulings: self.applied.len(),
            counters: self.account.len(),
            gates: self.doors.counts(),
            selftest: self.selftest.status(),
            credentials: self.held(),
            degraded: self.degraded.iter().map(ToString::to_string).collect(),
            pods: self.index.pods().map(|(cgroup, identity)| self.pod_status(cgroup, identity)).collect(),
        }
    }

    fn pod_status(&self, cgroup: CgroupId, identity: Identity<'_>) -> PodStatus {
        let pod = match identity {
            Identity::Pod(pod) => Some(pod),
            Identity::Unidentified => None,
        };
        let entry = self.applied.get(&cgroup).or(self.unidentified.as_ref());
        let rulings = self.settings.endpoints.iter().filter_map(|(id, endpoint)| {
            let ruling = entry?.ruling(id);
            let status = RulingStatus {
                verdict: ruling.verdict().as_str().to_owned(),
                mode: ruling.mode().as_str().to_owned(),
                rule: self.rules.name(ruling.rule()).to_owned(),
            };
            Some((endpoint.name.clone(), status))
        });
        PodStatus {
            cgroup: cgroup.0,
            namespace: pod.map(|pod| pod.workload.namespace.clone()),
            pod: pod.map(|pod| pod.name.clone()),
            service_account: pod.map(|pod| pod.workload.service_account.clone()),
            started_unguarded: self.unguarded.contains(&cgroup),
            rulings: rulings.collect(),
        }
    }
}
