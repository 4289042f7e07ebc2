//! Where observations go: metrics, the event log, and the agent's own small API. Sinks are told; they decide nothing.

pub mod api;
pub mod log;
pub mod metrics;
pub mod totals;
