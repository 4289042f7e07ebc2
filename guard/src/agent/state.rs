//! What the agent knows and has written. Its methods are the answers to the bells.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use guard_common::{AttemptEvent, CgroupId, Mode, PodEntry};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use tokio::time::Instant;

use super::{
    AgentError, Settings, WALK_INTERVAL, boot_time, chain,
    status::{PodStatus, PolicyStatus, RulingStatus, Status},
};
use crate::{
    account::Account,
    attempt::{Attempt, Attribution},
    changes::Version,
    kernel::{CgroupBell, Counters, Kernel, LoadError},
    pods::{self, Identity, Index},
    policy::{self, Policy},
    reconcile::{self, Entries, RuleNames, Step},
    sinks::metrics::{EventLoss, Metrics, Names, PodStates, enforces},
};

/// How long the counters and rulings of a pod outlive its cgroup: packets of its last sockets may be on their way.
const GRACE: Duration = Duration::from_secs(30);

/// How often what is gone is tidied away.
const TIDY_INTERVAL: Duration = Duration::from_secs(15);

pub(super) struct State {
    settings: Settings,
    listen: SocketAddr,
    kernel: Kernel,
    counters: Counters,
    metrics: Metrics,
    account: Account,
    policy: Policy,
    /// Why the policy as it stands now was refused, if it was.
    refused: Option<String>,
    rules: RuleNames,
    index: Index,
    /// Which version of the list of pods is in the index.
    pods_version: Option<Version>,
    applied: Entries,
    /// The ruling for pods that have no name, as it was written.
    unidentified: Option<PodEntry>,
    /// The day for which `applied` was computed: rules expire at midnight, UTC.
    day: Date,
    /// Pods that the kernel counted and no walk ever saw, with the time when they were noticed.
    strays: HashMap<CgroupId, Instant>,
    next_tidying: Instant,
    degraded: BTreeSet<&'static str>,
}

/// The policy to begin with. Without a good one there is nothing to guard by.
pub(super) fn first_policy(settings: &Settings) -> Result<Policy, AgentError> {
    let files = policy::read(&settings.policy)?;
    let parsed = policy::parse(&files, &settings.endpoints, today());
    let problems = policy::render(&parsed.problems, &files, false);
    match parsed.policy {
        Some(policy) => {
            if !problems.is_empty() {
                tracing::warn!("the policy is accepted with warnings:\n{problems}");
            }
            Ok(policy)
        }
        None => Err(AgentError::PolicyRefused { path: settings.policy.clone(), problems }),
    }
}

fn today() -> Date {
    Timestamp::now().to_zoned(TimeZone::UTC).date()
}

impl State {
    pub(super) fn new(
        settings: Settings,
        listen: SocketAddr,
        kernel: Kernel,
        counters: Counters,
        metrics: Metrics,
        policy: Policy,
    ) -> Self {
        let lacking = settings.degraded.clone();
        let mut state = Self {
            settings,
            listen,
            kernel,
            counters,
            metrics,
            account: Account::default(),
            policy,
            refused: None,
            rules: RuleNames::default(),
            index: Index::default(),
            pods_version: None,
            applied: Entries::new(),
            unidentified: None,
            day: today(),
            strays: HashMap::new(),
            next_tidying: Instant::now() + TIDY_INTERVAL,
            degraded: BTreeSet::new(),
        };
        for feature in lacking {
            state.degrade(feature, true);
        }
        state.show_policy();
        state
    }

    /// Takes the bell that rings for new cgroups; without it the agent goes by the clock.
    pub(super) fn hear(&mut self, bell: Result<CgroupBell, LoadError>) -> Option<CgroupBell> {
        self.degrade("cgroup_events", bell.is_err());
        bell.inspect_err(|error| {
            tracing::warn!(
                error = chain(error),
                "no events for new cgroups: the tree is walked every {} s, and pods stay unidentified longer",
                WALK_INTERVAL.as_secs()
            );
        })
        .ok()
    }

    /// Attaches the programs, once every ruling is written: the one for unidentified pods must be.
    pub(super) fn seal(&mut self) -> Result<(), AgentError> {
        self.apply();
        if self.unidentified.is_none() {
            self.kernel
                .set_pod(CgroupId::UNIDENTIFIED, &PodEntry::CLOSED)
                .map_err(AgentError::Unidentified)?;
        }
        Ok(self.kernel.attach()?)
    }

    pub(super) fn root(&self) -> &Path {
        &self.kernel.root().path
    }

    pub(super) fn policy_sha256(&self) -> &str {
        self.policy.sha256()
    }

    /// Reads the policy again. One that is not accepted changes nothing.
    pub(super) fn reload_policy(&mut self) {
        match self.read_policy() {
            Ok(policy) if policy.sha256() == self.policy.sha256() && self.refused.is_none() => {}
            Ok(policy) => {
                tracing::info!(policy = policy.sha256(), "the policy is accepted");
                self.policy = policy;
                self.refused = None;
                self.show_policy();
                self.apply();
            }
            Err(problems) if self.refused.as_ref() == Some(&problems) => {}
            Err(problems) => {
                tracing::error!(
                    "the policy is not accepted; the last good one goes on deciding:\n\n{problems}"
                );
                self.metrics.policy_refused();
                self.refused = Some(problems);
            }
        }
    }

    fn read_policy(&self) -> Result<Policy, String> {
        let files = policy::read(&self.settings.policy).map_err(|error| chain(&error))?;
        let parsed = policy::parse(&files, &self.settings.endpoints, today());
        parsed.policy.ok_or_else(|| policy::render(&parsed.problems, &files, false))
    }

    /// Reads the list of pods again, if it has changed. One that can't be read changes nothing; at the start that
    /// means that every pod is unidentified.
    pub(super) fn reload_pods(&mut self) {
        let version = Version::of(&self.settings.pods_from);
        if version.is_some() && version == self.pods_version {
            return;
        }
        match pods::read_list(&self.settings.pods_from, self.settings.node_name.as_deref()) {
            Ok(pods) => {
                self.pods_version = version;
                self.index.set_pods(pods.into_iter().map(Arc::new).collect());
                self.degrade("pods_list", false);
                self.apply();
            }
            Err(error) => {
                if self.degrade("pods_list", true) {
                    tracing::error!(
                        error = chain(&error),
                        "the list of pods is not read; the last one stays"
                    );
                }
            }
        }
    }

    /// Walks the cgroup tree again. A guarded root that is gone, or another than the one that the programs are attached
    /// to, is an error: this agent guards nothing any more.
    pub(super) fn walk(&mut self) -> Result<(), AgentError> {
        if !self.kernel.root().is_there() {
            return Err(AgentError::RootGone { path: self.root().to_owned() });
        }
        match pods::walk(self.root()) {
            Ok(tree) => {
                self.index.set_tree(tree, std::time::Instant::now());
                self.degrade("cgroup_tree", false);
                self.apply();
            }
            Err(error) => {
                if self.degrade("cgroup_tree", true) {
                    tracing::error!(%error, root = %self.root().display(), "cannot walk the cgroup tree");
                }
            }
        }
        Ok(())
    }

    pub(super) fn next_tidying(&self) -> Instant {
        self.next_tidying
    }

    /// Forgets what has been gone for a while, and starts a new day where one has begun.
    pub(super) fn tidy(&mut self) {
        self.next_tidying = Instant::now() + TIDY_INTERVAL;
        let read = self.collect();
        let gone = self.gone();
        // What was not read must not be forgotten.
        if read && !gone.is_empty() {
            for pod in &gone {
                self.index.forget(*pod);
                self.strays.remove(pod);
            }
            self.apply();
            match self.counters.forget(&gone) {
                Ok(()) => self.account.forget(&gone),
                Err(error) => {
                    tracing::error!(error = chain(&error), "cannot forget counters of pods that are gone");
                }
            }
        }
        if today() != self.day {
            self.apply();
        }
    }

    /// The pods that departed longer ago than the grace period, and those that came and went between two walks.
    fn gone(&self) -> BTreeSet<CgroupId> {
        let mut gone = BTreeSet::new();
        if let Some(before) = std::time::Instant::now().checked_sub(GRACE) {
            gone.extend(self.index.departed_before(before));
        }
        gone.extend(self.strays.iter().filter(|(_, since)| since.elapsed() > GRACE).map(|(pod, _)| *pod));
        gone
    }

    /// Carries out the difference between what the kernel holds and what it should hold.
    fn apply(&mut self) {
        self.day = today();
        let desired = reconcile::desired(
            &self.policy,
            &self.settings.endpoints,
            &self.index,
            &mut self.rules,
            self.day,
        );
        let mut unwritten = Vec::new();
        for step in reconcile::diff(&self.applied, &desired) {
            match step {
                Step::Set(cgroup, entry) => match self.kernel.set_pod(cgroup, &entry) {
                    Ok(()) => drop(self.applied.insert(cgroup, entry)),
                    Err(error) => {
                        tracing::error!(error = chain(&error), "a ruling is not written");
                        unwritten.push(entry);
                        // An older ruling may be weaker: the one for unidentified pods, made strict below, takes over.
                        self.remove(cgroup);
                    }
                },
                Step::Remove(cgroup) => self.remove(cgroup),
            }
        }
        self.degrade("pods_map", !unwritten.is_empty());
        self.rule_unidentified(&unwritten);
        self.show_pods();
    }

    fn remove(&mut self, cgroup: CgroupId) {
        match self.kernel.remove_pod(cgroup) {
            Ok(()) => drop(self.applied.remove(&cgroup)),
            Err(error) => tracing::error!(error = chain(&error), "a ruling is not removed"),
        }
    }

    /// Rules for the pods that have no name, and for those whose rulings found no room.
    fn rule_unidentified(&mut self, unwritten: &[PodEntry]) {
        let entry =
            reconcile::unidentified(&self.policy, &self.settings.endpoints, &mut self.rules, unwritten);
        if self.unidentified != Some(entry) {
            match self.kernel.set_pod(CgroupId::UNIDENTIFIED, &entry) {
                Ok(()) => self.unidentified = Some(entry),
                Err(error) => {
                    tracing::error!(error = chain(&error), "the ruling for unidentified pods is not written");
                }
            }
        }
    }

    /// Whether a denial is carried out for anyone.
    fn enforcing(&self) -> bool {
        enforces(self.applied.values().chain(&self.unidentified))
    }

    /// Reads the kernel's counters and adds what is new to the metrics. Says whether they could be read.
    fn collect(&mut self) -> bool {
        let reading = match self.counters.read() {
            Ok(reading) => reading,
            Err(error) => {
                tracing::error!(error = chain(&error), "cannot read the counters");
                return false;
            }
        };
        for (key, _) in &reading.decisions {
            if key.cgroup != CgroupId::UNIDENTIFIED && !self.index.knows(key.cgroup) {
                self.strays.entry(key.cgroup).or_insert_with(Instant::now);
            }
        }
        self.strays.retain(|pod, _| !self.index.knows(*pod));
        let added = self.account.added(reading);
        let names = Names { index: &self.index, endpoints: &self.settings.endpoints, rules: &self.rules };
        self.metrics.add(&added, names);
        true
    }

    pub(super) fn metrics(&mut self) -> Vec<u8> {
        self.collect();
        self.metrics.render()
    }

    pub(super) fn attribute(&self, event: &AttemptEvent) -> Attempt {
        let attribution = Attribution {
            index: &self.index,
            endpoints: &self.settings.endpoints,
            rules: &self.rules,
            policy_sha256: self.policy.sha256(),
            boot: boot_time(),
        };
        attribution.attribute(event)
    }

    /// Whether the walks know the pod that an event names.
    pub(super) fn knows(&self, event: &AttemptEvent) -> bool {
        self.index.knows(event.pod)
    }

    pub(super) fn lose_events(&self, reason: EventLoss, count: u64) {
        self.metrics.lose(reason, count);
    }

    pub(super) fn status(&mut self) -> Status {
        self.collect();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.settings.node_name.clone(),
            listen: self.listen,
            guarded_root: self.root().display().to_string(),
            enforcing: self.enforcing(),
            policy: PolicyStatus {
                path: self.settings.policy.display().to_string(),
                sha256: self.policy.sha256().to_owned(),
                refused: self.refused.clone(),
            },
            rulings: self.applied.len(),
            counters: self.account.len(),
            degraded: self.degraded.iter().map(ToString::to_string).collect(),
            pods: self.index.pods().map(|(cgroup, identity)| self.pod_status(cgroup, &identity)).collect(),
        }
    }

    fn pod_status(&self, cgroup: CgroupId, identity: &Identity) -> PodStatus {
        let pod = match identity {
            Identity::Pod(pod) => Some(pod),
            Identity::Unidentified => None,
        };
        let entry = self.applied.get(&cgroup).or(self.unidentified.as_ref());
        let rulings = self.settings.endpoints.iter().filter_map(|(id, endpoint)| {
            let ruling = entry?.ruling(id);
            let status = RulingStatus {
                verdict: ruling.verdict().as_str().to_owned(),
                mode: ruling.mode().as_str().to_owned(),
                rule: self.rules.name(ruling.rule()).to_owned(),
            };
            Some((endpoint.name.clone(), status))
        });
        PodStatus {
            cgroup: cgroup.0,
            namespace: pod.map(|pod| pod.workload.namespace.clone()),
            pod: pod.map(|pod| pod.name.clone()),
            service_account: pod.map(|pod| pod.workload.service_account.clone()),
            rulings: rulings.collect(),
        }
    }

    fn show_policy(&self) {
        let expiries = self.policy.rules().iter().filter_map(|rule| Some((rule.name.as_str(), rule.until?)));
        self.metrics.set_policy(self.policy.sha256(), Timestamp::now().as_second(), expiries);
    }

    fn show_pods(&self) {
        let mut states = PodStates::default();
        for (_, identity) in self.index.pods() {
            match identity {
                Identity::Unidentified => states.unidentified += 1,
                Identity::Pod(pod) => match self.policy.mode(&pod.workload) {
                    Mode::Enforce => states.enforced += 1,
                    Mode::Audit => states.audited += 1,
                },
            }
        }
        self.metrics.set_pods(states, self.enforcing());
    }

    /// Notes whether a feature is degraded, and says whether that is news.
    pub(super) fn degrade(&mut self, feature: &'static str, degraded: bool) -> bool {
        self.metrics.set_degraded(feature, degraded);
        if degraded { self.degraded.insert(feature) } else { self.degraded.remove(feature) }
    }
}
