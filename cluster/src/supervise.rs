//! Keeps a cluster: owns its folder, starts the node in namespaces of its own, ends it when asked to, and removes
//! the cgroups that no namespace removes. It knows nothing of Kubernetes.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use guard_tests::{Cgroup, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::folder::Folder;

/// The cgroup that the kubelet makes.
const KUBEPODS: &str = "kubepods";

/// How long a cluster may take to end.
const DOWN_WITHIN: Duration = Duration::from_secs(30);

/// Starts the node with `arguments` for its process and keeps it until it ends or a signal asks for its end.
pub fn serve(folder: &Folder, arguments: &[OsString]) -> Result<()> {
    let Some(mut owned) = folder.own()? else {
        bail!("a cluster runs already in {}: `cargo xtask cluster down` ends it", folder.path().display());
    };
    owned.set_len(0).context("empty the lock file")?;
    writeln!(owned, "{}", std::process::id()).context("write the lock file")?;
    remove_cgroups()?;

    // Before the node is started: the signal of its end must not be missed.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGCHLD]).context("handle signals")?;
    let mut node = start_node(arguments)?;
    let mut asked = false;
    for signal in signals.forever() {
        if signal == SIGCHLD {
            if let Some(status) = node.try_wait().context("wait for the node")? {
                let _ = fs::remove_file(folder.running());
                remove_cgroups()?;
                if asked || status.success() {
                    return Ok(());
                }
                bail!("the node ended ({status}); its logs are in {}", folder.logs().display());
            }
        } else {
            asked = true;
            // The end of its input is the request to end, however this process ends.
            node.stdin.take();
        }
    }
    unreachable!("signals never run out")
}

/// The node's first process lives in new namespaces; the kernel kills it when this one is gone, and with it all others.
fn start_node(arguments: &[OsString]) -> Result<Child> {
    let this = this_program()?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--net", "--uts"])
        .args(["--ipc", "--pid", "--fork", "--kill-child", "--"])
        .arg(this)
        .arg("init")
        .args(arguments);
    // No proxy knows the way to the node's addresses.
    command.env("NO_PROXY", "*");
    command.stdin(Stdio::piped()).spawn().context("start the node's first process (setpriv, unshare)")
}

/// What the node's first process does: it runs this program with `arguments` and adopts everything that loses its parent.
pub fn init(arguments: &[OsString]) -> Result<ExitCode> {
    let child = Command::new(this_program()?).args(arguments).spawn().context("start the node's process")?;
    let child = Pid::from_raw(i32::try_from(child.id()).context("a process id fits")?);
    loop {
        match wait().context("wait for the node's processes")? {
            WaitStatus::Exited(pid, code) if pid == child => {
                return Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from));
            }
            WaitStatus::Signaled(pid, signal, _) if pid == child => bail!("the node was ended by {signal}"),
            _ => {}
        }
    }
}

/// Ends the cluster in `folder` and waits for its end. Says whether there was one.
pub fn down(folder: &Folder) -> Result<bool> {
    if !folder.is_owned() {
        return Ok(false);
    }
    let supervisor = Pid::from_raw(folder.supervisor()?);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        kill(supervisor, signal).with_context(|| format!("send {signal} to the supervisor {supervisor}"))?;
        if wait_until(DOWN_WITHIN, "the cluster to end", || !folder.is_owned()).is_ok() {
            return Ok(true);
        }
    }
    bail!("the supervisor {supervisor} does not end");
}

/// Removes the cgroups of pods that are gone.
fn remove_cgroups() -> Result<()> {
    Cgroup::at_top(KUBEPODS)?.remove_within(DOWN_WITHIN)
}

fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("find this program")
}
