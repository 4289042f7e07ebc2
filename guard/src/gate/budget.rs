//! How many requests may go on to IMDS: so many a second of the whole node, since IMDS serves DNS and NTP by the same
//! 1024 packets a second, and no more than half of them of one pod. Pure: the time is an argument.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

/// How long a request may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a pod may always ask: so many requests at once, and one a second after that. It is enough to look for
/// credentials, however many others ask in a loop.
const AT_ONCE: u32 = 10;

/// The node's budget; clones are the same.
#[derive(Clone, Debug)]
pub(super) struct NodeBudget {
    /// None: no limit.
    per_second: Option<u32>,
    turns: Rc<RefCell<Turns>>,
}

/// The part of one pod.
#[derive(Debug)]
pub(super) struct PodBudget {
    node: NodeBudget,
    always: RefCell<Turns>,
    share: RefCell<Turns>,
}

/// A place in time for each request, evenly apart, with some room for those that come at once (the generic cell rate
/// algorithm).
#[derive(Debug)]
struct Turns {
    apart: Duration,
    at_once: u32,
    next: Instant,
}

impl NodeBudget {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let turns = Turns::new(per_second.max(1), per_second.max(1), now);
        Self { per_second: (per_second > 0).then_some(per_second), turns: Rc::new(RefCell::new(turns)) }
    }

    /// The part of a pod.
    pub(super) fn pod(&self, now: Instant) -> PodBudget {
        let share = (self.per_second.unwrap_or_default() / 2).max(1);
        PodBudget {
            node: self.clone(),
            always: RefCell::new(Turns::new(1, AT_ONCE, now)),
            share: RefCell::new(Turns::new(share, share, now)),
        }
    }
}

impl PodBudget {
    /// How long a request has to wait for its turn; none: too many wait already.
    pub(super) fn take(&self, now: Instant) -> Option<Duration> {
        if self.node.per_second.is_none() {
            return Some(Duration::ZERO);
        }
        let mut node = self.node.turns.borrow_mut();
        if self.always.borrow_mut().take(now, Duration::ZERO).is_some() {
            // It counts all the same: the others wait longer.
            node.force(now);
            return Some(Duration::ZERO);
        }
        let mut share = self.share.borrow_mut();
        let wait = share.wait(now).max(node.wait(now));
        (wait <= PATIENCE).then(|| {
            share.force(now);
            node.force(now);
            wait
        })
    }
}

impl Turns {
    fn new(per_second: u32, at_once: u32, now: Instant) -> Self {
        Self { apart: Duration::from_secs(1) / per_second, at_once, next: now }
    }

    /// How long the next one would have to wait.
    fn wait(&self, now: Instant) -> Duration {
        let room = self.apart * (self.at_once - 1);
        self.next.saturating_duration_since(now).saturating_sub(room)
    }

    /// Takes the next place, if it is not further away than `patience`.
    fn take(&mut self, now: Instant, patience: Duration) -> Option<Duration> {
        let wait = self.wait(now);
        (wait <= patience).then(|| {
            self.force(now);
            wait
        })
    }

    /// Takes a place whatever the wait is. The debt that it leaves is bounded: the next one never waits for ever.
    fn force(&mut self, now: Instant) {
        let furthest = now + self.apart * self.at_once + PATIENCE;
        self.next = (self.next.max(now) + self.apart).min(furthest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many requests of a pod at one moment go on, and how long the last of them waits.
    fn burst(pod: &PodBudget, requests: u32, now: Instant) -> (u32, Duration) {
        let waits: Vec<_> = (0..requests).filter_map(|_| pod.take(now)).collect();
        (u32::try_from(waits.len()).expect("few"), waits.into_iter().max().unwrap_or_default())
    }

    #[test]
    fn a_node_sends_no_more_than_its_budget_over_time() {
        let start = Instant::now();
        let node = NodeBudget::new(200, start);
        let pods: Vec<_> = (0..4).map(|_| node.pod(start)).collect();
        let mut sent = 0;
        for tenth in 0..100 {
            let now = start + Duration::from_millis(100) * tenth;
            sent += pods.iter().map(|pod| burst(pod, 1000, now).0).sum::<u32>();
        }
        // Ten seconds, what may come at once, what may wait, and what every pod may always ask.
        assert!((2000..=2000 + 200 + 200 + 4 * 20).contains(&sent), "{sent}");
    }

    #[test]
    fn one_pod_gets_no_more_than_half() {
        let start = Instant::now();
        let pod = NodeBudget::new(200, start).pod(start);
        let sent: u32 =
            (0..10).map(|second| burst(&pod, 10_000, start + Duration::from_secs(1) * second).0).sum();
        assert!((1000..=1000 + 200 + 20).contains(&sent), "{sent}");
    }

    #[test]
    fn whoever_asks_seldom_never_waits_for_those_who_loop() {
        let start = Instant::now();
        let node = NodeBudget::new(200, start);
        for _ in 0..20 {
            burst(&node.pod(start), 10_000, start);
        }
        assert_eq!(burst(&node.pod(start), AT_ONCE, start), (AT_ONCE, Duration::ZERO));
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let start = Instant::now();
        let pod = NodeBudget::new(0, start).pod(start);
        assert_eq!(burst(&pod, 100_000, start), (100_000, Duration::ZERO));
    }
}
