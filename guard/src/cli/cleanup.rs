use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::bail;
use clap::Args;
use hyper::Method;
use tokio::{
    net::UnixStream,
    signal::unix::{SignalKind, signal},
    task::LocalSet,
    time::{Instant, sleep},
};

use super::{block_on, host::PIN_PATH};
use crate::{agent, backstop, canary, client, kernel, pods, sinks::api};

/// Remove the guard from this node: programs, pins, and what else stays when the agent ends.
///
/// An agent that still runs leaves off first; it must not be started again. Nothing is touched that is not imds-guard's
/// own.
#[derive(Args, Debug)]
pub(super) struct Cleanup {
    /// The folder in bpffs where the guard is
    #[arg(long, value_name = "PATH", default_value = PIN_PATH)]
    pin_path: PathBuf,

    /// The socket of an agent that may still run
    #[arg(long, value_name = "PATH", default_value = client::SOCKET)]
    socket: PathBuf,

    /// The host's network namespace, where the backstop is
    #[arg(long, value_name = "PATH", default_value = "/proc/1/ns/net")]
    host_network: PathBuf,

    /// A folder of an agent's, of which what it remembers is removed too
    #[arg(long, value_name = "PATH")]
    state_dir: Option<PathBuf>,

    /// The cgroup v2 mount, in which the agent's self-test has a cgroup. Left out: found in /proc/self/mountinfo
    #[arg(long, value_name = "PATH")]
    cgroup_mount: Option<PathBuf>,

    /// The cgroup under which all pods live, relative to the mount. Left out: it is looked for
    #[arg(long, value_name = "PATH")]
    guarded_root: Option<PathBuf>,

    /// Stay until ended, once everything is removed: for a DaemonSet that cleans up
    #[arg(long)]
    wait: bool,

    /// Where to say, meanwhile, that the node is clean: /readyz and /healthz
    #[arg(long, value_name = "ADDRESS", requires = "wait")]
    listen: Option<SocketAddr>,
}

/// How long a running agent may take to leave off.
const OWNED_WITHIN: Duration = Duration::from_secs(10);

impl Cleanup {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        block_on(LocalSet::new().run_until(async {
            self.remove().await?;
            if let Some(address) = self.listen {
                agent::say_ready(address).await?;
            }
            if self.wait {
                signal(SignalKind::terminate())?.recv().await;
            }
            Ok(ExitCode::SUCCESS)
        }))
    }

    async fn remove(&self) -> anyhow::Result<()> {
        if let Ok(stream) = UnixStream::connect(&self.socket).await {
            // One that does not answer still has the lock.
            let _ = client::send(stream, Method::POST, api::HAND_OVER).await;
        }
        if self.pin_path.exists() {
            let _lock = self.own().await?;
            kernel::remove_all(&self.pin_path)?;
            println!("removed  the programs and maps below {}", self.pin_path.display());
        } else {
            println!("nothing  is pinned at {}", self.pin_path.display());
        }
        match backstop::remove(&self.host_network) {
            Ok(()) => println!("removed  the backstop in {}", self.host_network.display()),
            // A host without a packet filter has none.
            Err(error) => eprintln!("left     the backstop, if there is one: {}", agent::chain(&error)),
        }
        if let Err(error) = self.remove_canary() {
            // An empty cgroup does nothing.
            eprintln!("left     the cgroup of the self-test: {error:#}");
        }
        // Nobody listens there any more, or will soon not.
        let _ = std::fs::remove_file(&self.socket);
        if let Some(folder) = &self.state_dir {
            crate::memory::forget(folder)?;
            println!("removed  what was remembered in {}", folder.display());
        }
        Ok(())
    }

    fn remove_canary(&self) -> anyhow::Result<()> {
        let mounts = || pods::find_cgroup2_mount(&std::fs::read_to_string("/proc/self/mountinfo").ok()?);
        let Some(mount) = self.cgroup_mount.clone().or_else(mounts) else { return Ok(()) };
        let root = match &self.guarded_root {
            Some(root) => Some(root.clone()),
            None => pods::find_guarded_root(&mount)?,
        };
        match root {
            Some(root) => Ok(canary::remove(&mount.join(root))?),
            None => Ok(()),
        }
    }

    /// Waits until no agent guards any more.
    async fn own(&self) -> anyhow::Result<impl Drop + use<>> {
        let deadline = Instant::now() + OWNED_WITHIN;
        loop {
            match kernel::try_lock(&self.pin_path)? {
                Some(lock) => return Ok(lock),
                None if Instant::now() > deadline => {
                    bail!(
                        "an agent guards this node and does not leave off at {}: end it first",
                        self.socket.display()
                    )
                }
                None => sleep(Duration::from_millis(50)).await,
            }
        }
    }
}
