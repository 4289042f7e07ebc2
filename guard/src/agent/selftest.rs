//! What the agent's canary finds, and what follows: readiness, the metrics, and healing.
//!
//! A vector is shut if the attempt was refused *and* the kernel counted that it refused it: an answer of the network alone
//! proves nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use guard_common::{CANARY_RULE, CgroupId, EndpointId, Lock, PodEntry, Way};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{chain, state::State};
use crate::{
    canary::{self, Conversation, ConversationError, Entrance, Outcome, Target, VECTORS, Vector},
    endpoints::Endpoints,
    kernel::Reading,
};

/// The feature that is degraded while the canary can't be asked.
const FEATURE: &str = "selftest";

/// What stands beside the vectors: whether every program is attached, those that no vector passes too.
const ATTACHED: &str = "attached";

/// What was found of one vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "result", content = "why")]
pub enum Trial {
    Shut,
    Open(String),
    /// This host has no such way, or none that can be tried.
    NotTried(String),
}

/// What the last self-test found, in the answer to `/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelftestStatus {
    /// When one last came to its end.
    pub last_run: Option<Timestamp>,
    pub vectors: BTreeMap<String, Trial>,
}

/// What the task that talks to the canary tells.
pub(super) enum Step {
    Tried { vector: &'static Vector, outcome: Outcome, go_on: oneshot::Sender<()> },
    Ended(Result<(), ConversationError>),
}

/// The self-test as it stands.
pub(super) struct Selftest {
    interval: Duration,
    steps: mpsc::Sender<Step>,
    told: Option<mpsc::Receiver<Step>>,
    /// None while one is under way.
    next_run: Option<Instant>,
    cgroup: Option<CgroupId>,
    /// Cgroups that it had before, and of which the kernel still has counters.
    former: BTreeSet<CgroupId>,
    imds: EndpointId,
    /// What the kernel counted of the canary's attempts that it refused, by the lock.
    refused: BTreeMap<Lock, u64>,
    /// The same when the last vector was judged. Others have the counters read too, at any time.
    judged: BTreeMap<Lock, u64>,
    /// What the one that is under way has found so far.
    found: BTreeMap<&'static str, Trial>,
    last: SelftestStatus,
}

impl Selftest {
    pub(super) fn new(interval: Duration, endpoints: &Endpoints) -> Self {
        let (steps, told) = mpsc::channel(1);
        Self {
            interval,
            steps,
            told: Some(told),
            next_run: Some(Instant::now()),
            cgroup: None,
            former: BTreeSet::new(),
            imds: endpoints.id(Endpoints::IMDS).expect("every table of endpoints has it"),
            refused: BTreeMap::new(),
            judged: BTreeMap::new(),
            found: BTreeMap::new(),
            last: SelftestStatus::default(),
        }
    }

    /// What the canary tells. It can be taken once.
    pub(super) fn steps(&mut self) -> mpsc::Receiver<Step> {
        self.told.take().expect("it is taken once")
    }

    pub(super) fn next_run(&self) -> Option<Instant> {
        self.next_run
    }

    pub(super) fn status(&self) -> SelftestStatus {
        self.last.clone()
    }

    /// Takes the canary's counts out of a reading: they are nobody's attempts.
    pub(super) fn take_counts(&mut self, reading: &mut Reading) {
        self.refused.clear();
        self.former.clear();
        let own = reading.decisions.extract_if(.., |(key, _)| key.rule == CANARY_RULE);
        for (key, count) in own {
            if Some(key.cgroup) != self.cgroup {
                self.former.insert(key.cgroup);
            } else if (key.endpoint, key.way()) == (self.imds, Way::Refused) {
                *self.refused.entry(key.lock()).or_default() += count;
            }
        }
    }

    /// Whether it has run once, and has not for several turns.
    fn is_stale(&self) -> bool {
        let longest = self.interval.saturating_mul(5);
        self.last.last_run.is_some_and(|last| Timestamp::now().duration_since(last).unsigned_abs() > longest)
    }

    /// What failed when it was last tried, if anything did.
    fn failures(&self) -> Option<String> {
        let failed = self.last.vectors.iter().filter_map(|(vector, trial)| match trial {
            Trial::Open(why) => Some(format!("{vector}: {why}")),
            Trial::Shut | Trial::NotTried(_) => None,
        });
        let failed: Vec<_> = failed.collect();
        (!failed.is_empty()).then(|| failed.join("; "))
    }
}

impl State {
    /// Whether the self-test has said what it can say: it has run, or can't.
    pub(super) fn is_tested(&self) -> bool {
        self.selftest.last.last_run.is_some() || self.degraded.contains(FEATURE)
    }

    /// Whether no vector stood open when it was last tried.
    pub(super) fn check_selftest(&self) -> Result<(), String> {
        match self.selftest.failures() {
            Some(failures) => Err(format!("the self-test failed: {failures}")),
            None if !self.is_tested() => Err("the self-test has not run yet".to_owned()),
            None if self.selftest.is_stale() => Err("the self-test has not run for long".to_owned()),
            None => Ok(()),
        }
    }

    /// Sends the canary out.
    pub(super) fn begin_selftest(&mut self) {
        if !self.is_guarding() {
            // Another agent does, and tests it.
            self.selftest.next_run = Some(Instant::now() + self.selftest.interval);
            return;
        }
        self.selftest.next_run = None;
        self.selftest.found.clear();
        let cgroup = match self.place_canary() {
            Ok(cgroup) => cgroup,
            Err(why) => return self.give_up_selftest(&why),
        };
        let entrance = Entrance { cgroup, network: self.settings.gate.host_network.clone() };
        let target = target(&self.settings.endpoints);
        tokio::task::spawn_local(fly(entrance, target, self.selftest.steps.clone()));
    }

    /// Makes the canary's cgroup and denies it everything. Each time anew: it may be gone, and another in its place.
    fn place_canary(&mut self) -> Result<PathBuf, String> {
        let (path, cgroup) = canary::make(self.root()).map_err(|error| chain(&error))?;
        if let Some(former) = self.selftest.cgroup.filter(|former| *former != cgroup) {
            self.forget_canary(former);
        }
        self.selftest.cgroup = Some(cgroup);
        let entry = PodEntry::CANARY;
        self.kernel.set_pod(cgroup, &entry).map_err(|error| chain(&error))?;
        // From here on it is the canary's attempts that are added.
        if !self.collect() {
            return Err("the counters can't be read".to_owned());
        }
        self.selftest.judged.clone_from(&self.selftest.refused);
        let former = std::mem::take(&mut self.selftest.former);
        if !former.is_empty() {
            self.forget_counters(&former);
        }
        Ok(path)
    }

    /// Takes what the canary tells.
    pub(super) fn hear_canary(&mut self, step: Step) {
        match step {
            Step::Tried { vector, outcome, go_on } => {
                let trial = self.judge(vector, outcome);
                self.selftest.found.insert(vector.name, trial);
                // If it is gone it says so.
                let _ = go_on.send(());
            }
            Step::Ended(Ok(())) => self.conclude_selftest(),
            Step::Ended(Err(error)) if self.selftest.found.is_empty() => {
                self.give_up_selftest(&chain(&error));
            }
            Step::Ended(Err(error)) => {
                for vector in &VECTORS {
                    let unknown = || Trial::Open(format!("not known: {}", chain(&error)));
                    self.selftest.found.entry(vector.name).or_insert_with(unknown);
                }
                self.conclude_selftest();
            }
        }
    }

    fn judge(&mut self, vector: &Vector, outcome: Outcome) -> Trial {
        let read = self.collect();
        let counted = |counts: &BTreeMap<_, _>| counts.get(&vector.lock).copied().unwrap_or(0);
        let is_counted = counted(&self.selftest.refused) > counted(&self.selftest.judged);
        self.selftest.judged.clone_from(&self.selftest.refused);
        match outcome {
            Outcome::Impossible(why) => Trial::NotTried(why),
            Outcome::Passed => Trial::Open("the attempt was let through".to_owned()),
            Outcome::Refused if !read => Trial::Open("the counters can't be read".to_owned()),
            Outcome::Refused if is_counted => Trial::Shut,
            // A packet filter of the host's comes before the second lock: whether that would have refused it is not known.
            Outcome::Refused if vector.lock == Lock::Egress && self.kernel.check().is_ok() => {
                Trial::NotTried("something else on this host refuses it first".to_owned())
            }
            Outcome::Refused => Trial::Open("it was refused, but not by the guard".to_owned()),
        }
    }

    fn conclude_selftest(&mut self) {
        self.selftest.next_run = Some(Instant::now() + self.selftest.interval);
        if !self.is_guarding() {
            // It was handed over meanwhile.
            return;
        }
        let attached = match self.kernel.check() {
            Ok(()) => Trial::Shut,
            Err(error) => Trial::Open(chain(&error)),
        };
        self.selftest.found.insert(ATTACHED, attached);
        let before = self.selftest.failures();
        let vectors = self.selftest.found.iter().map(|(name, trial)| ((*name).to_owned(), trial.clone()));
        let now = Timestamp::now();
        self.selftest.last = SelftestStatus { last_run: Some(now), vectors: vectors.collect() };
        self.degrade(FEATURE, false);
        let trials = self.selftest.found.iter().filter_map(|(vector, trial)| match trial {
            Trial::Shut => Some((*vector, true)),
            Trial::Open(_) => Some((*vector, false)),
            Trial::NotTried(_) => None,
        });
        self.metrics.set_selftest(trials, now.as_second());
        match (before, self.selftest.failures()) {
            (_, Some(failures)) => {
                // Those that let nobody else in, or do something about the same calls.
                let others = self.kernel.others().unwrap_or_default();
                let others: Vec<_> = others.iter().map(ToString::to_string).collect();
                tracing::error!(failures, others = others.join("; "), "the self-test failed");
                self.heal();
            }
            (Some(_), None) => tracing::info!("the self-test succeeds again"),
            (None, None) => {}
        }
    }

    /// The canary could not be asked: nothing is known that was not known before.
    fn give_up_selftest(&mut self, why: &str) {
        if self.selftest.is_stale() {
            // What it found then says nothing of now.
            self.metrics.forget_selftest();
        }
        self.selftest.next_run = Some(Instant::now() + self.selftest.interval);
        if self.degrade(FEATURE, true) {
            tracing::error!(why, "the guard can't test itself");
        }
    }

    /// Looks whether the guard stands, between two self-tests: one that finds that it does not is due at once, so that it is
    /// said before it is put right.
    pub(super) fn look_after_guard(&mut self) {
        let sees = self.is_guarding() && !self.degraded.contains(FEATURE);
        if sees && self.kernel.check().is_err() {
            self.selftest.next_run = self.selftest.next_run.map(|_| Instant::now());
        } else {
            self.heal();
        }
    }

    /// Takes over the place of a former agent's canary.
    pub(super) fn know_canary(&mut self) {
        self.selftest.cgroup = canary::find(self.root());
        if let Some(cgroup) = self.selftest.cgroup {
            self.applied.remove(&cgroup);
        }
    }

    /// Takes the canary's place away, at the end. One that is out trying just then has it still: then it stays, empty.
    pub(super) fn remove_canary(&mut self) {
        if let Err(error) = canary::remove(self.root()) {
            tracing::warn!(error = chain(&error), "the cgroup of the self-test stays");
        }
        if let Some(cgroup) = self.selftest.cgroup.take() {
            self.forget_canary(cgroup);
        }
    }

    fn forget_canary(&mut self, cgroup: CgroupId) {
        if let Err(error) = self.kernel.remove_pod(cgroup) {
            tracing::error!(error = chain(&error), "the canary's ruling is not removed");
        }
        self.forget_counters(&[cgroup].into());
    }
}

/// Has the canary try one vector after the other, each when the agent has looked what became of the last.
async fn fly(entrance: Entrance, target: Target, steps: mpsc::Sender<Step>) {
    let ended = try_all(&entrance, &target, &steps).await;
    // The agent may have ended.
    let _ = steps.send(Step::Ended(ended)).await;
}

async fn try_all(
    entrance: &Entrance,
    target: &Target,
    steps: &mpsc::Sender<Step>,
) -> Result<(), ConversationError> {
    let mut conversation = Conversation::begin(entrance, target).await?;
    for vector in &VECTORS {
        let outcome = conversation.attempt(vector).await?;
        let (go_on, judged) = oneshot::channel();
        let told = steps.send(Step::Tried { vector, outcome, go_on }).await;
        if told.is_err() || judged.await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// IMDS, by the first of its addresses of each kind.
fn target(endpoints: &Endpoints) -> Target {
    let imds = endpoints.iter().find(|(_, endpoint)| endpoint.name == Endpoints::IMDS);
    let addresses = imds.map_or(&[][..], |(_, endpoint)| &endpoint.addresses);
    let v4 = |address: &IpAddr| match address {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    };
    let v6 = |address: &IpAddr| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(*v6),
    };
    let v4: Option<Ipv4Addr> = addresses.iter().find_map(v4);
    let v6: Option<Ipv6Addr> = addresses.iter().find_map(v6);
    Target { v4, v6 }
}
