use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, io};

use anyhow::{Context, Result};
use guard_tests::wait_for;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

/// Where the cluster's folder is if nobody says otherwise. There is one cluster on a machine: its pods' cgroups have
/// fixed names.
pub const FOLDER: &str = "/run/imds-guard-cluster";

/// How long somebody who only looks may hold the lock.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// The folder of a cluster: what lies where. The node sees it at the same path.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

/// What a running cluster tells of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Running {
    /// A process in all of the node's namespaces.
    pub(crate) process: i32,
    pub(crate) kubectl: PathBuf,
    pub(crate) python: PathBuf,
}

impl Folder {
    /// The folder that `$IMDS_GUARD_CLUSTER` names, else the usual one.
    pub fn usual() -> Self {
        Self(env::var_os("IMDS_GUARD_CLUSTER").map_or_else(|| FOLDER.into(), PathBuf::from))
    }

    /// The cluster's folder at `path`.
    pub const fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the running cluster tells of itself; there once it is ready.
    pub fn running(&self) -> PathBuf {
        self.0.join("cluster.json")
    }

    /// How `kubectl` and others reach the API server, from the node's namespaces.
    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }

    /// What IMDS saw, a line of JSON for every request.
    pub fn imds(&self) -> PathBuf {
        self.0.join("imds.jsonl")
    }

    /// What the agent asked of the API server, a line of JSON for every request.
    pub fn audit(&self) -> PathBuf {
        self.0.join("audit.log")
    }

    /// Where the kubelet finds static pods.
    pub fn static_pods(&self) -> PathBuf {
        self.0.join("static")
    }

    /// Where every daemon's log is.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// The socket by which the API server is stopped and started.
    pub fn control(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// Makes the folder, empty, and owns it for as long as the lock is kept. `None` if a running cluster owns it.
    pub(crate) fn own(&self) -> Result<Option<Flock<File>>> {
        fs::create_dir_all(&self.0).with_context(|| format!("make the folder {}", self.0.display()))?;
        let owned = wait_for(LOOK_WITHIN, "the lock", || self.lock(FlockArg::LockExclusiveNonblock));
        let Ok(owned) = owned else { return Ok(None) };
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            if path == self.lock_path() {
                continue;
            }
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("remove what an earlier cluster left, {}", path.display()))?;
        }
        for folder in [self.static_pods(), self.logs()] {
            fs::create_dir(&folder).with_context(|| format!("make the folder {}", folder.display()))?;
        }
        Ok(Some(owned))
    }

    /// Whether a cluster owns the folder, ready or not.
    pub fn is_owned(&self) -> bool {
        self.lock_path().exists() && self.lock(FlockArg::LockSharedNonblock).is_none()
    }

    /// What the cluster is, in a word: `ready`, `starting` or `none`.
    pub fn state(&self) -> Result<&'static str> {
        Ok(match self.read_running()? {
            Some(_) => "ready",
            None if self.is_owned() => "starting",
            None => "none",
        })
    }

    /// What the cluster tells that owns the folder now; `None` when there is none or it is not ready.
    pub(crate) fn read_running(&self) -> Result<Option<Running>> {
        if !self.is_owned() {
            return Ok(None);
        }
        let text = match fs::read(self.running()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("read {}", self.running().display()))?,
        };
        let running: Running =
            serde_json::from_slice(&text).with_context(|| format!("parse {}", self.running().display()))?;
        // A cluster that just starts may not have removed yet what a killed one told.
        let lives = Path::new("/proc").join(running.process.to_string()).exists();
        Ok(lives.then_some(running))
    }

    /// Tells the world that the cluster is ready.
    pub(crate) fn write_running(&self, running: &Running) -> Result<()> {
        let aside = self.0.join("cluster.json.new");
        fs::write(&aside, serde_json::to_vec_pretty(running)?)
            .and_then(|()| fs::rename(&aside, self.running()))
            .with_context(|| format!("write {}", self.running().display()))
    }

    /// The process that supervises the cluster, as it wrote it down.
    pub(crate) fn supervisor(&self) -> Result<i32> {
        let path = self.lock_path();
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        text.trim().parse().with_context(|| format!("{} names no process", path.display()))
    }

    fn lock_path(&self) -> PathBuf {
        self.0.join("lock")
    }

    fn lock(&self, how: FlockArg) -> Option<Flock<File>> {
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(self.lock_path());
        Flock::lock(file.ok()?, how).ok()
    }
}
