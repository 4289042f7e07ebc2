//! What the agent knows and has written. Its methods are the answers to the bells.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use guard_common::{AttemptEvent, CgroupId, GateKey, Kind, Mode, PodEntry, RequestRecord};
use jiff::{Timestamp, civil::Date};
use tokio::time::Instant;

use super::{
    AgentError, PodsFrom, Settings, WALK_INTERVAL,
    backstop::Keeper,
    boot_time, chain,
    doors::Doors,
    lines::Lines,
    policy::{Change, PolicyInForce, today},
    selftest::Selftest,
    severance::Denied,
    succession::Stage,
    voice::Voice,
};
use crate::{
    account::{Account, Checkpoint},
    attempt::{Attempt, Attribution},
    changes::Version,
    endpoints::Endpoints,
    issued::Issued,
    kernel::{CgroupBell, Counters, Kernel, LoadError},
    kubernetes::News,
    memory::Memory,
    pods::{self, Identity, Index, KnownPod},
    policy::RuleName,
    reconcile::{self, Desired, Entries, RuleNames, Step},
    request::{LineBudget, Request},
    sinks::metrics::{EventLoss, Metrics, Names, PodStates, enforces},
};

/// How long the counters and rulings of a pod outlive its cgroup: packets of its last sockets may be on their way.
const GRACE: Duration = Duration::from_secs(30);

/// How often what is gone is tidied away.
const TIDY_INTERVAL: Duration = Duration::from_secs(15);

pub(super) struct State {
    pub(super) settings: Settings,
    pub(super) listen: SocketAddr,
    pub(super) stage: Stage,
    /// Since when another agent guards.
    pub(super) handed_over: Option<Instant>,
    /// Whether counts of other generations are still to be added: until then none may be written down.
    pub(super) carries_over: bool,
    /// The folders of other generations, to be removed once their counts are written down.
    pub(super) other_generations: Vec<PathBuf>,
    pub(super) kernel: Kernel,
    pub(super) counters: Counters,
    pub(super) metrics: Metrics,
    pub(super) account: Account,
    pub(super) policy: PolicyInForce,
    pub(super) rules: RuleNames,
    /// How many of them the kernel has.
    pub(super) rules_written: usize,
    pub(super) index: Index,
    /// The cgroup of the agent's own pod, if it runs in one.
    pub(super) own: Option<CgroupId>,
    /// It, and those of agents that have handed over and are still there.
    agents: BTreeSet<CgroupId>,
    /// The pods that were there when the programs were attached.
    pub(super) unguarded: BTreeSet<CgroupId>,
    pub(super) memory: Option<Memory>,
    /// The account as it is in the memory.
    pub(super) saved_account: Option<Checkpoint>,
    /// Whether this node's pods have been told, by the API server or by a list.
    listed: bool,
    /// The pods as they are in the memory.
    saved: Vec<KnownPod>,
    pub(super) voice: Voice,
    /// Which version of the list of pods is in the index.
    pods_version: Option<Version>,
    pub(super) applied: Entries,
    pub(super) doors: Doors,
    pub(super) keeper: Keeper,
    /// The ports of gates that were there when this agent took over, and until when they are kept.
    pub(super) former_gates: Option<(Instant, Vec<GateKey>)>,
    /// The ruling for pods that have no name, as it was written.
    pub(super) unidentified: Option<PodEntry>,
    /// The day for which `applied` was computed: rules expire at midnight, UTC.
    pub(super) day: Date,
    /// Pods that the kernel counted and no walk ever saw, with the time when they were noticed.
    strays: HashMap<CgroupId, Instant>,
    next_tidying: Instant,
    pub(super) degraded: BTreeSet<&'static str>,
    request_lines: LineBudget,
    pub(super) selftest: Selftest,
    pub(super) denied: Denied,
    pub(super) issued: Issued,
    /// As it is in the memory.
    pub(super) saved_issued: Option<Issued>,
}

impl State {
    pub(super) fn new(
        settings: Settings,
        listen: SocketAddr,
        kernel: Kernel,
        counters: Counters,
        metrics: Metrics,
        policy: PolicyInForce,
        memory: Option<Memory>,
    ) -> Self {
        let lacking = settings.degraded.clone();
        let selftest = Selftest::new(settings.selftest_interval, &settings.endpoints);
        let mut state = Self {
            settings,
            listen,
            stage: Stage::Preparing,
            handed_over: None,
            carries_over: false,
            other_generations: Vec::new(),
            kernel,
            counters,
            metrics,
            account: Account::default(),
            policy,
            rules: RuleNames::default(),
            rules_written: 1,
            index: Index::default(),
            own: None,
            agents: BTreeSet::new(),
            unguarded: BTreeSet::new(),
            memory,
            saved_account: None,
            listed: false,
            saved: Vec::new(),
            voice: Voice::new(std::time::Instant::now()),
            pods_version: None,
            applied: Entries::new(),
            doors: Doors::default(),
            keeper: Keeper::default(),
            former_gates: None,
            unidentified: None,
            day: today(),
            strays: HashMap::new(),
            next_tidying: Instant::now() + TIDY_INTERVAL,
            degraded: BTreeSet::new(),
            request_lines: LineBudget::default(),
            selftest,
            denied: Denied::default(),
            issued: Issued::default(),
            saved_issued: None,
        };
        for feature in lacking {
            state.degrade(feature, true);
        }
        let is_unpinned = !state.kernel.is_pinned();
        state.degrade("pins", is_unpinned);
        state.show_policy();
        if state.policy.refused.is_some() {
            state.metrics.policy_refused();
            state.voice.policy_refused();
        }
        state
    }

    /// Takes the pods that were known at the last end: whoever is not among them is unidentified until the API server
    /// answers.
    pub(super) fn recall_pods(&mut self) {
        match self.memory.as_ref().map(Memory::pods) {
            Some(Ok(Some(pods))) => {
                tracing::info!(pods = pods.len(), "the last known pods are recalled");
                self.index.set_pods(pods.into_iter().map(|known| Arc::new(known.pod)).collect());
            }
            Some(Err(error)) => tracing::warn!(error = chain(&error), "no pods are recalled"),
            Some(Ok(None)) | None => {}
        }
    }

    /// Looks for the agent's own pod, which may do everything.
    pub(super) fn find_own_pod(&mut self) {
        self.own = pods::walk(self.root())
            .inspect_err(|error| tracing::warn!(%error, "cannot look for the agent's own pod"))
            .ok()
            .and_then(|tree| pods::pod_of(self.root(), &tree, std::process::id()));
        self.agents.extend(self.own);
    }

    /// Takes note of former agents' pods: until they are gone, their gates may have something to ask.
    pub(super) fn find_former_agents(&mut self) {
        let rule = self.rules.id(RuleName::SELF.as_str());
        let imds = self.settings.endpoints.id(Endpoints::IMDS).unwrap_or_default();
        let is_agent = |entry: &PodEntry| entry.kind() == Kind::Pod && entry.ruling(imds).rule() == rule;
        self.agents.extend(self.applied.iter().filter(|(_, entry)| is_agent(entry)).map(|(pod, _)| *pod));
    }

    /// Whether it is the pod of an agent: this one's, or one's that has handed over.
    pub(super) fn is_agent(&self, pod: CgroupId) -> bool {
        self.agents.contains(&pod)
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

    /// Whether the API server has told this node's pods.
    pub(super) fn is_listed(&self) -> bool {
        self.listed
    }

    /// Whether the guard stands, as the kernel tells it and as the canary finds it, and if not, why.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.stage {
            Stage::Preparing => return Err("the guard is being prepared".to_owned()),
            Stage::HandedOver => return Err("another agent guards this node".to_owned()),
            Stage::Guarding => {}
        }
        self.kernel.check().map_err(|error| chain(&error))?;
        self.check_selftest()
    }

    pub(super) fn root(&self) -> &Path {
        &self.kernel.root().path
    }

    pub(super) fn policy_sha256(&self) -> &str {
        self.policy.policy.sha256()
    }

    /// Reads the policy's files again. One that is not accepted changes nothing.
    pub(super) fn reload_policy(&mut self) {
        let change = self.policy.look_at_files();
        self.take_policy(&change);
    }

    fn take_policy(&mut self, change: &Change) {
        match change {
            Change::None => {}
            Change::Accepted => {
                self.show_policy();
                self.apply();
            }
            Change::Refused => {
                self.metrics.policy_refused();
                self.voice.policy_refused();
            }
        }
    }

    /// Takes what the API server tells.
    pub(super) fn hear_news(&mut self, news: News) {
        match news {
            News::Pods(pods) => {
                self.listed = true;
                self.index.set_pods(pods.into_iter().map(Arc::new).collect());
                self.apply();
            }
            News::Policy(files) => {
                let change = self.policy.take_object(files);
                self.take_policy(&change);
            }
            News::PolicyUnwatched => self.policy.lose_object(),
            News::Answers(answers) => drop(self.degrade("kubernetes_api", !answers)),
        }
    }

    /// Writes down the pods that are known, if they have changed since.
    pub(super) fn save_pods(&mut self) {
        let known = self.index.known();
        let is_ours = self.is_guarding() && self.listed;
        let Some(memory) = self.memory.as_ref().filter(|_| is_ours && known != self.saved) else { return };
        let saved = memory.save_pods(&known);
        if saved.is_ok() {
            self.saved = known;
        }
        if self.degrade("state_folder", saved.is_err())
            && let Err(error) = saved
        {
            tracing::warn!(error = chain(&error), "the pods are not remembered for the next start");
        }
    }

    /// Reads the list of pods again, if it has changed. One that can't be read changes nothing; at the start that
    /// means that every pod is unidentified.
    pub(super) fn reload_pods(&mut self) {
        let PodsFrom::File(list) = self.settings.pods_from.clone() else { return };
        let version = Version::of(&list);
        if version.is_some() && version == self.pods_version {
            return;
        }
        match pods::read_list(&list, self.settings.node_name.as_deref()) {
            Ok(pods) => {
                self.pods_version = version;
                self.listed = true;
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
    /// to, is an error: what is in its place must be guarded anew.
    pub(super) fn walk(&mut self) -> Result<(), AgentError> {
        if !self.kernel.root().is_there() {
            self.save_account();
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
        if !self.is_guarding() {
            self.end_drained_gates();
            return;
        }
        let read = self.collect();
        let saved = self.save_account();
        let gone = self.gone();
        // What was not read, or not written down, must not be forgotten.
        if read && saved && !gone.is_empty() {
            for pod in &gone {
                self.index.forget(*pod);
                self.strays.remove(pod);
                self.unguarded.remove(pod);
                self.voice.notices.forget(*pod);
            }
            self.apply();
            self.forget_counters(&gone);
        }
        if today() != self.day {
            self.apply();
        }
        self.look_after_guard();
        self.look_after_backstop();
        self.forget_former_gates();
        self.save_pods();
        self.speak();
    }

    pub(super) fn forget_counters(&mut self, gone: &BTreeSet<CgroupId>) {
        match self.counters.forget(gone) {
            Ok(()) => self.account.forget(gone),
            Err(error) => {
                tracing::error!(error = chain(&error), "cannot forget counters of pods that are gone");
            }
        }
    }

    /// Looks whether the programs are still attached and pinned, and mends what is not.
    pub(super) fn heal(&mut self) {
        if !self.is_guarding() {
            return;
        }
        match self.kernel.reattach() {
            Ok(true) => tracing::warn!("programs were detached: they stand again"),
            Ok(false) => {}
            Err(error) => tracing::error!(error = chain(&error), "the guard does not stand"),
        }
        let pinned = self.kernel.repin();
        match &pinned {
            Ok(true) => tracing::warn!("pins were gone: what the agent holds is pinned again"),
            Ok(false) => {}
            Err(error) => tracing::error!(error = chain(error), "the guard would end with this agent"),
        }
        let is_pinned = self.kernel.is_pinned() && pinned.is_ok();
        self.degrade("pins", !is_pinned);
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

    /// What the kernel should hold today.
    pub(super) fn desired(&self, rules: &mut RuleNames) -> Desired {
        let endpoints = &self.settings.endpoints;
        reconcile::desired(&self.policy.policy, endpoints, &self.index, &self.agents, rules, today())
    }

    /// Carries out the difference between what the kernel holds and what it should hold.
    pub(super) fn apply(&mut self) {
        if !self.is_guarding() {
            return;
        }
        self.day = today();
        let (own, index) = (self.own, &self.index);
        self.agents.retain(|agent| Some(*agent) == own || index.live(*agent).is_some());
        let mut rules = mem::take(&mut self.rules);
        let Desired { mut entries, gated } = self.desired(&mut rules);
        self.rules = rules;
        self.write_rules();
        // A pod's gate is open before it is sent there, and nobody is sent there any more when it closes.
        let stale = self.open_gates(&mut entries, gated);
        let mut unwritten = Vec::new();
        for step in reconcile::diff(&self.applied, &entries) {
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
                Step::Remove(cgroup) if self.is_still_ruled(cgroup) => {}
                Step::Remove(cgroup) => self.remove(cgroup),
            }
        }
        self.degrade("pods_map", !unwritten.is_empty());
        self.rule_unidentified(&unwritten);
        self.keep_backstop();
        self.close_gates(&stale);
        self.sever();
        self.show_pods();
    }

    /// Whether a pod that has no name here keeps the ruling that a former agent gave it: until this node's pods are told,
    /// and after that if it is stricter than the one for unidentified pods.
    fn is_still_ruled(&self, cgroup: CgroupId) -> bool {
        let is_unnamed = matches!(self.index.live(cgroup), Some(Identity::Unidentified));
        let denies = |entry: Option<&PodEntry>| enforces(entry);
        is_unnamed
            && (!self.listed || denies(self.applied.get(&cgroup)) && !denies(self.unidentified.as_ref()))
    }

    fn remove(&mut self, cgroup: CgroupId) {
        match self.kernel.remove_pod(cgroup) {
            Ok(()) => drop(self.applied.remove(&cgroup)),
            Err(error) => tracing::error!(error = chain(&error), "a ruling is not removed"),
        }
    }

    /// Rules for the pods that have no name, and for those whose rulings found no room.
    fn rule_unidentified(&mut self, unwritten: &[PodEntry]) {
        let entry = reconcile::unidentified(
            &self.policy.policy,
            &self.settings.endpoints,
            &mut self.rules,
            unwritten,
        );
        self.write_rules();
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
    pub(super) fn enforcing(&self) -> bool {
        enforces(self.applied.values().chain(&self.unidentified))
    }

    /// Reads the kernel's counters and adds what is new to the metrics. Says whether they could be read.
    pub(super) fn collect(&mut self) -> bool {
        if !self.is_guarding() {
            return false;
        }
        let mut reading = match self.counters.read() {
            Ok(reading) => reading,
            Err(error) => {
                tracing::error!(error = chain(&error), "cannot read the counters");
                return false;
            }
        };
        self.selftest.take_counts(&mut reading);
        for (key, _) in &reading.decisions {
            if key.cgroup != CgroupId::UNIDENTIFIED && !self.index.knows(key.cgroup) {
                self.strays.entry(key.cgroup).or_insert_with(Instant::now);
            }
        }
        self.strays.retain(|pod, _| !self.index.knows(*pod));
        let added = self.account.added(reading);
        self.voice.note(&added);
        for (key, _) in &added.decisions {
            if let Some(pod) = self.index.identify(key.cgroup) {
                let workload = &pod.workload;
                self.account.owners.note(key.cgroup, &workload.namespace, &workload.service_account);
            }
        }
        let names = Names {
            index: &self.index,
            owners: &self.account.owners,
            endpoints: &self.settings.endpoints,
            rules: &self.rules,
        };
        self.metrics.add(&added, names);
        self.collect_backstop();
        true
    }

    pub(super) fn metrics(&mut self) -> Vec<u8> {
        self.collect();
        self.note_issued();
        self.metrics.render()
    }

    pub(super) fn attribute(&self, event: &AttemptEvent) -> Attempt {
        self.attribution().attribute(event)
    }

    /// Counts requests that went straight to IMDS, and writes their lines, each pod's within its budget. What the gates
    /// ask in the name of pods is the agent's own, and counted there.
    pub(super) fn hear_requests(&mut self, (records, unreadable): (Vec<RequestRecord>, u64), lines: &Lines) {
        self.lose_events(EventLoss::Unreadable, unreadable);
        for record in &records {
            if self.is_agent(record.pod) {
                continue;
            }
            let request = Request::attribute(record, self.attribution());
            self.metrics.requests().count(&request.counted());
            if self.request_lines.take(record.pod, Timestamp::now()) {
                lines.write(self.request_line(&request, None), self);
            } else {
                self.lose_events(EventLoss::Budget, 1);
            }
        }
    }

    /// The event log's line of a request.
    pub(super) fn request_line(&self, request: &Request, denial_id: Option<&str>) -> Arc<str> {
        let line = request.line(self.policy.policy.sha256(), denial_id);
        serde_json::to_string(&line).expect("plain data").into()
    }

    fn attribution(&self) -> Attribution<'_> {
        Attribution {
            index: &self.index,
            endpoints: &self.settings.endpoints,
            rules: &self.rules,
            policy_sha256: self.policy.policy.sha256(),
            boot: boot_time(),
        }
    }

    /// Whether the walks know the pod that an event names.
    pub(super) fn knows(&self, event: &AttemptEvent) -> bool {
        self.index.knows(event.pod)
    }

    pub(super) fn lose_events(&self, reason: EventLoss, count: u64) {
        self.metrics.lose(reason, count);
    }

    fn show_policy(&self) {
        let expiries =
            self.policy.policy.rules().iter().filter_map(|rule| Some((rule.name.as_str(), rule.until?)));
        self.metrics.set_policy(self.policy.policy.sha256(), Timestamp::now().as_second(), expiries);
    }

    pub(super) fn show_pods(&self) {
        let mut states = PodStates::default();
        for (_, identity) in self.index.pods() {
            match identity {
                Identity::Unidentified => states.unidentified += 1,
                Identity::Pod(pod) => match self.policy.policy.mode(&pod.workload) {
                    Mode::Enforce => states.enforced += 1,
                    Mode::Audit => states.audited += 1,
                },
            }
        }
        self.metrics.set_pods(states, self.enforcing());
        let unguarded = self.unguarded.iter().filter_map(|pod| self.index.live(*pod));
        self.metrics.set_started_unguarded(unguarded.map(|identity| match identity {
            Identity::Pod(pod) => (pod.workload.namespace.as_str(), pod.workload.service_account.as_str()),
            Identity::Unidentified => ("", ""),
        }));
    }

    /// Notes whether a feature is degraded, and says whether that is news.
    pub(super) fn degrade(&mut self, feature: &'static str, degraded: bool) -> bool {
        self.metrics.set_degraded(feature, degraded);
        if degraded { self.degraded.insert(feature) } else { self.degraded.remove(feature) }
    }
}
