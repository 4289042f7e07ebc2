//! The few fields of Kubernetes' objects that the agent looks at, and what they say of a pod.
//!
//! Whatever else an object holds is skipped while it is read, so a large list costs little memory. Every field may
//! be absent or null: which of them a pod must have is decided where it is made.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::{ContainerId, Pod, PodUid, cgroup};
use crate::workload::{Labels, Workload};

/// The label that every namespace has, with its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// The label that a Deployment's pods share with the name of their `ReplicaSet`.
const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// A Pod, a Namespace or a Node.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Object {
    /// The items of a typed list have none.
    pub(super) kind: Option<String>,
    #[serde(default, deserialize_with = "null_as_empty")]
    pub(super) metadata: Metadata,
    #[serde(default, deserialize_with = "null_as_empty")]
    pub(super) spec: Spec,
    #[serde(default, deserialize_with = "null_as_empty")]
    pub(super) status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    #[serde(deserialize_with = "null_as_empty")]
    pub(super) labels: Labels,
    #[serde(deserialize_with = "null_as_empty")]
    annotations: Annotations,
    #[serde(deserialize_with = "null_as_empty")]
    owner_references: Vec<OwnerReference>,
}

/// The one annotation that matters: others can be large.
#[derive(Debug, Default, Deserialize)]
struct Annotations {
    /// On the API's copy of a static pod: the manifest hash by which the kubelet knows the pod.
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<String>,
}

#[derive(Debug, Deserialize)]
struct OwnerReference {
    kind: String,
    name: String,
    #[serde(default)]
    controller: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub(super) node_name: String,
    service_account_name: String,
    host_network: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    #[serde(rename = "initContainerStatuses", deserialize_with = "null_as_empty")]
    init: Vec<ContainerStatus>,
    #[serde(rename = "containerStatuses", deserialize_with = "null_as_empty")]
    regular: Vec<ContainerStatus>,
    #[serde(rename = "ephemeralContainerStatuses", deserialize_with = "null_as_empty")]
    ephemeral: Vec<ContainerStatus>,
}

#[derive(Debug, Deserialize)]
struct ContainerStatus {
    name: String,
    /// `containerd://<id>`; empty until the container has started once.
    #[serde(rename = "containerID", default)]
    container_id: String,
}

/// The labels of what a pod lies in, by name.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    pub(super) namespaces: BTreeMap<String, Labels>,
    pub(super) nodes: BTreeMap<String, Labels>,
}

impl Object {
    /// The pod that this object describes, or the name of the field that it lacks.
    pub(super) fn into_pod(self, surroundings: &Surroundings) -> Result<Pod, &'static str> {
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
        Ok(Pod {
            uid: metadata.uid_of_cgroup(),
            workload: Workload {
                namespace_labels: surroundings.namespace_labels(&metadata.namespace),
                node_labels: surroundings.nodes.get(&spec.node_name).cloned().unwrap_or_default(),
                service_account: spec.service_account(),
                owners: metadata.owners(),
                host_network: spec.host_network,
                namespace: metadata.namespace,
                labels: metadata.labels,
            },
            declared_uid: metadata.uid,
            name: metadata.name,
            containers: status.containers(),
        })
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

    /// The controller that made the pod, and the Deployment behind it if that is a `ReplicaSet` of one.
    fn owners(&self) -> Vec<String> {
        let Some(controller) = self.owner_references.iter().find(|owner| owner.controller) else {
            return Vec::new();
        };
        let kind = controller.kind.to_lowercase();
        let mut owners = vec![format!("{kind}/{}", controller.name)];
        if kind == "replicaset"
            && let Some(hash) = self.labels.get(POD_TEMPLATE_HASH)
            && let Some(name) =
                controller.name.strip_suffix(hash.as_str()).and_then(|name| name.strip_suffix('-'))
        {
            owners.push(format!("deployment/{name}"));
        }
        owners
    }
}

impl Spec {
    fn service_account(&self) -> String {
        let name = Some(self.service_account_name.as_str()).filter(|name| !name.is_empty());
        name.unwrap_or("default").to_owned()
    }
}

impl Status {
    fn containers(self) -> BTreeMap<ContainerId, String> {
        [self.init, self.regular, self.ephemeral]
            .into_iter()
            .flatten()
            .filter_map(|status| {
                let (_runtime, id) = status.container_id.split_once("://")?;
                Some((ContainerId::new(id), status.name))
            })
            .collect()
    }
}

impl Surroundings {
    /// A namespace that isn't known still has its name.
    fn namespace_labels(&self, namespace: &str) -> Labels {
        let mut labels = self.namespaces.get(namespace).cloned().unwrap_or_default();
        labels.insert(NAMESPACE_NAME.to_owned(), namespace.to_owned());
        labels
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
        object.into_pod(&Surroundings::default()).expect("a complete pod")
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
            containers: [].into(),
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
