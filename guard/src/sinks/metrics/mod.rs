//! The Prometheus metrics. Labels are bounded: names of Kubernetes objects and policy rules, and our own words; never
//! an address, a process or a path.

mod gate;
mod kubernetes;
mod register;
mod requests;
mod selftest;
mod traffic;

use std::collections::BTreeMap;

use guard_common::{Kind, Lock, Mode, PodEntry, Verdict};
use jiff::civil::Date;
use prometheus::{
    Encoder, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder, process_collector::ProcessCollector,
};

pub use gate::GateMetrics;
pub use kubernetes::KubernetesMetrics;
pub use requests::{CountedRequest, RequestMetrics};

use super::totals::{self, Totals};
use crate::{
    account::Owners,
    backstop::Met,
    endpoints::Endpoints,
    issued::{Held, Holder},
    kernel::Reading,
    pods::Index,
    reconcile::RuleNames,
};
use register::{gauge, gauges};
use selftest::SelftestMetrics;
use traffic::TrafficMetrics;

/// Everything that `/metrics` shows.
pub struct Metrics {
    registry: Registry,
    traffic: TrafficMetrics,
    rule_expiry: IntGaugeVec,
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
        let traffic = TrafficMetrics::new(&registry)?;
        let requests = RequestMetrics::new(&registry)?;
        let metrics = Self {
            rule_expiry: gauges(
                &registry,
                "imds_guard_policy_rule_expiry_timestamp_seconds",
                "When a rule with `until` no longer matches, in seconds since the epoch.",
                &["rule"],
            )?,
            gate: GateMetrics::new(&registry, requests.clone(), |reason| {
                traffic.events_lost.with_label_values(&[reason.as_str()])
            })?,
            requests,
            traffic,
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
                Lock::Socket => self.traffic.attempts.with_label_values(&labels).inc_by(*count),
                Lock::Egress => self.traffic.egress_packets.with_label_values(&labels).inc_by(*count),
                Lock::Uplink => self.traffic.packet_socket_frames.with_label_values(&labels).inc_by(*count),
            }
            self.traffic.rule_hits.with_label_values(&[names.rules.name(key.rule)]).inc_by(*count);
        }
        for (reason, count) in &added.lost {
            self.traffic.events_lost.with_label_values(&[reason.as_str()]).inc_by(*count);
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
            &self.traffic.attempts,
            &self.traffic.egress_packets,
            &self.traffic.packet_socket_frames,
            &self.traffic.rule_hits,
            &self.traffic.events_lost,
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
            self.traffic.backstop_packets.with_label_values(&labels).inc_by(*packets);
        }
    }

    /// Counts an event that was lost on its way from the ring buffer to the log.
    pub fn lose(&self, reason: EventLoss, count: u64) {
        self.traffic.events_lost.with_label_values(&[reason.as_str()]).inc_by(count);
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

    /// Shows that nothing is known of what the self-test would find.
    pub fn forget_selftest(&self) {
        self.selftest.success.reset();
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
