//! Whose old connections are to end: those of pods that are denied an endpoint from now on. The kernel drops what goes out
//! on them in any case; ended, they don't leave their clients hanging.

use std::{collections::BTreeMap, net::IpAddr};

use guard_common::{CgroupId, Kind, MAX_ENDPOINTS, PodEntry, decide};

use super::{chain, state::State};
use crate::{gate::OpenError, reconcile::Entries};

/// Which endpoints are denied to whom, one bit each, as it was when it was last looked at.
#[derive(Debug, Default)]
pub(super) struct Denied {
    /// Before the programs are attached a pod can make new connections as fast as the old ones are ended.
    is_attached: bool,
    before: BTreeMap<CgroupId, u64>,
}

impl Denied {
    /// From now on the kernel lets nobody make a connection that is denied.
    pub(super) fn attached(&mut self) {
        self.is_attached = true;
    }

    /// What is denied now and was not when this was last asked.
    fn newly(&mut self, entries: &Entries) -> Vec<(CgroupId, u64)> {
        if !self.is_attached {
            return Vec::new();
        }
        let pods = entries.iter().filter(|(_, entry)| entry.kind() == Kind::Pod);
        let now: BTreeMap<_, _> = pods.map(|(pod, entry)| (*pod, denied(entry))).collect();
        let before = |pod| self.before.get(pod).copied().unwrap_or_default();
        let newly = now.iter().map(|(pod, denied)| (*pod, denied & !before(pod)));
        let newly = newly.filter(|(_, denied)| *denied != 0).collect();
        self.before = now;
        newly
    }
}

/// The endpoints that the kernel keeps a pod from, one bit each.
fn denied(entry: &PodEntry) -> u64 {
    let rulings = entry.rulings().iter().enumerate().take(MAX_ENDPOINTS);
    let denied = rulings.filter(|(_, ruling)| !decide(**ruling, None).passes());
    denied.fold(0, |bits, (endpoint, _)| bits | 1 << endpoint)
}

impl State {
    /// Ends the old connections of pods that are denied something that they were not denied before.
    pub(super) fn sever(&mut self) {
        for (pod, endpoints) in self.denied.newly(&self.applied) {
            if let Err(error) = self.sever_of(pod, endpoints) {
                tracing::warn!(error = chain(&error), "old connections of a pod are not ended: they hang");
            }
        }
    }

    fn sever_of(&self, cgroup: CgroupId, endpoints: u64) -> Result<(), OpenError> {
        let (Some(gates), Some(pod), Some(folder)) =
            (self.doors.gates(), self.index.identify(cgroup), self.index.folder(cgroup))
        else {
            return Ok(());
        };
        let denied = self.settings.endpoints.iter().filter(|(id, _)| endpoints >> id & 1 == 1);
        let addresses: Vec<IpAddr> =
            denied.flat_map(|(_, endpoint)| endpoint.addresses.iter().copied()).collect();
        gates.sever(self.root().join(folder), pod, addresses)
    }
}

#[cfg(test)]
mod tests {
    use guard_common::{Mode, Ruling, Verdict};

    use super::*;

    fn entry(verdict: Verdict, mode: Mode) -> PodEntry {
        let mut rulings = [Ruling::new(Verdict::Allow, Mode::Enforce, 0); MAX_ENDPOINTS];
        rulings[1] = Ruling::new(verdict, mode, 0);
        PodEntry::pod(rulings)
    }

    #[test]
    fn only_what_becomes_denied_is_told_and_once() {
        let pod = CgroupId(1);
        let mut known = Denied::default();
        let newly = |known: &mut Denied, verdict, mode| {
            known.newly(&Entries::from([(pod, entry(verdict, mode)), (CgroupId(2), PodEntry::SLICE)]))
        };
        assert_eq!(newly(&mut known, Verdict::Deny, Mode::Enforce), [], "nothing is attached yet");
        known.attached();
        let told = [(pod, 0b10)];
        assert_eq!(newly(&mut known, Verdict::Deny, Mode::Enforce), told, "from before the guard");
        assert_eq!(newly(&mut known, Verdict::Deny, Mode::Enforce), []);
        assert_eq!(newly(&mut known, Verdict::Filter, Mode::Enforce), [], "as closed as before");
        assert_eq!(newly(&mut known, Verdict::Deny, Mode::Audit), []);
        assert_eq!(newly(&mut known, Verdict::Filter, Mode::Enforce), told);
        assert_eq!(newly(&mut known, Verdict::Allow, Mode::Enforce), []);
        assert_eq!(newly(&mut known, Verdict::Deny, Mode::Enforce), told);
        assert_eq!(known.newly(&Entries::new()), []);
        assert_eq!(
            newly(&mut known, Verdict::Deny, Mode::Enforce),
            told,
            "another pod may have its cgroup's number"
        );
    }
}
