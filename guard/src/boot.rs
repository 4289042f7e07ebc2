//! From the node's start until its agent runs: the guarded root is made and guarded before the kubelet starts a pod, by the
//! policy that was accepted last, and for the pods that were known last.
//!
//! After a restart of the node the kubelet starts the same pods again, with the same uids and so with the same cgroups.
//! Every pod is unidentified until the agent runs; but of those that would be refused for that, and would go straight by
//! the policy (node agents that need IMDS to bring up the network), the cgroups are made beforehand, so that each has its
//! ruling before its first process runs. A kubelet that finds a pod's cgroup does not set the pod's own limits on it, so
//! there are no more of these than there must be. Nothing stays running: the kernel decides, and the agent takes over what
//! is pinned. Gates are the agent's: who needs one is refused until it runs.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use guard_common::{CgroupId, Mode, Verdict};
use jiff::{Timestamp, civil::Date, tz::TimeZone};

use crate::{
    backstop::{Backstop, BackstopError, Known, Parts, Wanted},
    endpoints::Endpoints,
    kernel::{GuardedRoot, Kernel, LoadError, PinError, Pins, WriteError},
    memory::{Memory, MemoryError, RememberedPod},
    pods::{self, Index, Pod},
    policy::{self, Policy},
    reconcile::{self, RuleNames},
};

/// What is needed to guard a node that has just started.
#[derive(Clone, Debug)]
pub struct BootSettings {
    pub cgroup_mount: PathBuf,
    /// Relative to the mount; none: where the agent found it last.
    pub guarded_root: Option<PathBuf>,
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
    Guarded { root: PathBuf, policy: String, pods: usize, backstop: Result<Parts, BackstopError> },
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
    #[error("which cgroup the pods will live under is not known: name it with --guarded-root")]
    Root,
}

/// Guards the node by what is remembered. It must be called inside a runtime.
pub fn boot(settings: &BootSettings) -> Result<Booted, BootError> {
    let memory = Memory::open(&settings.state_folder)?;
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let Some(remembered) = memory.policy()? else { return Ok(Booted::NothingRemembered) };
    let policy = policy::parse(&remembered.files, &settings.endpoints, today).policy;
    let policy = policy.ok_or_else(|| BootError::Policy(settings.state_folder.clone()))?;

    let given = settings.guarded_root.clone();
    let guarded_root = given.or(memory.root()?).ok_or(BootError::Root)?;
    let path = settings.cgroup_mount.join(&guarded_root);
    make(&path)?;
    let root = GuardedRoot::open(&settings.cgroup_mount, &guarded_root)?;
    let pins = Pins::open(&settings.pin_path, &settings.endpoints)?;
    // What stands without a backstop is better than nothing.
    let backstop = Backstop::open(&settings.host_network);
    let host = backstop.as_ref().ok().and_then(|(backstop, _)| backstop.host().ok()?);
    let mut kernel = Kernel::load(root, &settings.endpoints, host, Some(pins))?;
    if !kernel.try_own()? || kernel.check_pinned() {
        return Ok(Booted::Stands);
    }
    let index =
        remembered_pods(&memory, &path, |pod| goes_straight(&policy, &settings.endpoints, pod, today))?;
    let pods = index.named().count();
    let wanted = write(&mut kernel, &policy, &settings.endpoints, &index, today)?;
    kernel.attach()?;
    let backstop = backstop
        .map(|(mut backstop, _)| backstop.keep(&mut kernel, &wanted, &settings.endpoints, &BTreeSet::new()));
    Ok(Booted::Guarded { root: guarded_root, policy: policy.sha256().to_owned(), pods, backstop })
}

/// Whether a pod reaches IMDS without a gate by the policy, and would be refused while it has no name.
fn goes_straight(policy: &Policy, endpoints: &Endpoints, pod: &Pod, today: Date) -> bool {
    let Some(imds) = endpoints.id(Endpoints::IMDS) else { return false };
    let (verdict, mode, _) = policy.unidentified(imds);
    let workload = &pod.workload;
    let is_allowed = policy.ruling(workload, imds, today).verdict == Verdict::Allow && workload.host_network;
    let is_refused_unnamed = verdict == Verdict::Deny && mode == Mode::Enforce;
    is_refused_unnamed && (is_allowed || policy.mode(workload) == Mode::Audit)
}

/// Makes the cgroups of those pods that are remembered and need them.
fn remembered_pods(
    memory: &Memory,
    root: &Path,
    needs_cgroup: impl Fn(&Pod) -> bool,
) -> Result<Index, BootError> {
    let mut index = Index::default();
    let mut pods = Vec::new();
    // A node that lost power may have lost this file, or half of it: then nobody has a name.
    let remembered = memory.pods().unwrap_or_else(|error| {
        eprintln!("the pods are not recalled, and all are unidentified: {error}");
        None
    });
    for RememberedPod { pod, folder } in remembered.unwrap_or_default() {
        if let Some(folder) = folder.filter(|folder| stays_below(folder) && needs_cgroup(&pod))
            && let Err(error) = make(&root.join(folder))
        {
            eprintln!("{}/{} is unidentified: {error}", pod.workload.namespace, pod.name);
        }
        pods.push(Arc::new(pod));
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
    let mut desired = reconcile::desired(policy, endpoints, index, &BTreeSet::new(), &mut rules, today);
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
