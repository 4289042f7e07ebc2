//! Which cgroup is which pod.
//!
//! The index joins two views that come and go on their own: the pods that Kubernetes lists and the cgroups that
//! the kernel has. A cgroup without a listed pod is unidentified, which is an ordinary state: every pod begins so.
//! Once identified, a cgroup keeps its identity as long as the index knows it, for a force-deleted pod runs on
//! after it has left the list, and counts and events of a cgroup that is gone still have to be attributed.
//!
//! One task owns the index. It is pure: it reads no folder and no clock.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use guard_common::CgroupId;

use super::{ContainerId, Pod, PodUid, Tree, tree::PodCgroup};

/// The pods of this node by their cgroups.
#[derive(Debug, Default)]
pub struct Index {
    listed: HashMap<PodUid, Arc<Pod>>,
    slices: Vec<CgroupId>,
    pods: BTreeMap<CgroupId, Entry>,
}

/// A pod, and the folder of its cgroup relative to the guarded root, if it has one.
pub type KnownPod = (Arc<Pod>, Option<PathBuf>);

/// Who a pod's cgroup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    Pod(&'a Arc<Pod>),
    /// No listed pod has this cgroup's uid yet, or its name is no pod's at all.
    Unidentified,
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: ContainerId,
    /// Its name in the pod's spec. The sandbox ("pause") has none, nor has one that the list does not know yet.
    pub name: Option<String>,
}

#[derive(Debug)]
struct Entry {
    uid: Option<PodUid>,
    /// Its folder, relative to the guarded root.
    path: PathBuf,
    pod: Option<Arc<Pod>>,
    containers: BTreeMap<CgroupId, Seen>,
    departed: Option<Instant>,
}

/// A container, and whether the last walk still found it: one that is gone stays for one walk more, because its
/// last events may be on their way.
#[derive(Debug)]
struct Seen {
    container: Container,
    in_last_walk: bool,
}

impl Index {
    /// Takes a new list of pods. A pod that is no longer on it keeps its cgroups.
    pub fn set_pods(&mut self, pods: Vec<Arc<Pod>>) {
        self.listed = pods.into_iter().map(|pod| (pod.uid.clone(), pod)).collect();
        for entry in self.pods.values_mut() {
            entry.identify(&self.listed);
        }
    }

    /// Takes a new walk over the cgroups, made at `now`. A pod's cgroup that it did not find is departed from then
    /// on, until [`Self::forget`].
    pub fn set_tree(&mut self, tree: Tree, now: Instant) {
        self.slices = tree.slices;
        let mut known = mem::take(&mut self.pods);
        for cgroup in tree.pods {
            let mut entry = known.remove(&cgroup.id).unwrap_or_else(|| Entry::new(&cgroup));
            entry.departed = None;
            self.pods.insert(cgroup.id, entry.found_again(cgroup, &self.listed));
        }
        for (id, mut entry) in known {
            entry.departed.get_or_insert(now);
            self.pods.insert(id, entry);
        }
    }

    /// The cgroups `burstable` and `besteffort`.
    pub fn slices(&self) -> &[CgroupId] {
        &self.slices
    }

    /// The live pods, identified or not, in the order of their cgroups.
    pub fn pods(&self) -> impl Iterator<Item = (CgroupId, Identity<'_>)> {
        let live = self.pods.iter().filter(|(_, entry)| entry.departed.is_none());
        live.map(|(id, entry)| (*id, entry.identity()))
    }

    /// Who a live pod is; none if it is not there, or not any more.
    pub fn live(&self, pod: CgroupId) -> Option<Identity<'_>> {
        self.pods.get(&pod).filter(|entry| entry.departed.is_none()).map(Entry::identity)
    }

    /// The folder of a live pod's cgroup, relative to the guarded root.
    pub fn folder(&self, pod: CgroupId) -> Option<&Path> {
        let live = self.pods.get(&pod).filter(|entry| entry.departed.is_none());
        live.map(|entry| entry.path.as_path())
    }

    /// The pods that are listed, and those that run and were listed once, in the order of their uids.
    pub fn known(&self) -> Vec<KnownPod> {
        let listed = self.listed.values().map(|pod| (&pod.uid, (Arc::clone(pod), None)));
        let mut known: BTreeMap<_, KnownPod> = listed.collect();
        for entry in self.pods.values().filter(|entry| entry.departed.is_none()) {
            if let Some(pod) = &entry.pod {
                known.entry(&pod.uid).or_insert_with(|| (Arc::clone(pod), None)).1 = Some(entry.path.clone());
            }
        }
        known.into_values().collect()
    }

    /// Every pod with an identity, departed ones too.
    pub fn named(&self) -> impl Iterator<Item = (CgroupId, &Arc<Pod>)> {
        self.pods.iter().filter_map(|(id, entry)| Some((*id, entry.pod.as_ref()?)))
    }

    /// Whether a walk has found the cgroup `pod`, and it was not forgotten since.
    pub fn knows(&self, pod: CgroupId) -> bool {
        self.pods.contains_key(&pod)
    }

    /// Whose the cgroup `pod` is, or was before it departed.
    pub fn identify(&self, pod: CgroupId) -> Option<&Arc<Pod>> {
        self.pods.get(&pod)?.pod.as_ref()
    }

    /// Which container of `pod` the cgroup `container` is, or was until the walk before the last.
    pub fn container(&self, pod: CgroupId, container: CgroupId) -> Option<&Container> {
        Some(&self.pods.get(&pod)?.containers.get(&container)?.container)
    }

    /// The departed pods that a walk first missed before `time`.
    pub fn departed_before(&self, time: Instant) -> Vec<CgroupId> {
        let departed = self.pods.iter().filter(|(_, entry)| entry.departed.is_some_and(|since| since < time));
        departed.map(|(id, _)| *id).collect()
    }

    /// Forgets a departed pod; a live one stays.
    pub fn forget(&mut self, pod: CgroupId) {
        if self.pods.get(&pod).is_some_and(|entry| entry.departed.is_some()) {
            self.pods.remove(&pod);
        }
    }
}

impl Entry {
    fn new(cgroup: &PodCgroup) -> Self {
        let (uid, path) = (cgroup.uid.clone(), cgroup.path.clone());
        Self { uid, path, pod: None, containers: BTreeMap::new(), departed: None }
    }

    fn identity(&self) -> Identity<'_> {
        self.pod.as_ref().map_or(Identity::Unidentified, Identity::Pod)
    }

    fn found_again(mut self, cgroup: PodCgroup, listed: &HashMap<PodUid, Arc<Pod>>) -> Self {
        self.containers.retain(|_, seen| mem::take(&mut seen.in_last_walk));
        for (id, container) in cgroup.containers {
            let Some(container) = container else { continue };
            let seen = self.containers.entry(id);
            let container = Container { id: container, name: None };
            seen.or_insert(Seen { container, in_last_walk: true }).in_last_walk = true;
        }
        self.identify(listed);
        self
    }

    /// Takes the pod with this cgroup's uid from the list, and what it tells of the containers. What is known
    /// already stays known where the list is silent.
    fn identify(&mut self, listed: &HashMap<PodUid, Arc<Pod>>) {
        if let Some(pod) = self.uid.as_ref().and_then(|uid| listed.get(uid)) {
            self.pod = Some(Arc::clone(pod));
        }
        let Some(pod) = &self.pod else { return };
        for Container { id, name } in self.containers.values_mut().map(|seen| &mut seen.container) {
            if let Some(listed) = pod.containers.get(id) {
                *name = Some(listed.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
