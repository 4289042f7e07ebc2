//! Where a pod's network is: the namespace of its sandbox, found without trusting the tenant.
//!
//! The sandbox's own process ("pause") starts before any container of the pod, and Kubernetes does not list it: the
//! oldest process outside the listed containers is the one. CRI-O holds a sandbox without a process: there the runtime
//! has mounted the namespace itself, and the pod's processes only say which of its mounts it is.

use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// The network of a sandbox, and what holds it.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) namespace: File,
    pub(super) holder: Holder,
}

/// What says that a sandbox is still there.
#[derive(Debug)]
pub(super) enum Holder {
    /// The host's network, which stays.
    Host,
    /// The sandbox's process.
    Process(OwnedFd),
    /// The runtime's mount of the namespace, by its path and inode number.
    Mount(PathBuf, u64),
}

impl Holder {
    /// Whether a mount is still what it was. Of a process its descriptor tells.
    pub(super) fn is_there(&self) -> bool {
        match self {
            Self::Host | Self::Process(_) => true,
            Self::Mount(path, inode) => fs::metadata(path).is_ok_and(|found| found.ino() == *inode),
        }
    }
}

/// A process of a pod.
struct Process {
    id: i32,
    /// In clock ticks since boot.
    started: u64,
    in_listed_container: bool,
}

/// Finds the sandbox of the pod whose cgroup is `folder`; none while it has no network of its own yet. `is_listed` says
/// of a container's folder whether Kubernetes lists the container. `host` is the inode number of the host's namespace,
/// in which the runtime's helpers run, and for a moment the sandbox's process too.
pub(super) fn find(
    folder: &Path,
    is_listed: impl Fn(&str) -> bool,
    host: u64,
    mounts: &Path,
) -> io::Result<Option<Sandbox>> {
    let mut processes = processes(folder, is_listed)?;
    processes.sort_by_key(|process| process.started);
    for process in processes.iter().filter(|process| !process.in_listed_container) {
        if let Some(sandbox) = held_by_process(process.id, host)? {
            return Ok(Some(sandbox));
        }
    }
    for process in &processes {
        let Some(inode) = namespace_inode(process.id)?.filter(|inode| *inode != host) else { continue };
        if let Some(sandbox) = held_by_mount(mounts, inode)? {
            return Ok(Some(sandbox));
        }
    }
    Ok(None)
}

fn held_by_process(process: i32, host: u64) -> io::Result<Option<Sandbox>> {
    let Some(id) = Pid::from_raw(process) else { return Ok(None) };
    // The descriptor first: once it is there, the number can't have become another process's unless it says so.
    let Some(pidfd) = unless_gone(pidfd_open(id, PidfdFlags::NONBLOCK).map_err(io::Error::from))? else {
        return Ok(None);
    };
    let Some(namespace) = unless_gone(File::open(format!("/proc/{process}/ns/net")))? else {
        return Ok(None);
    };
    if namespace.metadata()?.ino() == host || has_ended(&pidfd)? {
        return Ok(None);
    }
    Ok(Some(Sandbox { namespace, holder: Holder::Process(pidfd) }))
}

fn held_by_mount(mounts: &Path, inode: u64) -> io::Result<Option<Sandbox>> {
    let Some(entries) = unless_gone(fs::read_dir(mounts))? else { return Ok(None) };
    for entry in entries {
        let path = entry?.path();
        let Some(namespace) = unless_gone(File::open(&path))? else { continue };
        if namespace.metadata()?.ino() == inode {
            return Ok(Some(Sandbox { namespace, holder: Holder::Mount(path, inode) }));
        }
    }
    Ok(None)
}

fn namespace_inode(process: i32) -> io::Result<Option<u64>> {
    let metadata = unless_gone(fs::metadata(format!("/proc/{process}/ns/net")))?;
    Ok(metadata.map(|metadata| metadata.ino()))
}

/// The processes in the containers of a pod, not in what a tenant makes below them.
fn processes(folder: &Path, is_listed: impl Fn(&str) -> bool) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for container in unless_gone(fs::read_dir(folder))?.into_iter().flatten() {
        let container = container?;
        if !container.file_type()?.is_dir() {
            continue;
        }
        let in_listed_container = container.file_name().to_str().is_some_and(&is_listed);
        let listed = unless_gone(fs::read_to_string(container.path().join("cgroup.procs")))?;
        for id in listed.unwrap_or_default().lines().filter_map(|line| line.parse().ok()) {
            let status = unless_gone(fs::read_to_string(format!("/proc/{id}/stat")))?;
            if let Some(started) = status.as_deref().and_then(start_time) {
                found.push(Process { id, started, in_listed_container });
            }
        }
    }
    Ok(found)
}

/// The 22nd field of /proc/PID/stat. The second, the process's name, may hold anything.
fn start_time(status: &str) -> Option<u64> {
    let (_, after_name) = status.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn has_ended(pidfd: &OwnedFd) -> io::Result<bool> {
    let mut pidfd = [PollFd::new(pidfd, PollFlags::IN)];
    Ok(poll(&mut pidfd, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
}

/// What vanishes while it is looked at is no error: a process that ends (ESRCH), a cgroup that is removed (ENODEV).
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENODEV)) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_whatever_the_name_is() {
        let fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        let status = format!("7 (a) b (c) {}", fields.join(" "));
        assert_eq!(start_time(&status), Some(22));
        assert_eq!(start_time("7 (a"), None);
        assert_eq!(start_time("7 (a) S 1"), None);
    }

    #[test]
    fn a_pod_that_is_gone_has_no_sandbox() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let found = find(&folder.path().join("gone"), |_| false, 0, folder.path()).expect("nothing to read");
        assert!(found.is_none());
    }
}
