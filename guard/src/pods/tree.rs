//! One walk over the cgroups of all pods.
//!
//! Only the folders that matter are read: the guarded root, `burstable` and `besteffort`, and the pods. What lies
//! inside a container is the tenant's own.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::DirEntryExt,
    path::{Path, PathBuf},
};

use guard_common::CgroupId;

use super::{
    ContainerId, PodUid,
    cgroup::{self, Name},
};
use crate::canary;

/// The cgroups below the guarded root, as one walk found them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The cgroups `burstable` and `besteffort`.
    pub slices: Vec<CgroupId>,
    pub pods: Vec<PodCgroup>,
}

/// The cgroup of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCgroup {
    pub id: CgroupId,
    /// The uid in its name; `None` where the name is no pod's.
    pub uid: Option<PodUid>,
    /// Its folder, relative to the guarded root.
    pub path: PathBuf,
    /// The cgroups one level below it, with the container id in their names.
    pub containers: Vec<(CgroupId, Option<ContainerId>)>,
}

/// Walks the pods' cgroups below the guarded `root`, in which the agent's canary is no pod. Pods and containers that vanish on the way are left out.
pub fn walk(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree::default();
    for folder in folders(root)?.into_iter().filter(|folder| folder.name != canary::FOLDER) {
        let path = PathBuf::from(&folder.name);
        if folder.means() == Name::Slice {
            tree.slices.push(folder.id);
            for pod in folders_if_there(&root.join(&path))?.unwrap_or_default() {
                tree.pods.extend(pod_cgroup(root, path.join(&pod.name), &pod)?);
            }
        } else {
            tree.pods.extend(pod_cgroup(root, path, &folder)?);
        }
    }
    Ok(tree)
}

/// The cgroup of the pod in which the process `pid` runs, if it runs in one of `tree`, walked from `root`. The kernel
/// numbers processes as the reader's PID namespace does, so `pid` must be of the same.
pub fn pod_of(root: &Path, tree: &Tree, pid: u32) -> Option<CgroupId> {
    let holds = |folder: &Path| {
        fs::read_to_string(folder.join("cgroup.procs"))
            .is_ok_and(|processes| processes.lines().any(|line| line.parse() == Ok(pid)))
    };
    let runs_in = |pod: &&PodCgroup| {
        let path = root.join(&pod.path);
        let containers = folders_if_there(&path).ok().flatten().unwrap_or_default();
        holds(&path) || containers.iter().any(|container| holds(&path.join(&container.name)))
    };
    tree.pods.iter().find(runs_in).map(|pod| pod.id)
}

fn pod_cgroup(root: &Path, path: PathBuf, folder: &Folder) -> io::Result<Option<PodCgroup>> {
    let Some(below) = folders_if_there(&root.join(&path))? else { return Ok(None) };
    let uid = match folder.means() {
        Name::Pod(uid) => Some(uid),
        Name::Slice | Name::Other => None,
    };
    let containers = below.iter().map(|folder| (folder.id, folder.name.to_str().and_then(cgroup::container)));
    Ok(Some(PodCgroup { id: folder.id, uid, path, containers: containers.collect() }))
}

struct Folder {
    id: CgroupId,
    name: OsString,
}

impl Folder {
    fn means(&self) -> Name {
        self.name.to_str().map_or(Name::Other, cgroup::name)
    }
}

/// The folders in `path`. On cgroup2 a directory entry carries the inode number, which is the cgroup's id, and the
/// type: none of them needs a stat.
fn folders(path: &Path) -> io::Result<Vec<Folder>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(Folder { id: CgroupId(entry.ino()), name: entry.file_name() });
        }
    }
    Ok(folders)
}

fn folders_if_there(path: &Path) -> io::Result<Option<Vec<Folder>>> {
    match folders(path) {
        Ok(folders) => Ok(Some(folders)),
        // The kernel says ENODEV of a cgroup that is removed while it is open.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::MetadataExt, process};

    use super::*;
    use crate::pods::find_cgroup2_mount;

    const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
    const HASH: &str = "f8b0f2c1a5d94e6b8c7d1e2f3a4b5c6d";
    const CONTAINER: &str = "5f3c9d1b7a2e4c6d8f0b1a3c5e7d9f2b4a6c8e0d1f3b5a7c9e2d4f6b8a0c1e3d";

    #[test]
    fn classes_pods_and_containers_are_found_and_nothing_below_them() {
        let root = tempfile::tempdir().expect("a temporary folder");
        for folder in [
            format!("burstable/pod{UID}/{CONTAINER}/made-by-the-tenant/deeper"),
            format!("burstable/pod{UID}/init"),
            "burstable/burstable".to_owned(),
            "besteffort".to_owned(),
            format!("pod{HASH}"),
            "what is this".to_owned(),
            canary::FOLDER.to_owned(),
        ] {
            fs::create_dir_all(root.path().join(folder)).expect("create a folder");
        }
        fs::write(root.path().join("cgroup.procs"), "").expect("write a file");

        let tree = walk(root.path()).expect("readable");

        assert_eq!(tree.slices.len(), 2);
        let pods: BTreeMap<_, _> =
            tree.pods.iter().map(|pod| (pod.path.to_str().expect("UTF-8"), pod)).collect();
        let named = format!("burstable/pod{UID}");
        let expected = ["burstable/burstable", &named, &format!("pod{HASH}"), "what is this"];
        assert_eq!(pods.keys().copied().collect::<Vec<_>>(), expected);
        let uids: Vec<_> = pods.values().map(|pod| pod.uid.as_ref().map(PodUid::as_str)).collect();
        assert_eq!(uids, [None, Some(UID), Some(HASH), None]);
        let mut containers: Vec<_> =
            pods[named.as_str()].containers.iter().map(|(_, id)| id.clone()).collect();
        containers.sort();
        assert_eq!(containers, [None, Some(ContainerId::new(CONTAINER))]);
    }

    #[test]
    fn a_root_that_is_not_there_is_an_error_and_a_class_that_is_gone_is_not() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let gone = root.path().join("gone");
        assert_eq!(walk(&gone).expect_err("not there").kind(), io::ErrorKind::NotFound);
        assert!(folders_if_there(&gone).expect("no error").is_none());
    }

    #[test]
    fn on_cgroup2_a_directory_entry_carries_the_cgroup_s_id() {
        struct Cgroup(PathBuf);
        impl Drop for Cgroup {
            fn drop(&mut self) {
                for folder in [self.0.join("burstable"), self.0.clone()] {
                    // Best effort: the test has failed already if it is not there.
                    let _ = fs::remove_dir(folder);
                }
            }
        }
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").expect("readable");
        let Some(mount) = find_cgroup2_mount(&mountinfo) else {
            return eprintln!("skipped: no cgroup2 mount");
        };
        let root = Cgroup(mount.join(format!("imds-guard-test-walk-{}", process::id())));
        if let Err(error) = fs::create_dir_all(root.0.join("burstable")) {
            return eprintln!("skipped: no cgroup can be made: {error}");
        }

        let tree = walk(&root.0).expect("readable");

        let inode = fs::metadata(root.0.join("burstable")).expect("readable").ino();
        assert_eq!(tree, Tree { slices: vec![CgroupId(inode)], pods: Vec::new() });
    }
}
