//! Who is denied now and may still hold credentials of the node's role from before: noted, remembered, and shown.

use std::collections::BTreeSet;

use guard_common::{Verdict, decide};
use hyper::Method;
use jiff::Timestamp;

use super::{chain, state::State};
use crate::{
    endpoints::Endpoints,
    imds::MetadataPath,
    issued::{Held, Holder},
    memory::Memory,
    pods::Pod,
};

impl State {
    /// Recalls what was seen to be issued before this start, once the counters go on from the former agent's.
    pub(super) fn recall_issued(&mut self) {
        match self.memory.as_ref().map(Memory::issued) {
            Some(Ok(Some(issued))) => self.issued = issued,
            Some(Err(error)) => {
                tracing::warn!(error = chain(&error), "who may hold credentials from before is not recalled");
            }
            Some(Ok(None)) | None => {}
        }
        self.issued.begin(self.metrics.credentials_issued());
    }

    /// Takes note of what was issued since this was last done, and shows who holds it.
    pub(super) fn note_issued(&mut self) {
        self.issued.look(self.metrics.credentials_issued(), Timestamp::now());
        for pod in self.unguarded.iter().filter_map(|pod| self.index.identify(*pod)) {
            self.issued.ran_unguarded(holder(pod));
        }
        self.metrics.set_held(&self.held());
    }

    /// The service accounts that are denied now, or have no pod any more, and may still hold credentials.
    pub(super) fn held(&self) -> Vec<Held> {
        let Some(imds) = self.settings.endpoints.id(Endpoints::IMDS).filter(|_| self.enforcing()) else {
            return Vec::new();
        };
        let (mut denied, mut allowed) = (BTreeSet::new(), BTreeSet::new());
        for (cgroup, entry) in &self.applied {
            if self.index.live(*cgroup).is_none() || self.is_agent(*cgroup) {
                continue;
            }
            let Some(pod) = self.index.identify(*cgroup) else { continue };
            let is_denied = !decide(entry.ruling(imds), None).passes() && !self.may_have_credentials(pod);
            let accounts = if is_denied { &mut denied } else { &mut allowed };
            accounts.insert(holder(pod));
        }
        self.issued.held(&denied, &allowed, Timestamp::now())
    }

    /// Whether the policy denies a pod something, but not this.
    fn may_have_credentials(&self, pod: &Pod) -> bool {
        let Some(imds) = self.settings.endpoints.id(Endpoints::IMDS) else { return false };
        let ruled = self.policy.policy.ruling(&pod.workload, imds, self.day);
        let credentials = MetadataPath::parse("/latest/meta-data/iam/security-credentials/role");
        match (ruled.verdict, ruled.filter, credentials) {
            (Verdict::Allow, ..) => true,
            (Verdict::Filter, Some(filter), Ok(path)) => filter.allows(&path, &Method::GET),
            (Verdict::Filter | Verdict::Deny, ..) => false,
        }
    }

    /// Writes down what was seen to be issued, if it has changed since.
    pub(super) fn save_issued(&mut self) {
        let unsaved = self.saved_issued.as_ref() != Some(&self.issued);
        let Some(memory) = self.memory.as_ref().filter(|_| self.is_guarding() && unsaved) else { return };
        let saved = memory.save_issued(&self.issued);
        if saved.is_ok() {
            self.saved_issued = Some(self.issued.clone());
        }
        if self.degrade("state_folder", saved.is_err())
            && let Err(error) = saved
        {
            tracing::warn!(
                error = chain(&error),
                "who may hold credentials is not remembered for the next agent"
            );
        }
    }
}

fn holder(pod: &Pod) -> Holder {
    (pod.workload.namespace.clone(), pod.workload.service_account.clone())
}
