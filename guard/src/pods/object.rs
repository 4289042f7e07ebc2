//! The few fields of Kubernetes' objects that the agent looks at, and what they say of a pod.
//!
//! Whatever else an object holds is skipped while it is read, so a large list costs little memory. Every field may
//! be absent or null: which of them a pod must have is decided where it is made.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};

use super::{ContainerId, Pod, PodUid, ServiceAccount, cgroup};
use crate::workload::{Labels, Workload};

/// The label that every namespace has, with its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// The label that a Deployment's pods share with the name of their `ReplicaSet`.
const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// The longest name of an IAM role; whoever writes annotations can write more.
const ROLE_LEN: usize = 2048;

/// A Pod, a Namespace or a Node.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Object {
    /// The items of a typed list have none.
    pub(crate) kind: Option<String>,
    #[serde(default, deserialize_with = "null_as_empty")]
    pub(crate) metadata: Metadata,
    #[serde(default, deserialize_with = "null_as_empty")]
    pub(crate) spec: Spec,
    #[serde(default, deserialize_with = "null_as_empty")]
    pub(crate) status: Status,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: String,
    uid: String,
    #[serde(deserialize_with = "null_as_empty")]
    labels: Labels,
    #[serde(deserialize_with = "null_as_empty")]
    annotations: Annotations,
    #[serde(deserialize_with = "null_as_empty")]
    owner_references: Vec<OwnerReference>,
}

/// The annotations that matter: others can be large.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Annotations {
    /// On the API's copy of a static pod: the manifest hash by which the kubelet knows the pod.
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<String>,
    /// On a service account: the IAM role that IRSA gives it.
    #[serde(rename = "eks.amazonaws.com/role-arn")]
    role: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct OwnerReference {
    kind: String,
    name: String,
    #[serde(default)]
    controller: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    pub(crate) node_name: String,
    service_account_name: String,
    host_network: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    #[serde(rename = "initContainerStatuses", deserialize_with = "null_as_empty")]
    init: Vec<ContainerStatus>,
    #[serde(rename = "containerStatuses", deserialize_with = "null_as_empty")]
    regular: Vec<ContainerStatus>,
    #[serde(rename = "ephemeralContainerStatuses", deserialize_with = "null_as_empty")]
    ephemeral: Vec<ContainerStatus>,
    #[serde(rename = "podIPs", deserialize_with = "null_as_empty")]
    addresses: Vec<PodAddress>,
}

#[derive(Clone, Debug, Deserialize)]
struct PodAddress {
    #[serde(default)]
    ip: String,
}

#[derive(Clone, Debug, Deserialize)]
struct ContainerStatus {
    name: String,
    /// `containerd://<id>`; empty until the container has started once.
    #[serde(rename = "containerID", default)]
    container_id: String,
}

/// Another object that says something of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reference {
    Namespace(String),
    Node(String),
    ServiceAccount { namespace: String, name: String },
    Controller { namespace: String, kind: ControllerKind, name: String },
}

/// A controller behind which there can be another, which is the one that people name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ControllerKind {
    ReplicaSet,
    Job,
}

/// What is known of the objects that pods refer to. One that is not there has empty metadata.
pub(crate) type Surroundings = BTreeMap<Reference, Metadata>;

impl Object {
    /// The pod that this object describes, or the name of the field that it lacks.
    pub(crate) fn pod(&self, surroundings: &Surroundings) -> Result<Pod, &'static str> {
        let Self { metadata, spec, status, .. } = self;
        for (field, value) in [
            ("metadata.name", &metadata.name),
            ("metadata.namespace", &metadata.namespace),
            ("metadata.uid", &metadata.uid),
        ] {
            if value.is_empty() {
                return Err(field);
            }
        }
        let labels = |reference: &Reference| {
            surroundings.get(reference).map(|metadata| metadata.labels.clone()).unwrap_or_default()
        };
        let mut namespace_labels = labels(&self.namespace());
        // A namespace that isn't known still has its name.
        namespace_labels.insert(NAMESPACE_NAME.to_owned(), metadata.namespace.clone());
        Ok(Pod {
            uid: metadata.uid_of_cgroup(),
            declared_uid: metadata.uid.clone(),
            name: metadata.name.clone(),
            workload: Workload {
                namespace: metadata.namespace.clone(),
                namespace_labels,
                service_account: spec.service_account().to_owned(),
                owners: metadata.owners(surroundings),
                labels: metadata.labels.clone(),
                host_network: spec.host_network,
                node_labels: labels(&self.node()),
            },
            service_account: surroundings.get(&self.service_account()).and_then(Metadata::service_account),
            containers: status.containers(),
            addresses: status.addresses(),
        })
    }

    /// What must be known before it can be said what the pod may do.
    pub(crate) fn requires(&self) -> impl Iterator<Item = Reference> {
        [self.namespace(), self.node()].into_iter().chain(self.metadata.controller_reference())
    }

    pub(crate) fn service_account(&self) -> Reference {
        Reference::ServiceAccount {
            namespace: self.metadata.namespace.clone(),
            name: self.spec.service_account().to_owned(),
        }
    }

    fn namespace(&self) -> Reference {
        Reference::Namespace(self.metadata.namespace.clone())
    }

    fn node(&self) -> Reference {
        Reference::Node(self.spec.node_name.clone())
    }
}

impl Metadata {
    /// A static pod's cgroup is named after its manifest hash.
    ///
    /// Whoever makes a pod writes its annotations. The kubelet doesn't run what is marked as a mirror, and a hash
    /// never looks like another pod's uid, so a pod can't claim that another pod's cgroup is its own.
    fn uid_of_cgroup(&self) -> PodUid {
        let hash = self.annotations.mirror.as_ref().filter(|hash| cgroup::is_static_pod_hash(hash));
        PodUid::new(hash.unwrap_or(&self.uid))
    }

    /// The controller that made the pod, and the one behind it.
    fn owners(&self, surroundings: &Surroundings) -> Vec<String> {
        let Some(controller) = self.controller() else { return Vec::new() };
        let behind = match self.controller_reference().and_then(|reference| surroundings.get(&reference)) {
            Some(known) if known.is_there() => known.controller().map(OwnerReference::to_string),
            // Not looked up, or removed before its pods.
            _ => self.deployment_by_name(controller),
        };
        [controller.to_string()].into_iter().chain(behind).collect()
    }

    fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.controller)
    }

    fn controller_reference(&self) -> Option<Reference> {
        let owner = self.controller()?;
        let kind = match owner.kind.as_str() {
            "ReplicaSet" => ControllerKind::ReplicaSet,
            "Job" => ControllerKind::Job,
            _ => return None,
        };
        let namespace = self.namespace.clone();
        Some(Reference::Controller { namespace, kind, name: owner.name.clone() })
    }

    /// The Deployment behind a `ReplicaSet` that is not known itself: its name without the pods' hash.
    fn deployment_by_name(&self, controller: &OwnerReference) -> Option<String> {
        let hash = self.labels.get(POD_TEMPLATE_HASH).filter(|_| controller.kind == "ReplicaSet")?;
        let name = controller.name.strip_suffix(hash.as_str())?.strip_suffix('-')?;
        Some(format!("deployment/{name}"))
    }

    fn service_account(&self) -> Option<ServiceAccount> {
        let role = self.annotations.role.clone().filter(|role| role.len() <= ROLE_LEN);
        self.is_there().then(|| ServiceAccount { uid: self.uid.clone(), role })
    }

    /// Whether it is the metadata of an object that exists.
    fn is_there(&self) -> bool {
        !self.uid.is_empty()
    }
}

impl From<ObjectMeta> for Metadata {
    fn from(object: ObjectMeta) -> Self {
        let mut annotations = object.annotations.unwrap_or_default();
        let owners = object.owner_references.unwrap_or_default().into_iter();
        Self {
            name: object.name.unwrap_or_default(),
            namespace: object.namespace.unwrap_or_default(),
            uid: object.uid.unwrap_or_default(),
            labels: object.labels.unwrap_or_default(),
            annotations: Annotations {
                mirror: annotations.remove("kubernetes.io/config.mirror"),
                role: annotations.remove("eks.amazonaws.com/role-arn"),
            },
            owner_references: owners
                .map(|owner| OwnerReference {
                    kind: owner.kind,
                    name: owner.name,
                    controller: owner.controller.unwrap_or_default(),
                })
                .collect(),
        }
    }
}

/// As selectors name a workload: `deployment/kcl`.
impl fmt::Display for OwnerReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.to_lowercase(), self.name)
    }
}

impl Spec {
    fn service_account(&self) -> &str {
        Some(self.service_account_name.as_str()).filter(|name| !name.is_empty()).unwrap_or("default")
    }
}

impl Status {
    /// The addresses that are any.
    fn addresses(&self) -> Vec<IpAddr> {
        self.addresses.iter().filter_map(|address| address.ip.parse().ok()).collect()
    }

    fn containers(&self) -> BTreeMap<ContainerId, String> {
        [&self.init, &self.regular, &self.ephemeral]
            .into_iter()
            .flatten()
            .filter_map(|status| {
                let (_runtime, id) = status.container_id.split_once("://")?;
                Some((ContainerId::new(id), status.name.clone()))
            })
            .collect()
    }
}

/// Kubernetes means by null what it means by an absent field.
fn null_as_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
    const MIRROR: &str = "kubernetes.io/config.mirror";
    const HASH: &str = "f8b0f2c1a5d94e6b8c7d1e2f3a4b5c6d";

    fn mk_pod(change: impl FnOnce(&mut Value)) -> Pod {
        let mut object = json!({
            "kind": "Pod",
            "metadata": { "name": "kcl-5d8f7c9b6d-x2x4z", "namespace": "ingest", "uid": UID },
        });
        change(&mut object);
        let object: Object = serde_json::from_value(object).expect("a readable object");
        object.pod(&Surroundings::default()).expect("a complete pod")
    }

    #[test]
    fn a_pod_with_nothing_set_gets_kubernetes_own_defaults() {
        let pod = mk_pod(|_| {});
        let workload = Workload {
            namespace: "ingest".to_owned(),
            namespace_labels: [(NAMESPACE_NAME.to_owned(), "ingest".to_owned())].into(),
            service_account: "default".to_owned(),
            ..Workload::default()
        };
        let name = "kcl-5d8f7c9b6d-x2x4z".to_owned();
        let expected = Pod {
            uid: PodUid::new(UID),
            declared_uid: UID.to_owned(),
            name,
            workload,
            service_account: None,
            containers: [].into(),
            addresses: vec![],
        };
        assert_eq!(pod, expected);
        let nulls = mk_pod(|object| {
            object["spec"] = Value::Null;
            object["status"] = json!({ "containerStatuses": null });
            object["metadata"]["labels"] = Value::Null;
        });
        assert_eq!(nulls, expected);
    }

    #[test]
    fn only_a_mirror_is_known_by_its_hash() {
        let cases = [
            ("a static pod", json!({ MIRROR: HASH, "kubernetes.io/config.hash": HASH }), HASH),
            ("a pod that only claims a hash", json!({ "kubernetes.io/config.hash": HASH }), UID),
            (
                "a mirror that claims another pod's uid",
                json!({ MIRROR: "11111111-2222-3333-4444-555555555555" }),
                UID,
            ),
        ];
        for (case, annotations, expected) in cases {
            let pod = mk_pod(|object| object["metadata"]["annotations"] = annotations);
            assert_eq!(pod.uid.as_str(), expected, "{case}");
            assert_eq!(pod.declared_uid, UID, "{case}");
        }
    }

    #[test]
    fn owners_lead_from_the_controller_to_the_deployment() {
        let owner = |kind: &str, name: &str| json!([{ "kind": kind, "name": name, "controller": true }]);
        let cases: [(&str, Value, Option<&str>, &[&str]); 6] = [
            ("a daemon set", owner("DaemonSet", "aws-node"), None, &["daemonset/aws-node"]),
            (
                "a deployment",
                owner("ReplicaSet", "kcl-5d8f7c9b6d"),
                Some("5d8f7c9b6d"),
                &["replicaset/kcl-5d8f7c9b6d", "deployment/kcl"],
            ),
            ("a bare replica set", owner("ReplicaSet", "kcl"), None, &["replicaset/kcl"]),
            (
                "another's hash",
                owner("ReplicaSet", "kcl-5d8f7c9b6d"),
                Some("ffff"),
                &["replicaset/kcl-5d8f7c9b6d"],
            ),
            (
                "an owner that is no controller",
                json!([{ "kind": "ReplicaSet", "name": "kcl-5" }]),
                Some("5"),
                &[],
            ),
            ("none", json!([]), None, &[]),
        ];
        for (case, owners, hash, expected) in cases {
            let pod = mk_pod(|object| {
                object["metadata"]["ownerReferences"] = owners;
                if let Some(hash) = hash {
                    object["metadata"]["labels"] = json!({ POD_TEMPLATE_HASH: hash });
                }
            });
            assert_eq!(pod.workload.owners, expected, "{case}");
        }
    }

    #[test]
    fn every_started_container_is_known_by_its_bare_id() {
        let pod = mk_pod(|object| {
            object["status"] = json!({
                "initContainerStatuses": [{ "name": "init", "containerID": "containerd://aa" }],
                "containerStatuses": [
                    { "name": "app", "containerID": "cri-o://bb" },
                    { "name": "waiting", "containerID": "" },
                    { "name": "never", "state": { "waiting": {} } },
                ],
                "ephemeralContainerStatuses": [{ "name": "debug", "containerID": "docker://cc" }],
            });
        });
        let containers: Vec<_> =
            pod.containers.iter().map(|(id, name)| (id.as_str(), name.as_str())).collect();
        assert_eq!(containers, [("aa", "init"), ("bb", "app"), ("cc", "debug")]);
    }
}
