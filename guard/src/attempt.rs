//! An event of the kernel, attributed: who asked for what, and what was decided. This is a line of the event log.

use guard_common::{AttemptEvent, CgroupId, Lock, Verdict};
use jiff::Timestamp;
use serde::Serialize;

use crate::{denial, endpoints::Endpoints, pods::Index, reconcile::RuleNames, text::escape};

/// One attempt, in OpenTelemetry's names where it has them.
#[derive(Clone, Debug, Serialize)]
pub struct Attempt {
    #[serde(rename = "time")]
    pub time: Timestamp,
    #[serde(rename = "event.name")]
    pub event: &'static str,
    #[serde(rename = "k8s.namespace.name", skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(rename = "imds_guard.service_account", skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    #[serde(rename = "k8s.pod.name", skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    #[serde(rename = "k8s.pod.uid", skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    #[serde(rename = "k8s.container.name", skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(rename = "container.id", skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    #[serde(rename = "process.pid", skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The thread's name, as its owner chose it; control bytes are escaped.
    #[serde(rename = "process.executable.name", skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    #[serde(rename = "server.address")]
    pub address: String,
    #[serde(rename = "server.port", skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(rename = "network.transport", skip_serializing_if = "Option::is_none")]
    pub transport: Option<&'static str>,
    #[serde(rename = "imds_guard.endpoint")]
    pub endpoint: String,
    #[serde(rename = "imds_guard.verdict")]
    pub verdict: &'static str,
    /// Whether it went to the endpoint, to the pod's gate, or nowhere.
    #[serde(rename = "imds_guard.way")]
    pub way: &'static str,
    #[serde(rename = "imds_guard.mode")]
    pub mode: &'static str,
    #[serde(rename = "imds_guard.rule")]
    pub rule: String,
    #[serde(rename = "imds_guard.hook")]
    pub hook: &'static str,
    /// The policy in force when the event was read, moments after the attempt.
    #[serde(rename = "imds_guard.policy_sha256")]
    pub policy_sha256: String,
    /// The id that the Event bears too, of a denied pod that has a name.
    #[serde(rename = "imds_guard.denial_id", skip_serializing_if = "Option::is_none")]
    pub denial_id: Option<String>,
    /// The pod that made the socket, where its ruling was the stricter one and decided.
    #[serde(rename = "imds_guard.socket_creator", skip_serializing_if = "Option::is_none")]
    pub socket_creator: Option<String>,
}

/// What an event is attributed with.
#[derive(Clone, Copy)]
pub struct Attribution<'a> {
    pub index: &'a Index,
    pub endpoints: &'a Endpoints,
    pub rules: &'a RuleNames,
    pub policy_sha256: &'a str,
    /// When this node booted, as far as the wall clock goes.
    pub boot: Timestamp,
}

impl Attribution<'_> {
    /// Says who made an attempt. A pod that has no name yet is an attempt without one, not a lost attempt.
    pub fn attribute(&self, event: &AttemptEvent) -> Attempt {
        let pod = self.index.identify(event.pod);
        let container = self.index.container(event.pod, event.container);
        let process = event.hook().lock() == Lock::Socket;
        Attempt {
            time: self.time(event.time),
            event: "imds_guard.attempt",
            namespace: pod.map(|pod| pod.workload.namespace.clone()),
            service_account: pod.map(|pod| pod.workload.service_account.clone()),
            pod: pod.map(|pod| pod.name.clone()),
            pod_uid: pod.map(|pod| pod.declared_uid.clone()),
            container: container.and_then(|container| container.name.clone()),
            container_id: container.map(|container| container.id.to_string()),
            pid: process.then_some(event.pid),
            executable: process.then(|| escape(until_nul(&event.comm))),
            address: event.address.to_ip().to_string(),
            port: process.then_some(event.port),
            transport: process.then(|| transport(event.protocol)).flatten(),
            endpoint: self.endpoints.name(event.endpoint).unwrap_or("unknown").to_owned(),
            verdict: event.outcome().as_str(),
            way: event.way().as_str(),
            mode: event.mode().as_str(),
            rule: self.rules.name(event.rule).to_owned(),
            hook: event.hook().as_str(),
            policy_sha256: self.policy_sha256.to_owned(),
            denial_id: pod
                .filter(|_| event.outcome() == Verdict::Deny)
                .map(|pod| denial::id(&pod.uid, self.rules.name(event.rule), self.policy_sha256)),
            socket_creator: (event.creator != CgroupId(0)).then(|| self.name(event.creator)),
        }
    }

    /// The wall clock's time of what happened so many nanoseconds after the boot.
    pub fn time(&self, nanoseconds: u64) -> Timestamp {
        let since_boot = jiff::SignedDuration::from_nanos(i64::try_from(nanoseconds).unwrap_or(i64::MAX));
        self.boot.saturating_add(since_boot).unwrap_or(self.boot)
    }

    fn name(&self, cgroup: CgroupId) -> String {
        self.index.identify(cgroup).map_or_else(
            || format!("cgroup {}", cgroup.0),
            |pod| format!("{}/{}", pod.workload.namespace, pod.name),
        )
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The IP protocol as OpenTelemetry names transports.
fn transport(protocol: u8) -> Option<&'static str> {
    match i32::from(protocol) {
        libc::IPPROTO_TCP => Some("tcp"),
        libc::IPPROTO_UDP => Some("udp"),
        libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 => Some("icmp"),
        // The protocol field of the hook's context has eight bits: MPTCP (262) comes as its lowest byte, 6.
        _ => None,
    }
}
