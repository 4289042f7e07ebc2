use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;

use super::host::{Host, PIN_PATH};
use crate::{
    boot::{BootSettings, Booted, boot},
    endpoints::Endpoints,
    kernel::probe::Facts,
};

/// Guard this node from its start, before the kubelet: by the policy and for the pods that the agent knew last.
///
/// It attaches the programs and ends; the agent takes them over once it runs. Until then gates are missing, so who is
/// allowed goes straight only on the host's network. On a node where no agent has run it does nothing: there the start-up
/// taint stands.
#[derive(Args, Debug)]
pub(super) struct Boot {
    /// The agent's folder, with the policy that was accepted last and the pods that were known last
    #[arg(long, value_name = "PATH", default_value = "/var/lib/imds-guard")]
    state_dir: PathBuf,

    /// A folder in bpffs, where the agent finds the guard
    #[arg(long, value_name = "PATH", default_value = PIN_PATH)]
    pin_path: PathBuf,

    /// The host's network namespace, where what is forwarded is stopped
    #[arg(long, value_name = "PATH", default_value = "/proc/1/ns/net")]
    host_network: PathBuf,

    #[command(flatten)]
    host: Host,
}

impl Boot {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Host { cgroup_mount, guarded_root, endpoint } = self.host;
        let endpoints = Endpoints::with(&endpoint)?;
        let facts = Facts::probe(cgroup_mount.as_deref(), guarded_root.as_deref());
        let mount = facts.cgroup_mount.context(
            "cgroup v2 is not mounted: name its mount with --cgroup-mount, or see `imds-guard doctor`",
        )?;
        let settings = BootSettings {
            cgroup_mount: mount.path,
            guarded_root: guarded_root.or(facts.guarded_root).unwrap_or_else(usual_root),
            state_folder: self.state_dir,
            pin_path: self.pin_path,
            endpoints,
        };
        match boot(&settings)? {
            Booted::NothingRemembered => println!(
                "nothing to guard by: no agent has accepted a policy here yet ({})",
                settings.state_folder.display()
            ),
            Booted::Stands => println!("the guard stands already"),
            Booted::Guarded { policy, pods } => println!(
                "guarding {} by the policy {policy}, with rulings for {pods} pods",
                settings.guarded_root.display()
            ),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What the kubelet will make: a slice where systemd runs, unless it is told to do without.
fn usual_root() -> PathBuf {
    let has_systemd = std::path::Path::new("/run/systemd/system").exists();
    PathBuf::from(if has_systemd { "kubepods.slice" } else { "kubepods" })
}
