//! What the gates count.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGaugeVec, Registry};

use super::{
    EventLoss, RequestMetrics,
    register::{counter, counters, gauges, register},
};

/// What the gates count, each on its own thread.
#[derive(Clone)]
pub struct GateMetrics {
    pub requests: RequestMetrics,
    pub(super) gates: IntGaugeVec,
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
    pub(super) fn new(
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
