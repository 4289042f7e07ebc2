//! A request to IMDS, attributed: whose it is, what it asks for, how it was answered. This is what the metrics of
//! requests count, and a line of the event log. Pure.
//!
//! The raw target of a request goes nowhere: what is shown is its class, and of credentials the role.

use std::collections::HashMap;

use guard_common::{CgroupId, Mode, RequestRecord, Verdict};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    attempt::Attribution, imds::MetadataPath, pods::Pod, sinks::metrics::CountedRequest, workload::Workload,
};

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub time: Timestamp,
    pub requester: Requester,
    /// None for a request that did not parse.
    pub asked: Option<Asked>,
    /// Of the answer; 0 where it could not be read.
    pub status: u16,
    pub verdict: Verdict,
    pub mode: Mode,
    pub rule: String,
}

/// Whose a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requester {
    Pod {
        namespace: String,
        service_account: String,
        name: String,
        uid: String,
    },
    /// Of some pod on the node, whose traffic a proxy carries.
    ViaProxy,
    /// Of a pod that has no name yet.
    Unidentified,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: &'static str,
    pub path: PathAsked,
    /// Whether it had a session token.
    pub has_token: bool,
}

/// What is told of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathAsked {
    pub class: &'static str,
    /// The role whose credentials are asked for.
    pub role: Option<String>,
}

/// The version of IMDS that a request used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImdsVersion {
    V1,
    V2,
    /// It did not parse, or had no token and no success: a client may only have looked whether it needs one.
    Unknown,
}

/// The class of what can't be told.
pub const UNPARSED: &str = "unparsed";

/// The `DaemonSet`s that carry the traffic of other pods on their node: Istio's ambient mesh, and Cilium.
const NODE_PROXIES: [&str; 2] = ["daemonset/ztunnel", "daemonset/cilium-envoy"];

/// Whether a pod carries the traffic of others, so that what it asks for is not its own.
pub fn is_node_proxy(workload: &Workload) -> bool {
    workload.owners.iter().any(|owner| NODE_PROXIES.contains(&owner.as_str()))
}

impl Requester {
    pub fn of(pod: Option<&Pod>) -> Self {
        match pod {
            None => Self::Unidentified,
            Some(pod) if is_node_proxy(&pod.workload) => Self::ViaProxy,
            Some(pod) => Self::Pod {
                namespace: pod.workload.namespace.clone(),
                service_account: pod.workload.service_account.clone(),
                name: pod.name.clone(),
                uid: pod.declared_uid.clone(),
            },
        }
    }

    /// Its namespace and service account in metrics.
    pub fn labels(&self) -> (&str, &str) {
        match self {
            Self::Pod { namespace, service_account, .. } => (namespace, service_account),
            Self::ViaProxy => ("", "via-proxy"),
            Self::Unidentified => ("", ""),
        }
    }
}

impl Asked {
    /// From a method, a space and a target.
    fn parse(line: &[u8], has_token: bool) -> Option<Self> {
        let (method, target) = str::from_utf8(line).ok()?.split_once(' ')?;
        let path = MetadataPath::parse(target).ok()?;
        Some(Self { method: known(method), path: PathAsked::of(&path), has_token })
    }
}

/// A method by its name; `_OTHER`, as OpenTelemetry has it, for one that a client has made up.
pub fn known(method: &str) -> &'static str {
    const METHODS: [&str; 8] = ["GET", "PUT", "HEAD", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE"];
    METHODS.into_iter().find(|known| *known == method).unwrap_or("_OTHER")
}

impl ImdsVersion {
    /// Only an answered request without a token is of version 1: clients try it again after every refusal.
    pub fn of(asked: Option<&Asked>, status: u16) -> Self {
        match asked {
            Some(asked) if asked.is_v2() => Self::V2,
            Some(_) if status == 200 => Self::V1,
            Some(_) | None => Self::Unknown,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Unknown => "unknown",
        }
    }
}

impl PathAsked {
    pub fn of(path: &MetadataPath) -> Self {
        Self { class: path.class().as_str(), role: path.role().map(ToOwned::to_owned) }
    }
}

impl Asked {
    /// Whether it is of version 2: it has a session token, or asks for one.
    pub fn is_v2(&self) -> bool {
        self.has_token || self.is_for_token()
    }

    fn is_for_token(&self) -> bool {
        self.method == "PUT" && self.path.class == "token"
    }
}

impl Request {
    /// Attributes a record.
    pub fn attribute(record: &RequestRecord, by: Attribution<'_>) -> Self {
        Self {
            time: by.time(record.time),
            requester: Requester::of(by.index.identify(record.pod).map(AsRef::as_ref)),
            asked: record.line().and_then(|line| Asked::parse(line, record.has_token())),
            status: record.status,
            verdict: record.verdict(),
            mode: record.mode(),
            rule: by.rules.name(record.rule).to_owned(),
        }
    }

    fn version(&self) -> ImdsVersion {
        ImdsVersion::of(self.asked.as_ref(), self.status)
    }

    fn path(&self) -> (&str, Option<&str>) {
        match &self.asked {
            Some(asked) => (asked.path.class, asked.path.role.as_deref()),
            None => (UNPARSED, None),
        }
    }

    /// As the metrics count it.
    pub fn counted(&self) -> CountedRequest<'_> {
        let (namespace, service_account) = self.requester.labels();
        let (path_class, role) = self.path();
        CountedRequest {
            namespace,
            service_account,
            path_class,
            imds_version: self.version(),
            verdict: self.verdict.as_str(),
            code: self.status,
            role,
        }
    }

    /// As the event log shows it.
    pub fn line<'a>(&'a self, policy_sha256: &'a str, denial_id: Option<&'a str>) -> RequestLine<'a> {
        let (path_class, role) = self.path();
        let (namespace, pod, pod_uid) = match &self.requester {
            Requester::Pod { namespace, name, uid, .. } => (Some(&**namespace), Some(&**name), Some(&**uid)),
            Requester::ViaProxy | Requester::Unidentified => (None, None, None),
        };
        RequestLine {
            time: self.time,
            event: RequestLine::EVENT,
            namespace,
            service_account: Some(self.requester.labels().1).filter(|account| !account.is_empty()),
            pod,
            pod_uid,
            method: self.asked.as_ref().map(|asked| asked.method),
            status: Some(self.status).filter(|status| *status != 0),
            imds_version: self.version().as_str(),
            path_class,
            role,
            verdict: self.verdict.as_str(),
            mode: self.mode.as_str(),
            rule: &self.rule,
            policy_sha256,
            denial_id,
        }
    }
}

/// A line of the event log, in OpenTelemetry's names where it has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestLine<'a> {
    pub time: Timestamp,
    #[serde(rename = "event.name")]
    pub event: &'static str,
    #[serde(rename = "k8s.namespace.name", skip_serializing_if = "Option::is_none")]
    pub namespace: Option<&'a str>,
    #[serde(rename = "imds_guard.service_account", skip_serializing_if = "Option::is_none")]
    pub service_account: Option<&'a str>,
    #[serde(rename = "k8s.pod.name", skip_serializing_if = "Option::is_none")]
    pub pod: Option<&'a str>,
    #[serde(rename = "k8s.pod.uid", skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<&'a str>,
    #[serde(rename = "http.request.method", skip_serializing_if = "Option::is_none")]
    pub method: Option<&'static str>,
    #[serde(rename = "http.response.status_code", skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(rename = "imds_guard.imds_version")]
    pub imds_version: &'static str,
    #[serde(rename = "imds_guard.path_class")]
    pub path_class: &'a str,
    /// The role whose credentials were asked for.
    #[serde(rename = "imds_guard.role", skip_serializing_if = "Option::is_none")]
    pub role: Option<&'a str>,
    #[serde(rename = "imds_guard.verdict")]
    pub verdict: &'static str,
    #[serde(rename = "imds_guard.mode")]
    pub mode: &'static str,
    #[serde(rename = "imds_guard.rule")]
    pub rule: &'a str,
    /// The policy in force when the request was read, moments after it was answered.
    #[serde(rename = "imds_guard.policy_sha256")]
    pub policy_sha256: &'a str,
    /// The id that the answer of a gate bears, and the Event.
    #[serde(rename = "imds_guard.denial_id", skip_serializing_if = "Option::is_none")]
    pub denial_id: Option<&'a str>,
}

impl RequestLine<'_> {
    pub const EVENT: &'static str = "imds_guard.request";
}

/// How many lines each pod has had in this second.
#[derive(Debug, Default)]
pub struct LineBudget {
    second: i64,
    lines: HashMap<CgroupId, u32>,
}

impl LineBudget {
    const PER_POD_AND_SECOND: u32 = 20;

    /// Whether there is room for one more line of a pod.
    pub fn take(&mut self, pod: CgroupId, now: Timestamp) -> bool {
        if self.second != now.as_second() {
            self.second = now.as_second();
            self.lines.clear();
        }
        let lines = self.lines.entry(pod).or_default();
        *lines += 1;
        *lines <= Self::PER_POD_AND_SECOND
    }
}

#[cfg(test)]
mod tests;
