use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::pod::{PodSpec, Qos};

/// The pods that exist, as Kubernetes would know them. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub(super) struct PodList(Arc<Mutex<BTreeMap<String, Entry>>>);

/// One pod of the list.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) spec: PodSpec,
    pub(super) container_id: String,
    pub(super) addresses: Vec<IpAddr>,
}

impl PodList {
    pub(super) fn insert(&self, entry: Entry) {
        self.entries().insert(entry.uid.clone(), entry);
    }

    pub(super) fn remove(&self, uid: &str) {
        self.entries().remove(uid);
    }

    pub(super) fn update(&self, uid: &str, change: impl FnOnce(&mut PodSpec)) {
        if let Some(entry) = self.entries().get_mut(uid) {
            change(&mut entry.spec);
        }
    }

    /// What `kubectl get pods --all-namespaces -o json` prints for the listed ones.
    pub(super) fn to_json(&self, node_name: &str) -> Value {
        let entries = self.entries();
        let items: Vec<Value> = entries
            .values()
            .filter(|entry| entry.spec.listed)
            .map(|entry| entry.to_json(node_name))
            .collect();
        json!({ "apiVersion": "v1", "kind": "List", "items": items, "metadata": { "resourceVersion": "" } })
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn to_json(&self, node_name: &str) -> Value {
        let spec = &self.spec;
        let owners: Vec<Value> = spec
            .owner
            .iter()
            .map(|(kind, name)| json!({ "apiVersion": "apps/v1", "kind": kind, "name": name, "controller": true }))
            .collect();
        let environment: Vec<Value> =
            spec.environment.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        let addresses: Vec<Value> = self.addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": spec.namespace,
                "uid": self.uid,
                "labels": spec.labels,
                "annotations": spec.annotations,
                "ownerReferences": owners,
            },
            "spec": {
                "nodeName": node_name,
                "serviceAccountName": spec.service_account,
                "hostNetwork": spec.host_network,
                "containers": [{ "name": "main", "image": "scratch", "env": environment }],
            },
            "status": {
                "phase": "Running",
                "qosClass": spec.qos.class_name(),
                "podIP": self.addresses.first(),
                "podIPs": addresses,
                "containerStatuses": [{
                    "name": "main",
                    "containerID": format!("containerd://{}", self.container_id),
                    "ready": true,
                    "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } },
                }],
            },
        })
    }
}

impl Qos {
    fn class_name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(uid: &str, listed: bool) -> Entry {
        Entry {
            uid: uid.to_owned(),
            name: "checkout-0".to_owned(),
            spec: PodSpec { listed, ..PodSpec::new("payments", "checkout") },
            container_id: "00ff".to_owned(),
            addresses: vec![IpAddr::from([10, 128, 0, 1])],
        }
    }

    #[test]
    fn only_listed_pods_are_printed() {
        let list = PodList::default();
        list.insert(entry("a", true));
        list.insert(entry("b", false));
        let printed = list.to_json("node-1");
        assert_eq!(printed["items"].as_array().map(Vec::len), Some(1));
        let pod = &printed["items"][0];
        assert_eq!(pod["metadata"]["uid"], "a");
        assert_eq!(pod["spec"]["serviceAccountName"], "checkout");
        assert_eq!(pod["status"]["containerStatuses"][0]["containerID"], "containerd://00ff");
        list.update("b", |spec| spec.listed = true);
        list.remove("a");
        assert_eq!(list.to_json("node-1")["items"][0]["metadata"]["uid"], "b");
    }
}
