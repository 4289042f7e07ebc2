//! When to say something of a pod: at once for the first attempt, then at most once an hour for each endpoint and
//! outcome, with all attempts since; and never more of all pods than a node may write in a minute. Pure: whoever owns it
//! tells the time.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use guard_common::{CgroupId, EndpointId, RuleId};

use crate::kubernetes::Reason;

/// How long after one notice the next about the same may follow.
const APART: Duration = Duration::from_hours(1);

/// How many notices a node may write in a minute.
const PER_MINUTE: u32 = 10;

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct About {
    pub pod: CgroupId,
    pub endpoint: EndpointId,
    pub reason: Reason,
}

/// What happened since the last notice about the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub about: About,
    pub attempts: u64,
    /// The rule that decided the last of them.
    pub rule: RuleId,
    /// How long ago the last notice was; none for the first.
    pub since: Option<Duration>,
}

/// What has been told, and what has not.
#[derive(Debug)]
pub struct Notices {
    open: HashMap<About, Open>,
    /// How many may be written now, and when that was last true.
    room: u32,
    counted: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    attempts: u64,
    rule: RuleId,
    told: Option<Instant>,
}

impl Notices {
    pub fn new(now: Instant) -> Self {
        Self { open: HashMap::new(), room: PER_MINUTE, counted: now }
    }

    /// Notes attempts.
    pub fn add(&mut self, about: About, attempts: u64, rule: RuleId) {
        let open = self.open.entry(about).or_insert(Open { attempts: 0, rule, told: None });
        open.attempts += attempts;
        open.rule = rule;
    }

    /// What should be told now, of the pods that `can_tell`. What finds no room is told later, unless
    /// its pod is gone by then.
    pub fn take(&mut self, now: Instant, can_tell: impl Fn(CgroupId) -> bool) -> Vec<Told> {
        self.refill(now);
        let due = self.open.iter_mut().filter(|(about, open)| {
            let apart = open.told.is_none_or(|told| now.duration_since(told) >= APART);
            open.attempts > 0 && apart && can_tell(about.pod)
        });
        let told: Vec<_> = due
            .take(self.room as usize)
            .map(|(about, open)| {
                let since = open.told.replace(now).map(|told| now.duration_since(told));
                Told { about: *about, attempts: std::mem::take(&mut open.attempts), rule: open.rule, since }
            })
            .collect();
        self.room -= u32::try_from(told.len()).expect("no more than there is room for");
        told
    }

    /// Forgets a pod that is gone.
    pub fn forget(&mut self, pod: CgroupId) {
        self.open.retain(|about, _| about.pod != pod);
    }

    fn refill(&mut self, now: Instant) {
        let each = Duration::from_mins(1) / PER_MINUTE;
        let more = now.duration_since(self.counted).as_nanos() / each.as_nanos();
        let more = u32::try_from(more).unwrap_or(PER_MINUTE);
        if self.room + more >= PER_MINUTE {
            (self.room, self.counted) = (PER_MINUTE, now);
        } else {
            self.room += more;
            self.counted += each * more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(pod: u64, endpoint: EndpointId) -> About {
        About { pod: CgroupId(pod), endpoint, reason: Reason::Denied }
    }

    fn attempts(told: &[Told]) -> Vec<(u64, u64)> {
        let mut told: Vec<_> = told.iter().map(|told| (told.about.pod.0, told.attempts)).collect();
        told.sort_unstable();
        told
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_an_hour_later_in_one() {
        let start = Instant::now();
        let mut notices = Notices::new(start);
        notices.add(about(1, 0), 1, 7);
        let first = notices.take(start, |_| true);
        assert_eq!(first, [Told { about: about(1, 0), attempts: 1, rule: 7, since: None }]);
        notices.add(about(1, 0), 40, 7);
        notices.add(about(1, 0), 2, 8);
        assert_eq!(notices.take(start + APART / 2, |_| true), []);
        let later = notices.take(start + APART, |_| true);
        assert_eq!(later, [Told { about: about(1, 0), attempts: 42, rule: 8, since: Some(APART) }]);
        assert_eq!(notices.take(start + 3 * APART, |_| true), [], "nothing new is nothing to tell");
    }

    #[test]
    fn endpoints_and_outcomes_are_told_apart() {
        let start = Instant::now();
        let mut notices = Notices::new(start);
        let audited = About { reason: Reason::WouldDeny, ..about(1, 0) };
        for about in [about(1, 0), about(1, 1), audited] {
            notices.add(about, 1, 0);
        }
        assert_eq!(notices.take(start, |_| true).len(), 3);
    }

    #[test]
    fn a_node_writes_no_more_than_its_share_and_tells_the_rest_later() {
        let start = Instant::now();
        let mut notices = Notices::new(start);
        for pod in 0..25 {
            notices.add(about(pod, 0), pod + 1, 0);
        }
        let mut told = notices.take(start, |_| true);
        assert_eq!(told.len(), 10);
        assert_eq!(notices.take(start + Duration::from_secs(5), |_| true), []);
        told.extend(notices.take(start + Duration::from_secs(6), |_| true));
        assert_eq!(told.len(), 11, "one every six seconds");
        told.extend(notices.take(start + Duration::from_mins(2), |_| true));
        told.extend(notices.take(start + Duration::from_mins(4), |_| true));
        assert_eq!(attempts(&told), (0..25).map(|pod| (pod, pod + 1)).collect::<Vec<_>>());
    }

    #[test]
    fn a_pod_without_a_name_waits_for_it() {
        let start = Instant::now();
        let mut notices = Notices::new(start);
        notices.add(about(1, 0), 3, 0);
        assert_eq!(notices.take(start, |_| false), []);
        assert_eq!(attempts(&notices.take(start, |_| true)), [(1, 3)]);
    }

    #[test]
    fn a_pod_that_is_gone_is_forgotten() {
        let start = Instant::now();
        let mut notices = Notices::new(start);
        notices.add(about(1, 0), 3, 0);
        notices.forget(CgroupId(1));
        assert_eq!(notices.take(start, |_| true), []);
    }
}
