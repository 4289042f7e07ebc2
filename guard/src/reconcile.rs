//! From policy, pods and cgroups to what the kernel should hold, and from there to the steps that lead to it. Pure:
//! the agent carries the steps out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use guard_common::{CgroupId, MAX_ENDPOINTS, MAX_RULES, Mode, PodEntry, RuleId, Ruling, Verdict};
use jiff::civil::Date;

use crate::{
    denial,
    endpoints::Endpoints,
    gate::Terms,
    pods::Index,
    policy::{Policy, RuleName, Ruled},
};

/// What the map `PODS` holds, or should hold.
pub type Entries = BTreeMap<CgroupId, PodEntry>;

/// One step from what the kernel holds to what it should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Set(CgroupId, PodEntry),
    Remove(CgroupId),
}

/// The names of rules, by the ids that the kernel bears. An id keeps its name for as long as the kernel has it, so that
/// an event or a count that comes up after a reload, or in the next agent, still finds its rule.
#[derive(Clone, Debug)]
pub struct RuleNames(Vec<String>);

impl RuleNames {
    /// The name of the id that the kernel uses when it has no ruling at all.
    pub const NONE: &str = "none";

    /// The names that the kernel has.
    pub fn recalled(kernel: &HashMap<RuleId, String>) -> Self {
        let mut names = Self::default();
        let len = kernel.keys().max().map_or(0, |last| usize::from(*last) + 1);
        names.0.resize(len.max(1), Self::NONE.to_owned());
        for (id, name) in kernel {
            names.0[usize::from(*id)].clone_from(name);
        }
        names
    }

    /// The id of a rule's name. When all ids are taken, which needs 4096 names since the node's start, it is that of `none`.
    pub fn id(&mut self, name: &str) -> RuleId {
        if let Some(place) = self.0.iter().position(|known| known == name) {
            return RuleId::try_from(place).unwrap_or_default();
        }
        let id = self.0.len();
        match RuleId::try_from(id) {
            Ok(rule) if id < MAX_RULES as usize => {
                self.0.push(name.to_owned());
                rule
            }
            _ => 0,
        }
    }

    /// The names from the id `first` on.
    pub fn since(&self, first: usize) -> impl Iterator<Item = (RuleId, &str)> {
        let all = self.0.iter().enumerate().skip(first);
        all.filter_map(|(id, name)| Some((RuleId::try_from(id).ok()?, name.as_str())))
    }

    /// How many ids there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The name of an id.
    pub fn name(&self, id: RuleId) -> &str {
        self.0.get(usize::from(id)).map_or(Self::NONE, String::as_str)
    }
}

impl Default for RuleNames {
    fn default() -> Self {
        Self(vec![Self::NONE.to_owned()])
    }
}

/// What the kernel should hold, and what should hold at the gates.
#[derive(Debug, Default)]
pub struct Desired {
    /// As if nobody needed a gate.
    pub entries: Entries,
    /// The terms of every pod that reaches IMDS through a gate alone.
    pub gated: BTreeMap<CgroupId, Terms>,
}

/// What should hold: a ruling for every pod that has a name, and a mark for every QoS class. A pod whose
/// cgroup is gone keeps its ruling until it is forgotten: a socket may outlive it. The agent's own pod may do
/// everything, whatever the policy says, and so may that of one that has handed over.
pub fn desired(
    policy: &Policy,
    endpoints: &Endpoints,
    index: &Index,
    agents: &BTreeSet<CgroupId>,
    rules: &mut RuleNames,
    today: Date,
) -> Desired {
    let mut desired = Desired::default();
    let entries = &mut desired.entries;
    let imds = endpoints.id(Endpoints::IMDS);
    for slice in index.slices() {
        entries.insert(*slice, PodEntry::SLICE);
    }
    for (cgroup, pod) in index.named() {
        let (mode, workload) = (policy.mode(&pod.workload), &pod.workload);
        let mut rulings = [Ruling::new(Verdict::Allow, mode, 0); MAX_ENDPOINTS];
        for (id, _) in endpoints.iter() {
            let Ruled { verdict, rule, filter } = policy.ruling(workload, id, today);
            rulings[usize::from(id)] = Ruling::new(verdict, mode, rules.id(rule.as_str()));
            let goes_straight = verdict == Verdict::Allow && workload.host_network;
            if Some(id) == imds && mode == Mode::Enforce && !goes_straight && !agents.contains(&cgroup) {
                let (pod, help) = (Arc::clone(pod), policy.help().map(ToOwned::to_owned));
                let denial_id = denial::id(&pod.uid, rule.as_str(), policy.sha256());
                let terms = Terms { cgroup, pod, verdict, mode, rule, filter, help, denial_id };
                desired.gated.insert(cgroup, terms);
            }
        }
        entries.insert(cgroup, PodEntry::pod(rulings));
    }
    for agent in agents {
        let allow = Ruling::new(Verdict::Allow, Mode::Enforce, rules.id(RuleName::SELF.as_str()));
        entries.insert(*agent, PodEntry::pod([allow; MAX_ENDPOINTS]));
    }
    desired
}

/// The ruling for pods that have no name, given the rulings that could not be written. Their pods are unidentified to
/// the kernel, so whatever one of them is denied, all are denied.
pub fn unidentified(
    policy: &Policy,
    endpoints: &Endpoints,
    rules: &mut RuleNames,
    unwritten: &[PodEntry],
) -> PodEntry {
    let mut rulings = [Ruling::new(Verdict::Allow, Mode::Audit, 0); MAX_ENDPOINTS];
    for (id, _) in endpoints.iter() {
        let (verdict, mode, rule) = policy.unidentified(id);
        rulings[usize::from(id)] = Ruling::new(verdict, mode, rules.id(rule.as_str()));
    }
    closed_for(rulings, unwritten)
}

fn closed_for(mut rulings: [Ruling; MAX_ENDPOINTS], unwritten: &[PodEntry]) -> PodEntry {
    for entry in unwritten {
        for (ruling, wanted) in rulings.iter_mut().zip(entry.rulings()) {
            if wanted.verdict() != Verdict::Allow && wanted.mode() == Mode::Enforce {
                *ruling = Ruling::new(Verdict::Deny, Mode::Enforce, ruling.rule());
            }
        }
    }
    PodEntry::pod(rulings)
}

/// The steps from `applied` to `desired`. Rulings are set before any is removed.
pub fn diff(applied: &Entries, desired: &Entries) -> Vec<Step> {
    let set = desired
        .iter()
        .filter(|(cgroup, entry)| applied.get(cgroup) != Some(entry))
        .map(|(cgroup, entry)| Step::Set(*cgroup, *entry));
    let remove =
        applied.keys().filter(|cgroup| !desired.contains_key(cgroup)).map(|cgroup| Step::Remove(*cgroup));
    set.chain(remove).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(verdict: Verdict, mode: Mode) -> PodEntry {
        PodEntry::pod([Ruling::new(verdict, mode, 0); MAX_ENDPOINTS])
    }

    #[test]
    fn the_steps_set_what_differs_and_then_remove_what_is_gone() {
        let (allow, deny) = (pod(Verdict::Allow, Mode::Enforce), pod(Verdict::Deny, Mode::Enforce));
        let applied = Entries::from([(CgroupId(1), allow), (CgroupId(2), allow), (CgroupId(3), deny)]);
        let desired = Entries::from([(CgroupId(2), deny), (CgroupId(3), deny), (CgroupId(4), allow)]);
        let steps = [Step::Set(CgroupId(2), deny), Step::Set(CgroupId(4), allow), Step::Remove(CgroupId(1))];
        assert_eq!(diff(&applied, &desired), steps);
        assert_eq!(diff(&desired, &desired), []);
    }

    #[test]
    fn a_ruling_that_could_not_be_written_closes_the_way_for_the_unidentified() {
        let open = pod(Verdict::Allow, Mode::Enforce);
        let denied = pod(Verdict::Deny, Mode::Enforce);
        let audited = pod(Verdict::Deny, Mode::Audit);
        assert_eq!(closed_for(*open.rulings(), &[denied]), denied);
        assert_eq!(closed_for(*open.rulings(), &[audited]), open, "audit changes no outcome");
        assert_eq!(closed_for(*open.rulings(), &[]), open);
    }

    #[test]
    fn a_rule_keeps_its_id() {
        let mut rules = RuleNames::default();
        let first = rules.id("node-agents");
        let second = rules.id("default");
        assert_eq!((rules.id("node-agents"), rules.id("default")), (first, second));
        assert_eq!(rules.name(second), "default");
        assert_eq!(rules.name(0), "none");
        assert_eq!(rules.name(999), "none");
        let mut next = RuleNames::recalled(&rules.since(1).map(|(id, name)| (id, name.to_owned())).collect());
        assert_eq!((next.id("node-agents"), next.id("default"), next.id("new")), (first, second, 3));
    }
}
