//! Which service accounts may still hold credentials of the node's role from before they were denied. Enforcing revokes
//! nothing: what IMDS has given away stays good for six hours at most. Pure: it reads no clock and no disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A service account: its namespace and its name.
pub type Holder = (String, String);

/// How long credentials that IMDS gives away are good at most.
const GOOD_FOR: Duration = Duration::from_hours(6);

/// What was seen to be issued, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// When each service account was last seen to be given credentials.
    last: Vec<(Holder, Timestamp)>,
    /// When the guard was attached. What a pod from before that was given was not seen.
    attached: Option<Timestamp>,
    /// The service accounts that had a pod then.
    #[serde(default)]
    unguarded: BTreeSet<Holder>,
    /// How many each had been given when it was last looked.
    #[serde(skip)]
    counted: BTreeMap<Holder, u64>,
}

/// That a service account may hold credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub namespace: String,
    pub service_account: String,
    /// After this they are good no more.
    pub valid_until: Timestamp,
    /// Whether they were seen to be given. If not, a pod of it ran before the guard, and may have been given some.
    pub seen: bool,
}

impl Issued {
    /// Takes the numbers as they are for what was there before: only what is added to them counts.
    pub fn begin(&mut self, counts: impl IntoIterator<Item = (Holder, u64)>) {
        self.counted = summed(counts);
    }

    /// Looks at how many credentials each service account has been given by `now`.
    pub fn look(&mut self, counts: impl IntoIterator<Item = (Holder, u64)>, now: Timestamp) {
        let counts = summed(counts);
        for (account, count) in &counts {
            if *count > self.counted.get(account).copied().unwrap_or_default() {
                self.last.retain(|(known, _)| known != account);
                self.last.push((account.clone(), now));
            }
        }
        self.counted = counts;
        self.last.retain(|(_, last)| until(*last, now) > now);
        if self.attached.is_none_or(|attached| until(attached, now) <= now) {
            self.unguarded.clear();
        }
        self.last.sort_unstable();
    }

    /// Takes note that the guard was attached just now, where none stood.
    pub fn attached(&mut self, now: Timestamp) {
        self.attached = Some(now);
    }

    /// Takes note of who had a pod before the guard was attached.
    pub fn ran_unguarded(&mut self, account: Holder) {
        self.unguarded.insert(account);
    }

    /// Who may still hold credentials at `now`: of those who are `denied`, and of those who have no pod any more that is
    /// `allowed` some.
    pub fn held(&self, denied: &BTreeSet<Holder>, allowed: &BTreeSet<Holder>, now: Timestamp) -> Vec<Held> {
        let known = self.last.iter().map(|(account, _)| account).chain(&self.unguarded);
        let accounts: BTreeSet<&Holder> =
            known.filter(|account| denied.contains(*account) || !allowed.contains(*account)).collect();
        let held = accounts.into_iter().filter_map(|account| {
            let seen = self.last.iter().find(|(known, _)| known == account).map(|(_, last)| (*last, true));
            let unseen = self.attached.filter(|_| self.unguarded.contains(account));
            let (last, seen) = seen.into_iter().chain(unseen.map(|attached| (attached, false))).max()?;
            let valid_until = until(last, now);
            let (namespace, service_account) = account.clone();
            (valid_until > now).then_some(Held { namespace, service_account, valid_until, seen })
        });
        held.collect()
    }
}

/// Until when what was given then is good. A clock that was set back must not make it good for longer.
fn until(last: Timestamp, now: Timestamp) -> Timestamp {
    last.min(now).saturating_add(GOOD_FOR).unwrap_or(Timestamp::MAX)
}

/// One service account has several counters: by role, and by the version of IMDS.
fn summed(counts: impl IntoIterator<Item = (Holder, u64)>) -> BTreeMap<Holder, u64> {
    let mut sums = BTreeMap::new();
    for (account, count) in counts {
        *sums.entry(account).or_default() += count;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> Holder {
        ("shop".to_owned(), name.to_owned())
    }

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + 3600 * hour).expect("in range")
    }

    /// Who holds credentials, until which hour, and whether that was seen.
    fn held(issued: &Issued, denied: &[&str], allowed: &[&str], now: i64) -> Vec<(String, i64, bool)> {
        let accounts = |names: &[&str]| names.iter().map(|name| account(name)).collect();
        let held = issued.held(&accounts(denied), &accounts(allowed), at(now)).into_iter();
        let hour = |time: Timestamp| (time.as_second() - at(0).as_second()) / 3600;
        held.map(|held| (held.service_account, hour(held.valid_until), held.seen)).collect()
    }

    #[test]
    fn what_was_given_is_good_for_six_hours_from_the_last_time() {
        let mut issued = Issued::default();
        issued.begin([(account("cart"), 7)]);
        issued.look([(account("cart"), 7), (account("web"), 1)], at(0));
        let denied = ["cart", "web"];
        assert_eq!(
            held(&issued, &denied, &[], 0),
            [("web".to_owned(), 6, true)],
            "the seven are from before"
        );
        issued.look([(account("cart"), 5), (account("cart"), 3), (account("web"), 1)], at(2));
        let both = [("cart".to_owned(), 8, true), ("web".to_owned(), 6, true)];
        assert_eq!(held(&issued, &denied, &[], 2), both);
        assert_eq!(held(&issued, &denied[1..], &denied[..1], 2), both[1..], "who is allowed is left out");
        assert_eq!(held(&issued, &[], &[], 6), both[..1]);
        assert_eq!(held(&issued, &denied, &[], 8), []);
    }

    #[test]
    fn who_ran_before_the_guard_may_have_been_given_some() {
        let mut issued = Issued::default();
        issued.ran_unguarded(account("cart"));
        assert_eq!(held(&issued, &["cart"], &[], 0), [], "not attached yet");
        issued.attached(at(1));
        let denied = ["cart", "web"];
        assert_eq!(held(&issued, &denied, &[], 2), [("cart".to_owned(), 7, false)]);
        issued.look([(account("cart"), 1)], at(3));
        assert_eq!(held(&issued, &denied, &[], 3), [("cart".to_owned(), 9, true)]);
    }

    #[test]
    fn it_is_the_same_after_a_restart_and_a_clock_that_is_set_back_makes_nothing_longer() {
        let mut issued = Issued::default();
        issued.ran_unguarded(account("cart"));
        issued.attached(at(9));
        issued.look([(account("cart"), 1)], at(10));
        let text = serde_json::to_string(&issued).expect("plain data");
        let mut recalled: Issued = serde_json::from_str(&text).expect("what was written");
        recalled.begin([(account("cart"), 1)]);
        assert_eq!(held(&recalled, &["cart"], &[], 11), [("cart".to_owned(), 16, true)]);
        assert_eq!(held(&recalled, &["cart"], &[], 2), [("cart".to_owned(), 8, true)]);
        recalled.look([(account("cart"), 1)], at(17));
        assert_eq!(recalled.last, []);
    }
}
