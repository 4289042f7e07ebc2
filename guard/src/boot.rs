//! From the node's start until its agent runs: the guarded root is made and guarded before the kubelet starts a pod, by the
//! policy that was accepted last, and for the pods that were known last.
//!
//! After a restart of the node the kubelet starts the same pods again, with the same uids and so with the same cgroups.
//! Those are made beforehand: each pod that is remembered has its ruling before its first process runs, node agents that
//! need IMDS to bring up the network among them. Every other pod is unidentified. Nothing stays running: the kernel decides,
//! and the agent takes over what is pinned. Gates are the agent's: who needs one is refused until it runs.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use guard_common::CgroupId;
use jiff::{Timestamp, civil::Date, tz::TimeZone};

use crate::{
    backstop::{Backstop, BackstopError, Known, Parts, Wanted},
    endpoints::Endpoints,
    kernel::{GuardedRoot, Kernel, LoadError, PinError, Pins, WriteError},
    memory::{Memory, MemoryError},
    pods::{self, Index},
    policy::{self, Policy},
    reconcile::{self, RuleNames},
};

/// What is needed to guard a node that has just started.
#[derive(Clone, Debug)]
pub struct BootSettings {
    pub cgroup_mount: PathBuf,
    /// Relative to the mount.
    pub guarded_root: PathBuf,
    pub state_folder: PathBuf,
    pub pin_path: PathBuf,
    /// The host's network namespace.
    pub host_network: PathBuf,
    pub endpoints: Endpoints,
}

/// What became of it.
#[derive(Debug)]
pub enum Booted {
    /// No agent has run here yet: there is no policy to guard by.
    NothingRemembered,
    /// Programs stand already: an agent runs, or has run since the node's start.
    Stands,
    /// By this policy, with rulings for so many pods.
    Guarded { policy: String, pods: usize, backstop: Parts },
}

/// Why the node can't be guarded yet.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("the policy that is remembered in {0} is not accepted by this version: let the agent start once")]
    Policy(PathBuf),
    #[error("make the cgroup {path}")]
    Cgroup {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("walk the cgroups below {path}")]
    Walk {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error(transparent)]
    Kernel(#[from] LoadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Backstop(#[from] BackstopError),
}

/// Guards the node by what is remembered. It must be called inside a runtime.
pub fn boot(settings: &BootSettings) -> Result<Booted, BootError> {
    let memory = Memory::open(&settings.state_folder)?;
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let Some(remembered) = memory.policy()? else { return Ok(Booted::NothingRemembered) };
    let policy = policy::parse(&remembered.files, &settings.endpoints, today).policy;
    let policy = policy.ok_or_else(|| BootError::Policy(settings.state_folder.clone()))?;

    let path = settings.cgroup_mount.join(&settings.guarded_root);
    make(&path)?;
    let root = GuardedRoot::open(&settings.cgroup_mount, &settings.guarded_root)?;
    let pins = Pins::open(&settings.pin_path, &settings.endpoints)?;
    let (mut backstop, _) = Backstop::open(&settings.host_network)?;
    let mut kernel = Kernel::load(root, &settings.endpoints, backstop.host()?, Some(pins))?;
    if !kernel.try_own()? || kernel.check_pinned() {
        return Ok(Booted::Stands);
    }
    let index = remembered_pods(&memory, &path)?;
    let pods = index.named().count();
    let wanted = write(&mut kernel, &policy, &settings.endpoints, &index, today)?;
    kernel.attach()?;
    let backstop = backstop.keep(&mut kernel, &wanted, &settings.endpoints, &BTreeSet::new());
    Ok(Booted::Guarded { policy: policy.sha256().to_owned(), pods, backstop })
}

/// Makes the cgroups of the pods that are remembered.
fn remembered_pods(memory: &Memory, root: &Path) -> Result<Index, BootError> {
    let mut index = Index::default();
    let mut pods = Vec::new();
    for remembered in memory.pods()?.unwrap_or_default() {
        if let Some(folder) = remembered.folder.filter(|folder| stays_below(folder)) {
            make(&root.join(folder))?;
        }
        pods.push(Arc::new(remembered.pod));
    }
    index.set_pods(pods);
    let tree = pods::walk(root).map_err(|source| BootError::Walk { path: root.to_owned(), source })?;
    index.set_tree(tree, Instant::now());
    Ok(index)
}

/// Writes the rulings, and says what the backstop is to do.
fn write(
    kernel: &mut Kernel,
    policy: &Policy,
    endpoints: &Endpoints,
    index: &Index,
    today: Date,
) -> Result<Wanted, BootError> {
    let mut rules = RuleNames::default();
    let mut desired = reconcile::desired(policy, endpoints, index, None, &mut rules, today);
    let imds = endpoints.id(Endpoints::IMDS);
    for (pod, imds) in desired.gated.keys().zip(imds.into_iter().cycle()) {
        if let Some(entry) = desired.entries.get_mut(pod) {
            *entry = entry.through_gate(imds, None);
        }
    }
    let unidentified = reconcile::unidentified(policy, endpoints, &mut rules, &[]);
    for (id, name) in rules.since(1) {
        kernel.set_rule(id, name)?;
    }
    kernel.set_pod(CgroupId::UNIDENTIFIED, &unidentified)?;
    for (cgroup, entry) in &desired.entries {
        kernel.set_pod(*cgroup, entry)?;
    }
    let known =
        index.named().filter_map(|(cgroup, pod)| Some(Known { pod, entry: desired.entries.get(&cgroup)? }));
    Ok(Wanted::of(endpoints, &known.collect::<Vec<_>>(), &unidentified))
}

/// What is remembered was written by an agent; a path that leads elsewhere is passed over all the same.
fn stays_below(folder: &Path) -> bool {
    folder.components().all(|part| matches!(part, Component::Normal(_)))
}

fn make(path: &Path) -> Result<(), BootError> {
    fs::create_dir_all(path).map_err(|source| BootError::Cgroup { path: path.to_owned(), source })
}
