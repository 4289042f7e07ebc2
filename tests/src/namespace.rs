//! Network namespaces, held by a file descriptor.
//!
//! No namespace here has a name or a mount: the kernel ends it, with every link in it, when the last descriptor,
//! process and socket in it is gone. A test that is killed leaves none behind.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::{io, process, thread};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};

use crate::process::{piped, successful};

/// A network namespace. Clones are the same namespace.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<OwnedFd>);

impl Namespace {
    /// Makes an empty network namespace, its loopback link still down.
    pub fn create() -> Result<Self> {
        // `unshare` moves a thread, so a thread is spent on it.
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare the network namespace")?;
            let namespace =
                File::open("/proc/thread-self/ns/net").context("open the new network namespace")?;
            Ok(Self(Arc::new(namespace.into())))
        })
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> Result<()> {
        setns(&self.0, CloneFlags::CLONE_NEWNET).context("enter a network namespace")
    }

    /// Does `work` inside the namespace, on a thread of its own. Processes that it starts are inside too.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_own_thread(|| {
            self.enter()?;
            work()
        })
    }

    /// A path by which other processes, `ip` above all, find the namespace for as long as this value lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd())
    }

    /// Gives `lines` to iproute2 inside the namespace, in one go: a process for every line would take most of the time.
    pub(crate) fn ip(&self, lines: &str) -> Result<()> {
        self.feed("ip", &["-batch", "-"], lines)
    }

    /// Gives a ruleset to nft inside the namespace.
    pub(crate) fn nft(&self, ruleset: &str) -> Result<()> {
        self.feed("nft", &["-f", "-"], ruleset)
    }

    fn feed(&self, program: &str, arguments: &[&str], input: &str) -> Result<()> {
        let output = self.run(|| {
            let mut command = Command::new(program);
            command.args(arguments);
            let mut child = piped(command).spawn().with_context(|| format!("start {program}"))?;
            let mut stdin = child.stdin.take().context("a piped input")?;
            stdin.write_all(input.as_bytes()).with_context(|| format!("write to {program}"))?;
            drop(stdin);
            child.wait_with_output().with_context(|| format!("wait for {program}"))
        })?;
        successful(output).map(drop).with_context(|| format!("give {program}:\n{input}"))
    }

    /// Sets a sysctl of this namespace, named by its path below `/proc/sys/net`. The calling thread must be inside.
    pub(crate) fn set_sysctl_inside(path: &str, value: &str) -> Result<()> {
        match std::fs::write(format!("/proc/sys/net/{path}"), value) {
            // A kernel without the feature has no such file; the vector that needs it says so itself.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.with_context(|| format!("set the sysctl net/{path}")),
        }
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
