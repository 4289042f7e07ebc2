//! From the kernel's counters, which only grow, to what was added since the last look.
//!
//! What is added is attributed to whoever the pod is known as at that moment, and never moved: a count that was
//! exported for a service account stays there after its pods are gone, and a counter never goes back.

//!
//! The account is written down now and then ([`Checkpoint`]), together with the totals that were exported by then. Whoever
//! goes on from there, after a crash say, finds in the kernel's counters what has been added since: no count is lost.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use guard_common::{CgroupId, CounterKey, Lost};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    kernel::{CountersId, Reading},
    sinks::totals::Totals,
};

/// What has been seen of the counters so far.
#[derive(Debug, Default)]
pub struct Account {
    decisions: HashMap<CounterKey, u64>,
    lost: HashMap<Lost, u64>,
    pub owners: Owners,
    /// Counters of other generations whose counts have been added.
    pub closed: Vec<CountersId>,
}

/// Whose cgroups were that had counters: the namespace and the service account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owners(BTreeMap<u64, (String, String)>);

/// An account as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The counters that were seen; none if they ended with the agent.
    pub counters: Option<CountersId>,
    /// The two halves of each key, and the count.
    seen: Vec<(u64, u64, u64)>,
    lost: Vec<(u8, u64)>,
    owners: Owners,
    /// Counters of other generations whose counts are all in the totals.
    #[serde(default)]
    pub closed: Vec<CountersId>,
    /// The pods that were there when the programs were attached.
    pub unguarded: Vec<u64>,
    pub totals: Totals,
}

impl Owners {
    /// Whose a cgroup was; nobody's if it never had a name.
    pub fn of(&self, cgroup: CgroupId) -> (&str, &str) {
        self.0.get(&cgroup.0).map_or(("", ""), |(namespace, account)| (namespace, account))
    }

    /// Takes note of whose a cgroup is.
    pub fn note(&mut self, cgroup: CgroupId, namespace: &str, service_account: &str) {
        self.0.entry(cgroup.0).or_insert_with(|| (namespace.to_owned(), service_account.to_owned()));
    }
}

impl Account {
    /// The account as a former agent left it, of the same counters: `now` is what they are. A counter that is not there
    /// any more was removed, and would begin anew.
    pub fn resume(checkpoint: &Checkpoint, now: &Reading) -> Self {
        let there: BTreeMap<[u8; 16], CounterKey> =
            now.decisions.iter().map(|(key, _)| (bytes_of(key), *key)).collect();
        let decisions = checkpoint
            .seen
            .iter()
            .filter_map(|(upper, lower, count)| Some((*there.get(&joined(*upper, *lower))?, *count)));
        let lost = checkpoint.lost.iter().filter_map(|(code, count)| {
            Some((*Lost::ALL.iter().find(|reason| reason.code() == *code)?, *count))
        });
        Self {
            decisions: decisions.collect(),
            lost: lost.collect(),
            owners: checkpoint.owners.clone(),
            closed: checkpoint.closed.clone(),
        }
    }

    /// Writes the account down, with what was exported so far.
    pub fn checkpoint(
        &self,
        counters: Option<CountersId>,
        unguarded: &BTreeSet<CgroupId>,
        totals: Totals,
    ) -> Checkpoint {
        let mut seen: Vec<_> = self
            .decisions
            .iter()
            .map(|(key, count)| {
                let [upper, lower] = halves(&bytes_of(key));
                (upper, lower, *count)
            })
            .collect();
        seen.sort_unstable();
        Checkpoint {
            counters,
            seen,
            lost: self.lost.iter().map(|(reason, count)| (reason.code(), *count)).collect(),
            owners: self.owners.clone(),
            closed: self.closed.clone(),
            unguarded: unguarded.iter().map(|pod| pod.0).collect(),
            totals,
        }
    }

    /// What `reading` adds to what was seen before.
    pub fn added(&mut self, reading: Reading) -> Reading {
        Reading {
            decisions: added(&mut self.decisions, reading.decisions),
            lost: added(&mut self.lost, reading.lost),
        }
    }

    /// How many counters have been seen.
    pub fn len(&self) -> usize {
        self.decisions.len()
    }

    /// Whether none has been seen.
    pub fn is_empty(&self) -> bool {
        self.decisions.is_empty()
    }

    /// Forgets the counters of pods, as the kernel has.
    pub fn forget(&mut self, pods: &BTreeSet<CgroupId>) {
        self.decisions.retain(|key, _| !pods.contains(&key.cgroup));
        self.owners.0.retain(|cgroup, _| !pods.contains(&CgroupId(*cgroup)));
    }
}

fn bytes_of(key: &CounterKey) -> [u8; 16] {
    key.as_bytes().try_into().expect("the size of a key never changes")
}

fn halves(bytes: &[u8; 16]) -> [u64; 2] {
    <[u64; 2]>::read_from_bytes(bytes).expect("as long")
}

fn joined(upper: u64, lower: u64) -> [u8; 16] {
    [upper, lower].as_bytes().try_into().expect("as long")
}

fn added<K: std::hash::Hash + Eq + Copy>(seen: &mut HashMap<K, u64>, now: Vec<(K, u64)>) -> Vec<(K, u64)> {
    now.into_iter()
        .filter_map(|(key, count)| {
            let before = seen.insert(key, count).unwrap_or(0);
            let added = count.saturating_sub(before);
            (added > 0).then_some((key, added))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use guard_common::{Lock, Mode, Ruling, Verdict, Way};

    fn key(cgroup: u64) -> CounterKey {
        let ruling = Ruling::new(Verdict::Deny, Mode::Enforce, 1);
        CounterKey::new(CgroupId(cgroup), 0, Lock::Socket, ruling, Way::Refused)
    }

    fn reading(decisions: &[(u64, u64)]) -> Reading {
        Reading {
            decisions: decisions.iter().map(|(pod, count)| (key(*pod), *count)).collect(),
            lost: vec![],
        }
    }

    #[test]
    fn only_what_was_added_comes_out() {
        let mut account = Account::default();
        assert_eq!(account.added(reading(&[(1, 5), (2, 0)])).decisions, [(key(1), 5)]);
        assert_eq!(account.added(reading(&[(1, 5), (2, 3)])).decisions, [(key(2), 3)]);
        assert_eq!(account.added(reading(&[(1, 6), (2, 3)])).decisions, [(key(1), 1)]);
    }

    #[test]
    fn what_was_counted_since_the_checkpoint_comes_out_after_a_crash() {
        let mut account = Account::default();
        account.added(Reading { decisions: vec![(key(1), 5), (key(2), 4)], lost: vec![(Lost::Full, 3)] });
        account.owners.note(CgroupId(1), "shop", "cart");
        let written = account.checkpoint(None, &BTreeSet::from([CgroupId(9)]), Totals::new());
        let text = serde_json::to_string(&written).expect("plain data");
        let recalled: Checkpoint = serde_json::from_str(&text).expect("what was written");
        assert_eq!(recalled, written);

        // The second counter was removed after that, and has begun anew.
        let now = Reading { decisions: vec![(key(1), 8)], lost: vec![(Lost::Full, 4)] };
        let mut resumed = Account::resume(&recalled, &now);
        let added = resumed.added(now);
        assert_eq!((added.decisions, added.lost), (vec![(key(1), 3)], vec![(Lost::Full, 1)]));
        assert_eq!(resumed.added(reading(&[(2, 2)])).decisions, [(key(2), 2)]);
        assert_eq!(resumed.owners.of(CgroupId(1)), ("shop", "cart"));
        assert_eq!(resumed.owners.of(CgroupId(2)), ("", ""));
    }

    #[test]
    fn a_forgotten_counter_that_comes_back_counts_from_zero() {
        let mut account = Account::default();
        account.added(reading(&[(1, 5)]));
        account.forget(&BTreeSet::from([CgroupId(1)]));
        assert_eq!(account.added(reading(&[(1, 2)])).decisions, [(key(1), 2)]);
    }
}
