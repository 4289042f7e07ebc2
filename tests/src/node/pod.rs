use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::time::Instant;

use anyhow::{Context, Result};

use super::cgroup::Cgroup;
use super::list::{Entry, PodList};
use crate::namespace::Namespace;
use crate::place::Place;
use crate::process::Process;

/// The quality-of-service class of a pod: which folder its cgroup is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// What a pod is like, before it exists.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub namespace: String,
    /// `None`: a name made from the service account's.
    pub name: Option<String>,
    pub service_account: String,
    pub qos: Qos,
    /// Whether it shares the node's network namespace.
    pub host_network: bool,
    /// Whether Kubernetes lists it from the start. One that isn't has cgroups and nothing else.
    pub listed: bool,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// The kind and the name of the object that owns it.
    pub owner: Option<(String, String)>,
    /// The environment of its container, as the pod's object declares it.
    pub environment: BTreeMap<String, String>,
    /// Whether its sandbox is held by a process, as all container runtimes do it but CRI-O.
    pub has_pause: bool,
}

impl PodSpec {
    /// A listed, burstable pod with a network of its own.
    pub fn new(namespace: &str, service_account: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: None,
            service_account: service_account.to_owned(),
            qos: Qos::Burstable,
            host_network: false,
            listed: true,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            owner: None,
            environment: BTreeMap::new(),
            has_pause: true,
        }
    }

    /// The same pod in the node's network namespace.
    #[must_use]
    pub fn on_host_network(self) -> Self {
        Self { host_network: true, ..self }
    }
}

/// A pod on the private node. As a [`Place`] it is the inside of its container. Dropping it deletes it.
#[derive(Debug)]
pub struct PodHandle {
    uid: String,
    cgroup: Cgroup,
    container: Place,
    pause: Option<Process>,
    began: Instant,
    addresses: Vec<IpAddr>,
    list: PodList,
}

impl PodHandle {
    pub(super) fn new(
        cgroup: Cgroup,
        container: Place,
        pause: Option<Process>,
        began: Instant,
        entry: Entry,
        list: PodList,
    ) -> Self {
        let (uid, addresses) = (entry.uid.clone(), entry.addresses.clone());
        list.insert(entry);
        Self { uid, cgroup, container, pause, began, addresses, list }
    }

    /// Its uid, as Kubernetes writes it.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Its pod-level cgroup, one above that of its container.
    pub fn pod_cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Kills the process that holds its sandbox.
    pub fn end_sandbox(&mut self) {
        self.pause = None;
    }

    pub(super) fn move_to(&mut self, pause: Process, namespace: Namespace, addresses: Vec<IpAddr>) {
        self.pause = Some(pause);
        self.container = self.container.in_namespace(namespace);
        self.addresses = addresses;
    }

    /// Kills its processes and removes its cgroups, as when the node loses power: Kubernetes still lists it.
    pub fn switch_off(&mut self) -> Result<()> {
        self.pause = None;
        self.cgroup.remove()
    }

    pub(super) fn resume(&mut self, pause: Process) {
        self.pause = Some(pause);
    }

    /// The process that holds its sandbox, if one does.
    pub fn pause(&self) -> Option<&Process> {
        self.pause.as_ref()
    }

    /// When the process that holds its sandbox was started.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// The addresses from which IMDS sees it; those of the node on the host's network.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Lets Kubernetes list it, with another look than before if `change` gives it one.
    pub fn list(&self, change: impl FnOnce(&mut PodSpec)) {
        self.list.update(&self.uid, |spec| {
            spec.listed = true;
            change(spec);
        });
    }

    /// Kills its processes and removes its cgroups and its network; Kubernetes lists it no more.
    pub fn delete(self) -> Result<()> {
        self.remove()
    }

    fn remove(&self) -> Result<()> {
        self.list.remove(&self.uid);
        self.cgroup.remove().with_context(|| format!("delete the pod {}", self.uid))
    }
}

impl Deref for PodHandle {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.container
    }
}

impl Drop for PodHandle {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("left behind: {error:#}");
        }
    }
}
