//! The API server as the agent uses it: the pods of this node, the policy's ConfigMap, the node's start-up taint, and
//! Events for people. The only module that names kube.
//!
//! Its tasks only bring news and carry out orders: what is told here changes nothing by itself. Nobody waits for the API
//! server: while it does not answer, the agent goes on with what it knows.

mod events;
mod lookups;
mod node;
mod pods;
mod policy;
mod uninstall;

use std::time::Duration;

use hyper::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Config,
    client::{Body, ClientBuilder},
    runtime::watcher,
};
use prometheus::IntCounterVec;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_local},
    time::Instant,
};
use tower::util::MapRequestLayer;

pub use events::{Notice, Reason, Subject};
pub use uninstall::{UninstallError, clean_nodes};

use crate::{pods::Pod, policy::SourceFile, sinks::metrics::KubernetesMetrics};

/// How long to wait for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// How long a connection may be silent. A watch hears a bookmark about every minute.
const SILENT_FOR: Duration = Duration::from_secs(150);

/// How soon a watch that failed is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A watch that held for so long begins to count its failures anew.
const STEADY: Duration = Duration::from_mins(2);

/// Why the API server can't be spoken to at all.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "find the API server: in a pod its service account says where it is, elsewhere KUBECONFIG does; without one, \
         name the pods of this node with --pods-from"
    )]
    Config(#[source] Box<kube::config::InferConfigError>),
    #[error("set up the client of the API server")]
    Client(#[source] Box<kube::Error>),
}

/// What the API server told.
#[derive(Debug)]
pub enum News {
    /// All pods of this node.
    Pods(Vec<Pod>),
    /// The policy's ConfigMap as it is now; none if there is none.
    Policy(Option<Vec<SourceFile>>),
    /// The ConfigMap can't be watched any more, or not yet: the volume is what counts.
    PolicyUnwatched,
    /// Whether the API server answers.
    Answers(bool),
}

/// The name of a namespaced object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

/// A client of the API server, for one node.
#[derive(Clone)]
pub struct ApiServer {
    client: Client,
    node: String,
}

impl ApiServer {
    /// Makes the client; nothing is sent yet. `requests` counts by `verb` and `resource` what will be.
    pub async fn new(node: String, requests: IntCounterVec) -> Result<Self, ConnectError> {
        let mut config = Config::infer().await.map_err(|error| ConnectError::Config(Box::new(error)))?;
        config.connect_timeout = Some(CONNECT_WITHIN);
        config.read_timeout = Some(SILENT_FOR);
        // Whoever asks also decides when to ask again, so that the requests of a node can be counted and bounded.
        config.default_retry = false;
        let count = move |request: Request<Body>| {
            requests.with_label_values(&[verb(&request), resource(request.uri().path())]).inc();
            request
        };
        let builder =
            ClientBuilder::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))?;
        Ok(Self { client: builder.with_layer(&MapRequestLayer::new(count)).build(), node })
    }

    /// Watches this node's pods, and the policy's object if there is one, for as long as the receiver lives.
    pub fn watch(&self, policy: Option<ObjectName>) -> mpsc::Receiver<News> {
        let (news, receiver) = mpsc::channel(4);
        spawn_local(pods::watch(self.client.clone(), self.node.clone(), news.clone()));
        if let Some(policy) = policy {
            spawn_local(policy::watch(self.client.clone(), policy, news));
        }
        receiver
    }

    /// Takes the start-up taint off this node, and keeps trying until it is gone.
    pub fn lift_startup_taint(&self) -> JoinHandle<()> {
        spawn_local(node::lift_startup_taint(Api::<Node>::all(self.client.clone()), self.node.clone()))
    }

    /// Starts to write Events. What the sender can't take is dropped by whoever sends.
    pub fn write_events(&self, metrics: KubernetesMetrics) -> mpsc::Sender<Notice> {
        let (sender, notices) = mpsc::channel(64);
        spawn_local(events::write(self.client.clone(), self.node.clone(), notices, metrics));
        sender
    }
}

/// Whether a watch gets answers, the log line when that changes, and when to try again.
struct Reachable {
    what: &'static str,
    /// Since when it fails; none before the first failure, and after an answer.
    failing_since: Option<Timestamp>,
    answered: bool,
    /// How many failures there were in a row, with less than [`STEADY`] between each and the next, and the last one.
    failures: u32,
    failed_at: Option<Instant>,
}

impl Reachable {
    fn new(what: &'static str) -> Self {
        Self { what, failing_since: None, answered: false, failures: 0, failed_at: None }
    }

    /// Notes an answer, and says whether that is news.
    fn answers(&mut self) -> bool {
        let failed_since = self.failing_since.take();
        if let Some(since) = failed_since {
            tracing::info!(watch = self.what, %since, "the API server answers again");
        }
        let first = !std::mem::replace(&mut self.answered, true);
        first || failed_since.is_some()
    }

    /// Notes a failure, and says whether that is news.
    fn is_news(&mut self, error: &watcher::Error) -> bool {
        if self.failing_since.is_some() {
            return false;
        }
        self.failing_since = Some(Timestamp::now());
        let error = crate::agent::chain(error);
        tracing::warn!(watch = self.what, error, "the watch fails; going on with what is known");
        true
    }

    /// When to try again: later and later, and not when all other nodes do.
    fn pause(&mut self, now: Instant) -> Instant {
        if self.failed_at.replace(now).is_none_or(|last| now.duration_since(last) > STEADY) {
            self.failures = 0;
        }
        let (first, longest) = RETRY;
        let pause = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures += 1;
        now + pause.mul_f64(0.5 + jitter() / 2.0)
    }
}

/// From 0 to 1, as random as the time is.
fn jitter() -> f64 {
    f64::from(Timestamp::now().subsec_nanosecond() / 1000 % 1000) / 1000.0
}

/// The verb that kube notes on a request, as RBAC names it.
fn verb(request: &Request<Body>) -> &'static str {
    let noted = request.extensions().get::<&'static str>().copied().unwrap_or("other");
    noted.strip_suffix("_metadata").unwrap_or(noted)
}

/// The resource in a path: `pods` in `/api/v1/namespaces/shop/pods/cart-0`.
fn resource(path: &str) -> &str {
    let mut parts = path.trim_matches('/').split('/');
    let below_version = match parts.next() {
        Some("api") => parts.nth(1),
        Some("apis") => parts.nth(2),
        _ => None,
    };
    match (below_version, parts.next(), parts.next()) {
        (Some("namespaces"), Some(_), Some(resource)) | (Some(resource), ..) => resource,
        (None, ..) => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_for_the_resource_that_it_is_about() {
        let cases = [
            ("/api/v1/pods", "pods"),
            ("/api/v1/namespaces/shop", "namespaces"),
            ("/api/v1/namespaces/shop/serviceaccounts/cart", "serviceaccounts"),
            ("/apis/apps/v1/namespaces/shop/replicasets/cart-5d8f", "replicasets"),
            ("/apis/events.k8s.io/v1/namespaces/shop/events", "events"),
            ("/version", "other"),
        ];
        for (path, expected) in cases {
            assert_eq!(resource(path), expected, "{path}");
        }
    }

    #[test]
    fn a_watch_that_fails_is_tried_less_and_less_often_until_it_has_held() {
        let mut reachable = Reachable::new("pods");
        let mut now = Instant::now();
        for most in [1.0, 2.0, 4.0, 8.0, 16.0, 30.0] {
            let at = reachable.pause(now);
            let pause = (at - now).as_secs_f64();
            assert!((most / 2.0..=most).contains(&pause), "{pause}, not about {most}");
            now = at;
            // A list that comes does not make it steady.
            reachable.answers();
        }
        now += STEADY * 2;
        assert!(reachable.pause(now) - now <= RETRY.0);
    }
}
