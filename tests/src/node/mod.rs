//! A private node: what a Kubernetes node is to the guard, made of namespaces and cgroups of its own.
//!
//! ```text
//! imds ── eth0 ═══ uplink ── node ── pod0 ═══ eth0 ── a pod        CGROUP2/imds-guard-test-PID-N/
//! 169.254.169.254            │  └─── pod1 ═══ eth0 ── a pod          ├─ kubepods/…/podUID/CONTAINER
//! fd00:ec2::254              └ hostNetwork pods, the agent           └─ outside
//! ```
//!
//! It owns the namespaces, the cgroups, the simulator behind them and the list of pods, and removes all of it when
//! dropped. It starts no process by itself and knows nothing of policies. There is no kubelet: pods are cgroups
//! with the kubelet's names, which is all that the guard sees of it.

mod cgroup;
mod list;
mod names;
mod network;
mod permissive;
mod pod;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::detached::DetachedMount;
use crate::namespace::Namespace;
use crate::place::Place;
use crate::process::Process;
use crate::random;
use crate::simulator::{Endpoint, Simulator, Versions};
pub use cgroup::Cgroup;
use cgroup::Tree;
use list::{Entry, PodList};
pub use names::Driver;
pub use network::Layout;
use network::{Network, PodNetwork};
pub use permissive::Permissive;
pub use pod::{PodHandle, PodSpec, Qos};

/// A node with a simulator of IMDS behind it. Dropping it ends its processes and removes its cgroups and
/// namespaces, those of pods that are still held included.
#[derive(Debug)]
pub struct Node {
    driver: Driver,
    simulator: Simulator,
    network: Network,
    outside: Place,
    guarded_root: Cgroup,
    bpffs: Option<DetachedMount>,
    pin_path: PathBuf,
    pods: PodList,
    /// Numbers of pods, for their names and addresses.
    next: AtomicU16,
    tree: Tree,
}

impl Node {
    /// Makes a node whose IMDS answers version 1 as well as 2, and removes what dead tests left behind.
    pub fn new(driver: Driver) -> Result<Self> {
        Self::with(driver, Layout::Links, &Endpoint::on_eks())
    }

    /// The same, but nobody listens where IMDS should be: whoever wants to may stand there, see [`Self::beyond`].
    pub fn without_imds(driver: Driver) -> Result<Self> {
        Self::with(driver, Layout::Links, &[])
    }

    /// A node whose pods are on one bridge.
    pub fn on_bridge(driver: Driver) -> Result<Self> {
        Self::with(driver, Layout::Bridge, &Endpoint::on_eks())
    }

    fn with(driver: Driver, layout: Layout, endpoints: &[Endpoint]) -> Result<Self> {
        let tree = Tree::create()?;
        let network = Network::create(layout)?;
        let simulator = Simulator::start(Some(network.imds.clone()), endpoints, Versions::V1AndV2)?;
        let guarded_root = tree.root.create(driver.guarded_root())?;
        for qos in [Qos::Burstable, Qos::BestEffort] {
            if let Some(class) = driver.class(qos) {
                guarded_root.create(&class)?;
            }
        }
        let bpffs = DetachedMount::bpf()?;
        let pin_path = bpffs.path().join("imds-guard");
        let outside = Place::new(tree.root.create("outside")?, network.node.clone());
        Ok(Self {
            driver,
            simulator,
            network,
            outside,
            guarded_root,
            bpffs: Some(bpffs),
            pin_path,
            pods: PodList::default(),
            next: AtomicU16::new(0),
            tree,
        })
    }

    /// The name that pods are bound to.
    pub fn name(&self) -> &'static str {
        "node-1"
    }

    /// The IMDS behind the node, and what it saw.
    pub fn simulator(&self) -> &Simulator {
        &self.simulator
    }

    /// Where processes run that the guard must never touch: on the node's network, beside the guarded root.
    pub fn outside(&self) -> &Place {
        &self.outside
    }

    /// Where IMDS is: its addresses are there, and the node's processes are not.
    pub fn beyond(&self) -> Place {
        self.outside.in_namespace(self.network.imds.clone())
    }

    /// The node's network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.network.node
    }

    /// Loses every packet to IMDS from now on, without a word to whoever sent it.
    pub fn lose_packets_to_imds(&self) -> Result<()> {
        self.network.lose_packets_to_imds()
    }

    /// Where cgroup v2 is mounted.
    pub fn cgroup_mount(&self) -> &Path {
        &self.tree.mount
    }

    /// The cgroup of all pods, relative to the mount.
    pub fn guarded_root(&self) -> PathBuf {
        self.tree.relative(&self.guarded_root)
    }

    /// Where the guard of this node is pinned.
    pub fn pin_path(&self) -> &Path {
        &self.pin_path
    }

    /// Takes the BPF file system away, as unmounting does: what is pinned there has no name any more.
    pub fn unmount_bpffs(&mut self) {
        self.bpffs = None;
    }

    /// Makes a pod.
    pub fn pod(&self, spec: PodSpec) -> Result<PodHandle> {
        self.pod_with_number(spec, self.number())
    }

    /// Deletes a pod, and makes another one that gets its addresses, as they are used again sooner or later.
    pub fn pod_in_place_of(&self, predecessor: PodHandle, spec: PodSpec) -> Result<PodHandle> {
        let number = predecessor.number();
        // Its network goes some time after it; its link goes at once.
        self.network.remove_link(number)?;
        predecessor.delete()?;
        self.pod_with_number(spec, number)
    }

    /// Gives a pod one more device, without a route over it.
    pub fn add_device(&self, pod: &PodHandle, device: &str) -> Result<()> {
        self.network.add_device(self.number(), pod.namespace(), device)
    }

    /// Gives the node one more link to IMDS, without a route over it.
    pub fn add_uplink(&self, device: &str) -> Result<()> {
        self.network.add_uplink(self.number(), device)
    }

    /// Gives a pod a device of its own on the node's uplink, as additional networks of pods are made: what goes through it
    /// never comes by the node's own network.
    pub fn add_macvlan(&self, pod: &PodHandle, device: &str) -> Result<()> {
        self.network.add_macvlan(self.number(), pod.namespace(), device)
    }

    fn number(&self) -> u16 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn pod_with_number(&self, spec: PodSpec, number: u16) -> Result<PodHandle> {
        let network = if spec.host_network {
            PodNetwork { namespace: self.network.node.clone(), addresses: Network::node_addresses() }
        } else {
            self.network.add_pod(number)?
        };
        let entry = Entry {
            uid: random_uid()?,
            name: spec.name.clone().unwrap_or_else(|| format!("{}-{number}", spec.service_account)),
            container_id: random::hex(32)?,
            addresses: network.addresses,
            spec,
        };
        let qos = entry.spec.qos;
        let class = match self.driver.class(qos) {
            Some(class) => self.guarded_root.child(&class),
            None => self.guarded_root.clone(),
        };
        let cgroup = class.create(&self.driver.pod(qos, &entry.uid))?;
        let began = Instant::now();
        let pause = entry.spec.has_pause.then(|| self.sandbox(&cgroup, &network.namespace)).transpose()?;
        let container =
            Place::new(cgroup.create(&self.driver.container(&entry.container_id))?, network.namespace);
        Ok(PodHandle::new(number, cgroup, container, pause, began, entry, self.pods.clone()))
    }

    /// Makes a pod's sandbox anew, as the kubelet does after its process has died: the same cgroup, another network.
    pub fn restart_sandbox(&self, pod: &mut PodHandle) -> Result<()> {
        let number = self.number();
        let PodNetwork { namespace, addresses } = self.network.add_pod(number)?;
        pod.end_sandbox();
        let pause = self.sandbox(pod.pod_cgroup(), &namespace)?;
        pod.move_to(pause, namespace, addresses);
        Ok(())
    }

    /// Starts a pod again that was switched off: the same uid, and the cgroups that are there already.
    pub fn switch_on(&self, pod: &mut PodHandle) -> Result<()> {
        fs::create_dir_all(pod.cgroup()).context("make a pod's cgroups")?;
        let namespace = pod.namespace().clone();
        let pause = self.sandbox(pod.pod_cgroup(), &namespace)?;
        pod.resume(pause);
        Ok(())
    }

    /// Starts the process that holds a pod's network: the first in its cgroup, in a container that Kubernetes lists not.
    fn sandbox(&self, pod: &Cgroup, namespace: &Namespace) -> Result<Process> {
        let cgroup = pod.create(&self.driver.container(&random::hex(32)?))?;
        let mut pause = Command::new("sleep");
        pause.arg("infinity").stdin(Stdio::null());
        Place::new(cgroup, namespace.clone()).spawn(pause)
    }

    /// What `kubectl get pods --all-namespaces -o json` prints for the listed pods.
    pub fn pods_json(&self) -> Value {
        self.pods.to_json(self.name())
    }

    /// Writes [`Self::pods_json`] to a file, at once: a reader sees the old list or the new one.
    pub fn write_pods(&self, path: &Path) -> Result<()> {
        let fresh = path.with_added_extension("new");
        fs::write(&fresh, self.pods_json().to_string())
            .with_context(|| format!("write {}", fresh.display()))?;
        fs::rename(&fresh, path).with_context(|| format!("replace {}", path.display()))
    }
}

/// A version 4 UUID, as the API server gives them to pods.
fn random_uid() -> Result<String> {
    let hex = random::hex(16)?;
    Ok(format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..]))
}
