//! Kubernetes Events: what the agent has to say where people look first, at the pod. When to say it is decided in
//! [`crate::notices`].

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{sync::mpsc, time::timeout};

use super::CONNECT_WITHIN;
use crate::{pods::Pod, sinks::metrics::KubernetesMetrics};

/// The longest note that the API server takes, in bytes.
const NOTE_LEN: usize = 1024;

/// The longest name of a reporting instance.
const INSTANCE_LEN: usize = 128;

/// Something to be said of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub reason: Reason,
    pub about: Subject,
    pub note: String,
}

/// Why something is said, as `kubectl describe` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Denied,
    WouldDeny,
    PolicyRejected,
}

/// The pod that it is about, and its service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub namespace: String,
    pub pod: String,
    pub pod_uid: String,
    pub service_account: String,
    pub service_account_uid: Option<String>,
}

impl Reason {
    pub const ALL: [Self; 3] = [Self::Denied, Self::WouldDeny, Self::PolicyRejected];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "IMDSDenied",
            Self::WouldDeny => "IMDSWouldDeny",
            Self::PolicyRejected => "PolicyRejected",
        }
    }

    const fn action(self) -> &'static str {
        match self {
            Self::Denied | Self::WouldDeny => "Connect",
            Self::PolicyRejected => "LoadPolicy",
        }
    }

    const fn kind(self) -> EventType {
        match self {
            Self::Denied | Self::PolicyRejected => EventType::Warning,
            Self::WouldDeny => EventType::Normal,
        }
    }
}

impl Subject {
    pub fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.workload.namespace.clone(),
            pod: pod.name.clone(),
            // Of a static pod kubectl shows the Events that name it by the hash, as the kubelet's own do.
            pod_uid: pod.uid.to_string(),
            service_account: pod.workload.service_account.clone(),
            service_account_uid: pod.service_account.as_ref().map(|account| account.uid.clone()),
        }
    }

    fn pod_reference(&self) -> ObjectReference {
        self.reference("Pod", &self.pod, Some(&self.pod_uid))
    }

    fn service_account_reference(&self) -> ObjectReference {
        self.reference("ServiceAccount", &self.service_account, self.service_account_uid.as_ref())
    }

    fn reference(&self, kind: &str, name: &str, uid: Option<&String>) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(kind.to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(name.to_owned()),
            uid: uid.cloned(),
            ..ObjectReference::default()
        }
    }
}

/// Writes Events until no more notices come. One that the API server does not take is counted and dropped: what it told
/// is in the metrics and the log as well.
pub(super) async fn write(
    client: Client,
    node: String,
    mut notices: mpsc::Receiver<Notice>,
    metrics: KubernetesMetrics,
) {
    let instance = Some(shortened(&node, INSTANCE_LEN));
    let reporter = Reporter { controller: "imds-guard".to_owned(), instance };
    while let Some(Notice { reason, about, note }) = notices.recv().await {
        let event = Event {
            type_: reason.kind(),
            reason: reason.as_str().to_owned(),
            note: Some(shortened(&note, NOTE_LEN)),
            action: reason.action().to_owned(),
            secondary: Some(about.service_account_reference()),
        };
        let pod = about.pod_reference();
        // A new one for each: within minutes it would take another notice about the same pod for the same one.
        let recorder = Recorder::new(client.clone(), reporter.clone());
        let failure = match timeout(CONNECT_WITHIN, recorder.publish(&event, &pod)).await {
            Ok(Ok(())) => {
                metrics.events.with_label_values(&[reason.as_str()]).inc();
                continue;
            }
            Ok(Err(error)) => crate::agent::chain(&error),
            Err(_) => "the API server takes too long".to_owned(),
        };
        metrics.event_errors.inc();
        tracing::warn!(failure, namespace = about.namespace, pod = about.pod, "an Event is not written");
    }
}

/// At most `length` bytes of a text, cut between characters.
fn shortened(text: &str, length: usize) -> String {
    if text.len() <= length {
        return text.to_owned();
    }
    let room = length - '…'.len_utf8();
    let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("sixsix!", 6), "six…");
        assert_eq!(shortened("äöüß", 7), "äö…");
        assert!(shortened(&"ü".repeat(1000), NOTE_LEN).len() <= NOTE_LEN);
    }
}
