//! What is known of the objects that this node's pods refer to, and what to ask the API server next. Pure: whoever
//! owns it asks and tells the time.
//!
//! Each object is asked for once, however many pods refer to it, and again after a while; a controller never again,
//! for what stands behind it does not change. What no pod refers to any more is forgotten. An object that could not be
//! read stays unknown, or as it was last known, and is asked for again, less and less often.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::pods::object::{Metadata, Reference, Surroundings};

/// How long the labels of namespaces and of the node are taken to hold.
const LABELS_HOLD: Duration = Duration::from_mins(10);

/// How long a service account's annotations are taken to hold.
const SERVICE_ACCOUNT_HOLDS: Duration = Duration::from_hours(1);

/// How soon an object that could not be read is asked for again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// The objects that pods refer to.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    known: Surroundings,
    entries: BTreeMap<Reference, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// When to ask; none while an answer is awaited, and for what never changes.
    due: Option<Instant>,
    failures: u32,
    /// Whether an answer of any kind has come.
    answered: bool,
}

/// What the API server said of an object.
#[derive(Debug)]
pub(super) enum Answer {
    /// Its metadata; empty ones for an object that is not there.
    Known(Metadata),
    Failed,
}

impl Lookups {
    /// Takes all that pods refer to now.
    pub(super) fn want(&mut self, wanted: BTreeSet<Reference>, now: Instant) {
        self.entries.retain(|reference, _| wanted.contains(reference));
        self.known.retain(|reference, _| wanted.contains(reference));
        for reference in wanted {
            self.entries.entry(reference).or_insert(Entry { due: Some(now), failures: 0, answered: false });
        }
    }

    /// What should be asked for now, at most `room` of it. An answer is awaited for each from now on.
    pub(super) fn ask(&mut self, now: Instant, room: usize) -> Vec<Reference> {
        let due = self.entries.iter_mut().filter(|(_, entry)| entry.due.is_some_and(|due| due <= now));
        due.take(room)
            .map(|(reference, entry)| {
                entry.due = None;
                reference.clone()
            })
            .collect()
    }

    /// When there is something to ask for.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.due).min()
    }

    /// Whether anything was never answered yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.entries.values().any(|entry| !entry.answered)
    }

    /// Takes an answer, and says whether it is news. `jitter`, from 0 to 1, spreads the requests of many nodes.
    pub(super) fn answer(&mut self, reference: Reference, answer: Answer, now: Instant, jitter: f64) -> bool {
        let Some(entry) = self.entries.get_mut(&reference) else { return false };
        entry.answered = true;
        match answer {
            Answer::Known(metadata) => {
                entry.failures = 0;
                entry.due = holds(&reference).map(|time| now + time.mul_f64(0.75 + jitter / 2.0));
                self.known.insert(reference, metadata.clone()).as_ref() != Some(&metadata)
            }
            Answer::Failed => {
                let (first, last) = RETRY;
                let pause = first.saturating_mul(1 << entry.failures.min(16)).min(last);
                entry.failures += 1;
                entry.due = Some(now + pause.mul_f64(0.75 + jitter / 2.0));
                false
            }
        }
    }

    /// Asks for everything that failed at once: the API server answers again.
    pub(super) fn retry(&mut self, now: Instant) {
        for entry in self.entries.values_mut().filter(|entry| entry.failures > 0) {
            entry.due = entry.due.map(|due| due.min(now));
        }
    }

    pub(super) fn known(&self) -> &Surroundings {
        &self.known
    }
}

fn holds(reference: &Reference) -> Option<Duration> {
    match reference {
        Reference::Namespace(_) | Reference::Node(_) => Some(LABELS_HOLD),
        Reference::ServiceAccount { .. } => Some(SERVICE_ACCOUNT_HOLDS),
        Reference::Controller { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;
    use crate::pods::object::ControllerKind;

    const AT_ONCE: usize = 10;

    fn namespace(name: &str) -> Reference {
        Reference::Namespace(name.to_owned())
    }

    fn metadata(name: &str) -> Answer {
        Answer::Known(ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }.into())
    }

    #[test]
    fn each_object_is_asked_for_once_and_again_when_its_time_is_over() {
        let (mut lookups, start) = (Lookups::default(), Instant::now());
        lookups.want([namespace("a")].into(), start);
        assert_eq!(lookups.ask(start, AT_ONCE), [namespace("a")]);
        assert_eq!(lookups.ask(start, AT_ONCE), [], "an answer is awaited");
        assert!(lookups.answer(namespace("a"), metadata("a"), start, 0.5));
        lookups.want([namespace("a")].into(), start);
        assert_eq!(lookups.ask(start + LABELS_HOLD / 2, AT_ONCE), []);
        assert_eq!(lookups.ask(start + LABELS_HOLD, AT_ONCE), [namespace("a")]);
        assert!(!lookups.answer(namespace("a"), metadata("a"), start, 0.5), "nothing new");
    }

    #[test]
    fn a_controller_is_asked_for_once_for_ever() {
        let (mut lookups, start) = (Lookups::default(), Instant::now());
        let job = Reference::Controller {
            namespace: "a".to_owned(),
            kind: ControllerKind::Job,
            name: "backup-1".to_owned(),
        };
        lookups.want([job.clone()].into(), start);
        assert_eq!(lookups.ask(start, AT_ONCE).len(), 1);
        lookups.answer(job, metadata("backup-1"), start, 0.5);
        assert_eq!(lookups.next_due(), None);
    }

    #[test]
    fn what_fails_keeps_what_was_known_and_is_tried_less_and_less_often() {
        let (mut lookups, mut now) = (Lookups::default(), Instant::now());
        lookups.want([namespace("a")].into(), now);
        lookups.ask(now, AT_ONCE);
        lookups.answer(namespace("a"), metadata("a"), now, 0.5);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert!(!lookups.answer(namespace("a"), Answer::Failed, now, 0.5));
            let due = lookups.next_due().expect("it is tried again");
            pauses.push((due - now).as_secs());
            now = due;
            assert_eq!(lookups.ask(now, AT_ONCE).len(), 1);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(lookups.known().contains_key(&namespace("a")));
    }

    #[test]
    fn what_failed_is_asked_for_at_once_when_the_server_is_back() {
        let (mut lookups, start) = (Lookups::default(), Instant::now());
        lookups.want([namespace("a")].into(), start);
        lookups.ask(start, AT_ONCE);
        lookups.answer(namespace("a"), Answer::Failed, start, 0.5);
        assert!(!lookups.is_waiting(), "no is an answer");
        assert_eq!(lookups.ask(start, AT_ONCE), []);
        lookups.retry(start);
        assert_eq!(lookups.ask(start, AT_ONCE), [namespace("a")]);
    }

    #[test]
    fn what_no_pod_refers_to_is_forgotten() {
        let (mut lookups, start) = (Lookups::default(), Instant::now());
        lookups.want([namespace("a")].into(), start);
        lookups.ask(start, AT_ONCE);
        lookups.want([namespace("b")].into(), start);
        assert!(!lookups.answer(namespace("a"), metadata("a"), start, 0.5), "it came too late");
        assert!(lookups.known().is_empty());
        assert_eq!(lookups.ask(start, AT_ONCE), [namespace("b")]);
    }

    #[test]
    fn not_all_are_asked_for_at_once() {
        let (mut lookups, start) = (Lookups::default(), Instant::now());
        lookups.want(["a", "b", "c"].map(namespace).into(), start);
        assert_eq!(lookups.ask(start, 2).len(), 2);
        assert_eq!(lookups.ask(start, 2).len(), 1);
    }
}
