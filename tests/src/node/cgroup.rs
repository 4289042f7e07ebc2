use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::wait::wait_until;

/// What every tree of a test begins with, below the mount.
const PREFIX: &str = "imds-guard-test-";

/// How long killed processes may take to leave a cgroup.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);

/// A cgroup, by its folder. It stays when the value is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A cgroup below this one that is there already.
    pub(super) fn child(&self, name: &str) -> Self {
        Self(self.0.join(name))
    }

    /// Makes a cgroup below this one.
    pub(crate) fn create(&self, name: &str) -> Result<Self> {
        let child = self.child(name);
        fs::create_dir(&child.0).with_context(|| format!("make the cgroup {}", child.0.display()))?;
        Ok(child)
    }

    /// The cgroup `name` at the top of this machine's tree, there or not.
    pub fn at_top(name: &str) -> Result<Self> {
        Ok(Self(mount_point()?.join(name)))
    }

    pub(crate) fn remove(&self) -> Result<()> {
        self.remove_within(EMPTY_WITHIN)
    }

    /// Kills every process in it and below it, then removes it and all below it. One that is gone is no error.
    pub fn remove_within(&self, within: Duration) -> Result<()> {
        match fs::write(self.0.join("cgroup.kill"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            killed => killed.with_context(|| format!("kill the processes of {}", self.0.display()))?,
        }
        // The kernel refuses to remove a cgroup until the last killed process has let go of it.
        let what = format!("the cgroup {} to be removed", self.0.display());
        wait_until(within, &what, || remove_tree(&self.0).is_ok())
    }
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

/// The tree of cgroups of one test, removed when dropped.
///
/// A lock on its folder says that its owner lives: the kernel gives it back however the owner ends, and a process
/// id that is used again cannot be mistaken for the owner.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) mount: PathBuf,
    pub(super) root: Cgroup,
    _owned: Flock<File>,
}

impl Tree {
    /// Makes an empty tree, after removing the trees of owners that are gone.
    pub(super) fn create() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mount = mount_point()?;
        sweep(&mount)?;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let root = Cgroup(mount.clone()).create(&format!("{PREFIX}{}-{number}", process::id()))?;
            // Another test's sweep can find the folder before it is locked: it is that one's then.
            match lock(root.path()) {
                Some(owned) if root.path().exists() => return Ok(Self { mount, root, _owned: owned }),
                _ => {}
            }
        }
    }

    /// The path of one of its cgroups, relative to the mount.
    pub(super) fn relative(&self, cgroup: &Cgroup) -> PathBuf {
        cgroup.path().strip_prefix(&self.mount).unwrap_or(cgroup.path()).to_owned()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if let Err(error) = self.root.remove() {
            eprintln!("left behind: {error:#}");
        }
    }
}

/// Removes the trees whose owners are gone.
fn sweep(mount: &Path) -> Result<()> {
    for entry in fs::read_dir(mount).with_context(|| format!("list {}", mount.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Some(_owned) = lock(&entry.path())
        {
            Cgroup(entry.path()).remove()?;
        }
    }
    Ok(())
}

/// Locks a folder; `None` if it is locked by somebody else or gone.
fn lock(folder: &Path) -> Option<Flock<File>> {
    Flock::lock(File::open(folder).ok()?, FlockArg::LockExclusiveNonblock).ok()
}

/// Where cgroup v2 is mounted.
fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    find_mount(&mounts).context("cgroup v2 is not mounted")
}

/// The fifth field is the mount point; the type follows a lone dash, after a varying number of fields.
fn find_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        filesystem.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_on_hybrid_and_unified_hosts() {
        let hybrid = "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        let unified = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw\n";
        let cases = [
            (hybrid, Some("/sys/fs/cgroup/unified")),
            (unified, Some("/sys/fs/cgroup")),
            ("1 2 0:3 / / rw - ext4 a rw", None),
        ];
        for (mountinfo, expected) in cases {
            assert_eq!(find_mount(mountinfo), expected.map(PathBuf::from));
        }
    }
}
