//! Where the canary sits: a cgroup of its own in the guarded root, on the host's network.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use guard_common::CgroupId;
use nix::sched::{CloneFlags, setns};

/// Its folder in the guarded root. No pod's cgroup is called so, and no kubelet takes it for one.
pub const FOLDER: &str = "imds-guard-canary";

/// The cgroup namespace of the host, seen from a container that sees the host's processes.
const HOST_CGROUPS: &str = "/proc/1/ns/cgroup";

/// Why the canary has no place to sit.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("make the cgroup {path}")]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("remove the cgroup {path}")]
    Remove {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("enter the cgroup {path}")]
    Cgroup {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("enter the network namespace {path}")]
    Network {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Makes its cgroup in the guarded root, if it is not there, and tells which one it is.
pub fn make(root: &Path) -> Result<(PathBuf, CgroupId), PlaceError> {
    let path = root.join(FOLDER);
    let made = match fs::create_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    };
    let found = made.and_then(|()| fs::metadata(&path));
    let id = CgroupId(found.map_err(|source| PlaceError::Make { path: path.clone(), source })?.ino());
    Ok((path, id))
}

/// Its cgroup in the guarded root, if there is one.
pub fn find(root: &Path) -> Option<CgroupId> {
    fs::metadata(root.join(FOLDER)).ok().map(|folder| CgroupId(folder.ino()))
}

/// Removes its cgroup from the guarded root, if it is there.
pub fn remove(root: &Path) -> Result<(), PlaceError> {
    let path = root.join(FOLDER);
    match fs::remove_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| PlaceError::Remove { path, source }),
    }
}

/// What the canary's process enters before it tries anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrance {
    pub cgroup: PathBuf,
    /// The network namespace of the host, as hostNetwork pods have it.
    pub network: PathBuf,
}

impl Entrance {
    /// Moves the calling process there, which must have one thread.
    pub fn enter(&self) -> Result<(), PlaceError> {
        // Where cgroup2 is mounted with `nsdelegate`, nobody may leave the part of the tree that its cgroup namespace shows.
        // It is not always mounted so: whether this was needed shows below.
        let _ = File::open(HOST_CGROUPS).and_then(|cgroups| Ok(setns(cgroups, CloneFlags::CLONE_NEWCGROUP)?));
        let procs = File::options().write(true).open(self.cgroup.join("cgroup.procs"));
        procs
            .and_then(|mut procs| procs.write_all(b"0"))
            .map_err(|source| PlaceError::Cgroup { path: self.cgroup.clone(), source })?;
        File::open(&self.network)
            .and_then(|network| Ok(setns(network, CloneFlags::CLONE_NEWNET)?))
            .map_err(|source| PlaceError::Network { path: self.network.clone(), source })
    }
}
