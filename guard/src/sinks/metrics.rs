//! The Prometheus metrics. Labels are bounded: names of Kubernetes objects and policy rules, and our own words; never
//! an address, a process or a path.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use guard_common::{Kind, Lock, Mode, PodEntry, Verdict};
use jiff::civil::Date;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector, process_collector::ProcessCollector,
};

use super::totals::{self, Totals};
use crate::{
    account::Owners,
    backstop::Met,
    endpoints::Endpoints,
    issued::{Held, Holder},
    kernel::Reading,
    kubernetes::Reason,
    pods::Index,
    reconcile::RuleNames,
    request::ImdsVersion,
};

/// Everything that `/metrics` shows.
pub struct Metrics {
    registry: Registry,
    attempts: IntCounterVec,
    egress_packets: IntCounterVec,
    packet_socket_frames: IntCounterVec,
    backstop_packets: IntCounterVec,
    rule_hits: IntCounterVec,
    rule_expiry: IntGaugeVec,
    events_lost: IntCounterVec,
    enforcing: IntGauge,
    pods: IntGaugeVec,
    policy_info: IntGaugeVec,
    reload_successful: IntGauge,
    reload_success_time: IntGauge,
    started_unguarded: IntGaugeVec,
    kubernetes: KubernetesMetrics,
    requests: RequestMetrics,
    gate: GateMetrics,
    degraded: IntGaugeVec,
    selftest: SelftestMetrics,
}

/// Who the pods are, by the states that `imds_guard_pods` counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodStates {
    pub enforced: usize,
    pub audited: usize,
    pub unidentified: usize,
}

/// What a reading is attributed with.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    pub index: &'a Index,
    /// Whose those cgroups were that the index does not know any more.
    pub owners: &'a Owners,
    pub endpoints: &'a Endpoints,
    pub rules: &'a RuleNames,
}

impl Metrics {
    /// Makes all metrics of an agent, with the constant ones set.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let events_lost = counters(
            &registry,
            "imds_guard_events_lost_total",
            "Events that did not reach the log, by reason. Attempts are counted all the same.",
            &["reason"],
        )?;
        let requests = RequestMetrics::new(&registry)?;
        let attempt_labels = ["namespace", "service_account", "endpoint", "verdict", "mode"];
        let metrics = Self {
            attempts: counters(
                &registry,
                "imds_guard_attempts_total",
                "Connects and unconnected sends of guarded processes to a protected endpoint. Pods that have no name \
                 yet have empty labels.",
                &attempt_labels,
            )?,
            egress_packets: counters(
                &registry,
                "imds_guard_egress_packets_total",
                "Packets to a protected endpoint from sockets that no other hook has judged, and all that are dropped: \
                 from raw sockets and connections from before the guard.",
                &attempt_labels,
            )?,
            packet_socket_frames: counters(
                &registry,
                "imds_guard_packet_socket_frames_total",
                "Frames of packet sockets to a protected endpoint, where they leave the host; and those of others that \
                 are dropped there, with empty labels.",
                &attempt_labels,
            )?,
            backstop_packets: counters(
                &registry,
                "imds_guard_backstop_packets_total",
                "Packets to a protected endpoint that the host's packet filter met: what pods had sent on, and frames \
                 past the queues.",
                &["place", "action"],
            )?,
            rule_hits: counters(
                &registry,
                "imds_guard_policy_rule_hits_total",
                "Attempts and packets that a rule of the policy decided.",
                &["rule"],
            )?,
            rule_expiry: gauges(
                &registry,
                "imds_guard_policy_rule_expiry_timestamp_seconds",
                "When a rule with `until` no longer matches, in seconds since the epoch.",
                &["rule"],
            )?,
            gate: GateMetrics::new(&registry, requests.clone(), |reason| {
                events_lost.with_label_values(&[reason.as_str()])
            })?,
            requests,
            events_lost,
            enforcing: gauge(
                &registry,
                "imds_guard_enforcing",
                "Whether a denial is carried out for at least one pod (1) or all are only recorded (0).",
            )?,
            pods: gauges(
                &registry,
                "imds_guard_pods",
                "Pods on this node, by how they are treated.",
                &["state"],
            )?,
            started_unguarded: gauges(
                &registry,
                "imds_guard_pods_started_unguarded",
                "Pods that were running already when the programs were attached.",
                &["namespace", "service_account"],
            )?,
            kubernetes: KubernetesMetrics::new(&registry)?,
            policy_info: gauges(
                &registry,
                "imds_guard_policy_info",
                "The policy in force, by the hash of its files.",
                &["sha256"],
            )?,
            reload_successful: gauge(
                &registry,
                "imds_guard_policy_last_reload_successful",
                "Whether the policy as it stands now was accepted. If not, the last good one goes on deciding.",
            )?,
            reload_success_time: gauge(
                &registry,
                "imds_guard_policy_last_reload_success_timestamp_seconds",
                "When a policy was last accepted, in seconds since the epoch.",
            )?,
            selftest: SelftestMetrics::new(&registry)?,
            degraded: gauges(
                &registry,
                "imds_guard_degraded",
                "What this host or its state keeps the agent from doing; `imds-guard doctor` says what follows.",
                &["feature"],
            )?,
            registry,
        };
        let build = gauges(&metrics.registry, "imds_guard_build_info", "The agent's version.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics.registry.register(Box::new(ProcessCollector::for_self()))?;
        for reason in guard_common::Lost::ALL {
            metrics.events_lost.with_label_values(&[reason.as_str()]);
        }
        for reason in
            [EventLoss::LogFull, EventLoss::LogFailed, EventLoss::Unreadable, EventLoss::GateQueueFull]
        {
            metrics.events_lost.with_label_values(&[reason.as_str()]);
        }
        Ok(metrics)
    }

    /// What the gates count.
    pub fn gate(&self) -> GateMetrics {
        self.gate.clone()
    }

    /// Shows how many gates are open, and how many pods wait for theirs.
    pub fn set_gates(&self, open: usize, missing: usize) {
        for (state, count) in [("open", open), ("missing", missing)] {
            self.gate.gates.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// What the agent counts of its talk with the API server.
    pub fn kubernetes(&self) -> KubernetesMetrics {
        self.kubernetes.clone()
    }

    /// What is counted of requests.
    pub fn requests(&self) -> RequestMetrics {
        self.requests.clone()
    }

    /// Shows the pods that ran before the guard, each with its namespace and service account.
    pub fn set_started_unguarded<'a>(&self, pods: impl Iterator<Item = (&'a str, &'a str)>) {
        self.started_unguarded.reset();
        for (namespace, service_account) in pods {
            self.started_unguarded.with_label_values(&[namespace, service_account]).inc();
        }
    }

    /// Adds what the kernel counted since the last time. Pods without a name count under empty labels.
    pub fn add(&self, added: &Reading, names: Names<'_>) {
        for (key, count) in &added.decisions {
            let pod = names.index.identify(key.cgroup);
            let (namespace, service_account) = pod.map_or_else(
                || names.owners.of(key.cgroup),
                |pod| (pod.workload.namespace.as_str(), pod.workload.service_account.as_str()),
            );
            let endpoint = names.endpoints.name(key.endpoint).unwrap_or("unknown");
            let labels = [namespace, service_account, endpoint, key.outcome().as_str(), key.mode().as_str()];
            match key.lock() {
                Lock::Socket => self.attempts.with_label_values(&labels).inc_by(*count),
                Lock::Egress => self.egress_packets.with_label_values(&labels).inc_by(*count),
                Lock::Uplink => self.packet_socket_frames.with_label_values(&labels).inc_by(*count),
            }
            self.rule_hits.with_label_values(&[names.rules.name(key.rule)]).inc_by(*count);
        }
        for (reason, count) in &added.lost {
            self.events_lost.with_label_values(&[reason.as_str()]).inc_by(*count);
        }
    }

    /// The totals of all that must not begin anew with each agent.
    pub fn totals(&self) -> Totals {
        totals::totals(&self.lasting())
    }

    /// Goes on from the totals of a former agent.
    pub fn restore(&self, totals: &Totals) {
        totals::restore(&self.lasting(), totals);
        self.requests.know_roles(totals);
    }

    /// Not those of the packet filter: it keeps its counters itself.
    fn lasting(&self) -> [&IntCounterVec; 9] {
        [
            &self.attempts,
            &self.egress_packets,
            &self.packet_socket_frames,
            &self.rule_hits,
            &self.events_lost,
            &self.requests.requests,
            &self.requests.credentials_issued,
            &self.gate.severed,
            &self.selftest.failures,
        ]
    }

    /// Adds what the packet filter met since the last time.
    pub fn add_backstop(&self, met: &[Met]) {
        for Met { place, dropped, packets } in met {
            let labels = [place.as_str(), if *dropped { "drop" } else { "pass" }];
            self.backstop_packets.with_label_values(&labels).inc_by(*packets);
        }
    }

    /// Counts an event that was lost on its way from the ring buffer to the log.
    pub fn lose(&self, reason: EventLoss, count: u64) {
        self.events_lost.with_label_values(&[reason.as_str()]).inc_by(count);
    }

    /// Shows the policy in force.
    pub fn set_policy<'a>(&self, sha256: &str, now: i64, expiries: impl Iterator<Item = (&'a str, Date)>) {
        self.policy_info.reset();
        self.policy_info.with_label_values(&[sha256]).set(1);
        self.reload_success_time.set(now);
        self.reload_successful.set(1);
        self.rule_expiry.reset();
        for (rule, until) in expiries {
            if let Ok(end) = until.tomorrow().and_then(|day| day.to_zoned(jiff::tz::TimeZone::UTC)) {
                self.rule_expiry.with_label_values(&[rule]).set(end.timestamp().as_second());
            }
        }
    }

    /// Says that the policy as it stands now was refused.
    pub fn policy_refused(&self) {
        self.reload_successful.set(0);
    }

    /// Shows how the pods are treated.
    pub fn set_pods(&self, states: PodStates, enforcing: bool) {
        for (state, count) in [
            ("enforced", states.enforced),
            ("audited", states.audited),
            ("unidentified", states.unidentified),
        ] {
            self.pods.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.enforcing.set(i64::from(enforcing));
    }

    /// Shows whether a feature is degraded.
    pub fn set_degraded(&self, feature: &str, degraded: bool) {
        self.degraded.with_label_values(&[feature]).set(i64::from(degraded));
    }

    /// How many credentials each service account has been given, by role and version.
    pub fn credentials_issued(&self) -> Vec<(Holder, u64)> {
        let totals = totals::totals(&[&self.requests.credentials_issued]).into_values().flatten();
        let account = |labels: &BTreeMap<String, String>| {
            let label = |name| labels.get(name).cloned().unwrap_or_default();
            (label("namespace"), label("service_account"))
        };
        totals.map(|(labels, count)| (account(&labels), count)).collect()
    }

    /// Shows who may hold credentials from before, and until when.
    pub fn set_held(&self, held: &[Held]) {
        self.requests.credentials_held.reset();
        for Held { namespace, service_account, valid_until, .. } in held {
            let labels = [namespace.as_str(), service_account.as_str()];
            self.requests.credentials_held.with_label_values(&labels).set(valid_until.as_second());
        }
    }

    /// Shows what the self-test found at a time: each vector that could be tried, and whether it was shut.
    pub fn set_selftest<'a>(&self, trials: impl Iterator<Item = (&'a str, bool)>, now: i64) {
        self.selftest.success.reset();
        for (vector, shut) in trials {
            self.selftest.success.with_label_values(&[vector]).set(i64::from(shut));
            self.selftest.failures.with_label_values(&[vector]).inc_by(u64::from(!shut));
        }
        self.selftest.last_run.set(now);
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "cannot render the metrics");
        }
        text
    }
}

/// What the gates count, each on its own thread.
#[derive(Clone)]
pub struct GateMetrics {
    pub requests: RequestMetrics,
    gates: IntGaugeVec,
    /// How long they took to answer.
    duration: Histogram,
    /// Connections of pods that were ended when their pod was denied, by namespace and service account.
    pub severed: IntCounterVec,
    /// Connections that were not the pod's.
    pub strangers: IntCounter,
    /// Requests that were counted and not told: the agent could not keep up, or their pod had spent its budget.
    pub untold: IntCounter,
    pub past_budget: IntCounter,
}

impl GateMetrics {
    fn new(
        registry: &Registry,
        requests: RequestMetrics,
        lost: impl Fn(EventLoss) -> IntCounter,
    ) -> prometheus::Result<Self> {
        let duration = HistogramOpts::new(
            "imds_guard_gate_request_duration_seconds",
            "How long gates took to answer a request, IMDS and the wait for a turn included.",
        )
        .buckets(vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]);
        Ok(Self {
            requests,
            gates: gauges(
                registry,
                "imds_guard_gates",
                "Pods that reach IMDS through a gate alone: it is open, or missing, and then they are refused.",
                &["state"],
            )?,
            duration: register(registry, Histogram::with_opts(duration)?)?,
            severed: counters(
                registry,
                "imds_guard_connections_destroyed_total",
                "Connections to a protected endpoint that were ended because their pod is denied it from now on.",
                &["namespace", "service_account"],
            )?,
            strangers: counter(
                registry,
                "imds_guard_gate_strangers_total",
                "Connections to a gate that were closed, because they were not made by its pod.",
            )?,
            untold: lost(EventLoss::GateQueueFull),
            past_budget: lost(EventLoss::Budget),
        })
    }

    /// Notes how long a request took.
    pub fn took(&self, duration: Duration) {
        self.duration.observe(duration.as_secs_f64());
    }
}

/// What the self-test found.
struct SelftestMetrics {
    success: IntGaugeVec,
    failures: IntCounterVec,
    last_run: IntGauge,
}

impl SelftestMetrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            success: gauges(
                registry,
                "imds_guard_selftest_success",
                "Whether the kernel refused the agent's own attempt when it last made one (1), by the way that it took. One \
                 that this host can't make is left out.",
                &["vector"],
            )?,
            failures: counters(
                registry,
                "imds_guard_selftest_failures_total",
                "Attempts of the agent's own that the kernel did not refuse. They are put right at once where they can be.",
                &["vector"],
            )?,
            last_run: gauge(
                registry,
                "imds_guard_selftest_last_run_timestamp_seconds",
                "When the agent last tested itself, in seconds since the epoch.",
            )?,
        })
    }
}

/// What is counted of the talk with the API server.
#[derive(Clone)]
pub struct KubernetesMetrics {
    /// By verb and resource.
    pub requests: IntCounterVec,
    /// The Events that were written, by reason.
    pub events: IntCounterVec,
    /// The Events that were not taken.
    pub event_errors: IntCounter,
}

impl KubernetesMetrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            requests: counters(
                registry,
                "imds_guard_kubernetes_requests_total",
                "Requests sent to the API server.",
                &["verb", "resource"],
            )?,
            events: counters(
                registry,
                "imds_guard_kubernetes_events_total",
                "Kubernetes Events written, by reason.",
                &["reason"],
            )?,
            event_errors: counter(
                registry,
                "imds_guard_kubernetes_event_errors_total",
                "Kubernetes Events that the API server did not take.",
            )?,
        };
        for reason in Reason::ALL {
            metrics.events.with_label_values(&[reason.as_str()]);
        }
        Ok(metrics)
    }
}

/// How many roles are counted by name.
const ROLES: usize = 16;

/// What is counted of the requests that were answered, by IMDS itself or by a gate.
#[derive(Clone)]
pub struct RequestMetrics {
    requests: IntCounterVec,
    credentials_issued: IntCounterVec,
    /// Until when those who are denied may hold some.
    credentials_held: IntGaugeVec,
    /// The roles that are counted by name.
    roles: Arc<Mutex<Vec<String>>>,
}

/// A request as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountedRequest<'a> {
    pub namespace: &'a str,
    pub service_account: &'a str,
    pub path_class: &'a str,
    pub imds_version: ImdsVersion,
    pub verdict: &'a str,
    /// The status of the answer; 0 where it is not known.
    pub code: u16,
    /// The role whose credentials were asked for.
    pub role: Option<&'a str>,
}

impl RequestMetrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            roles: Arc::default(),
            requests: counters(
                registry,
                "imds_guard_requests_total",
                "Requests to IMDS that were answered, by what they asked for. Those that a proxy of the node carried have \
                 the service account `via-proxy`; those of pods that have no name yet have empty labels.",
                &["namespace", "service_account", "path_class", "imds_version", "verdict", "code"],
            )?,
            credentials_held: gauges(
                registry,
                "imds_guard_credentials_valid_until_timestamp_seconds",
                "Until when a service account that is denied may hold credentials of the node's role from before, in seconds \
                 since the epoch.",
                &["namespace", "service_account"],
            )?,
            credentials_issued: counters(
                registry,
                "imds_guard_credentials_issued_total",
                "Credentials of a role that IMDS gave away.",
                &["namespace", "service_account", "imds_version", "role"],
            )?,
        })
    }

    /// Counts one request. A role is only counted where its credentials were given.
    pub fn count(&self, request: &CountedRequest<'_>) {
        self.counter(request).inc();
        if let (200, Some(role)) = (request.code, request.role) {
            let CountedRequest { namespace, service_account, imds_version, .. } = *request;
            let role = self.known(role);
            let labels = [namespace, service_account, imds_version.as_str(), role];
            self.credentials_issued.with_label_values(&labels).inc();
        }
    }

    /// A role, if it is one of the first few that were given. A node has one or two; what answers a pod in a network of its
    /// own making can give any number.
    fn known<'a>(&self, role: &'a str) -> &'a str {
        let mut roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
        if roles.iter().any(|known| known == role) {
            return role;
        }
        if roles.len() == ROLES {
            return "other";
        }
        roles.push(role.to_owned());
        role
    }

    /// Takes note of the roles that a former agent has counted by name.
    fn know_roles(&self, totals: &Totals) {
        for (labels, _) in totals.get("imds_guard_credentials_issued_total").into_iter().flatten() {
            if let Some(role) = labels.get("role") {
                self.known(role);
            }
        }
    }

    /// The counter of all requests of this kind.
    pub fn counter(&self, request: &CountedRequest<'_>) -> IntCounter {
        let CountedRequest { namespace, service_account, path_class, imds_version, verdict, code, .. } =
            *request;
        let code = match code {
            200 | 400 | 401 | 403 | 404 | 405 | 429 | 500 | 502 | 503 | 504 => code.to_string(),
            0 => "unknown".to_owned(),
            _ => "other".to_owned(),
        };
        let version = imds_version.as_str();
        self.requests.with_label_values(&[namespace, service_account, path_class, version, verdict, &code])
    }
}

/// Why an event was lost after it had come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventLoss {
    /// The event log could not keep up.
    LogFull,
    /// The event log could not be written: a full disk, say.
    LogFailed,
    /// Its record had another size than ours.
    Unreadable,
    /// The agent could not keep up with the gates.
    GateQueueFull,
    /// Its pod had spent its budget.
    Budget,
}

impl EventLoss {
    const fn as_str(self) -> &'static str {
        match self {
            Self::LogFull => "log_full",
            Self::LogFailed => "log_failed",
            Self::Unreadable => "unreadable",
            Self::GateQueueFull => "gate_queue_full",
            Self::Budget => guard_common::Lost::Budget.as_str(),
        }
    }
}

/// Whether any ruling denies something, and that is carried out.
pub fn enforces<'a>(entries: impl IntoIterator<Item = &'a PodEntry>) -> bool {
    let mut pods = entries.into_iter().filter(|entry| entry.kind() == Kind::Pod);
    pods.any(|pod| {
        let rulings = pod.rulings().iter();
        rulings
            .map(|ruling| (ruling.verdict(), ruling.mode()))
            .any(|(verdict, mode)| verdict != Verdict::Allow && mode == Mode::Enforce)
    })
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    register(registry, IntCounter::new(name, help)?)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    register(registry, IntGauge::new(name, help)?)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
