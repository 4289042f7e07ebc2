//! What is counted of requests.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Registry};

use super::{
    register::{counters, gauges},
    totals::Totals,
};
use crate::request::ImdsVersion;

/// How many roles are counted by name.
const ROLES: usize = 16;

/// What is counted of the requests that were answered, by IMDS itself or by a gate.
#[derive(Clone)]
pub struct RequestMetrics {
    pub(super) requests: IntCounterVec,
    pub(super) credentials_issued: IntCounterVec,
    /// Until when those who are denied may hold some.
    pub(super) credentials_held: IntGaugeVec,
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
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
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
    pub(super) fn know_roles(&self, totals: &Totals) {
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
