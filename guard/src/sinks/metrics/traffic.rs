//! What the kernel and the host's packet filter count of pods' traffic.

use guard_common::Lost;
use prometheus::{IntCounterVec, Registry};

use super::{EventLoss, register::counters};

pub(super) struct TrafficMetrics {
    pub(super) attempts: IntCounterVec,
    pub(super) egress_packets: IntCounterVec,
    pub(super) packet_socket_frames: IntCounterVec,
    pub(super) backstop_packets: IntCounterVec,
    pub(super) rule_hits: IntCounterVec,
    pub(super) events_lost: IntCounterVec,
}

impl TrafficMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let attempt_labels = ["namespace", "service_account", "endpoint", "verdict", "mode"];
        let traffic = Self {
            attempts: counters(
                registry,
                "imds_guard_attempts_total",
                "Connects and unconnected sends of guarded processes to a protected endpoint. Pods that have no name \
                 yet have empty labels.",
                &attempt_labels,
            )?,
            egress_packets: counters(
                registry,
                "imds_guard_egress_packets_total",
                "Packets to a protected endpoint from sockets that no other hook has judged, and all that are dropped: \
                 from raw sockets and connections from before the guard.",
                &attempt_labels,
            )?,
            packet_socket_frames: counters(
                registry,
                "imds_guard_packet_socket_frames_total",
                "Frames of packet sockets to a protected endpoint, where they leave the host; and those of others that \
                 are dropped there, with empty labels.",
                &attempt_labels,
            )?,
            backstop_packets: counters(
                registry,
                "imds_guard_backstop_packets_total",
                "Packets to a protected endpoint that the host's packet filter met: what pods had sent on, and frames \
                 past the queues.",
                &["place", "action"],
            )?,
            rule_hits: counters(
                registry,
                "imds_guard_policy_rule_hits_total",
                "Attempts and packets that a rule of the policy decided.",
                &["rule"],
            )?,
            events_lost: counters(
                registry,
                "imds_guard_events_lost_total",
                "Events that did not reach the log, by reason. Attempts are counted all the same.",
                &["reason"],
            )?,
        };
        let own = [EventLoss::LogFull, EventLoss::LogFailed, EventLoss::Unreadable, EventLoss::GateQueueFull];
        let reasons = Lost::ALL.iter().map(|reason| reason.as_str());
        for reason in reasons.chain(own.map(EventLoss::as_str)) {
            traffic.events_lost.with_label_values(&[reason]);
        }
        Ok(traffic)
    }
}
