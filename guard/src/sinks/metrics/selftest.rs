//! What the self-test found.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::register::{counters, gauge, gauges};

/// What the self-test found.
pub(super) struct SelftestMetrics {
    pub(super) success: IntGaugeVec,
    pub(super) failures: IntCounterVec,
    pub(super) last_run: IntGauge,
}

impl SelftestMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
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
