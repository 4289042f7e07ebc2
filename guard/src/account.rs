//! From the kernel's counters, which only grow, to what was added since the last look.
//!
//! What is added is attributed to whoever the pod is known as at that moment, and never moved: a count that was
//! exported for a service account stays there after its pods are gone, and a counter never goes back.

use std::collections::{BTreeSet, HashMap};

use guard_common::{CgroupId, CounterKey, Lost};

use crate::kernel::Reading;

/// What has been seen of the counters so far.
#[derive(Debug, Default)]
pub struct Account {
    decisions: HashMap<CounterKey, u64>,
    lost: HashMap<Lost, u64>,
}

impl Account {
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
    }
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
    fn a_forgotten_counter_that_comes_back_counts_from_zero() {
        let mut account = Account::default();
        account.added(reading(&[(1, 5)]));
        account.forget(&BTreeSet::from([CgroupId(1)]));
        assert_eq!(account.added(reading(&[(1, 2)])).decisions, [(key(1), 2)]);
    }
}
