//! What is counted of the talk with the API server.

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::register::{counter, counters};
use crate::kubernetes::Reason;

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
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
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
