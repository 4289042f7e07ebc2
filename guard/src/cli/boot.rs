use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;

use super::{
    block_on,
    host::{Host, PIN_PATH},
};
use crate::{
    agent::chain,
    backstop::Parts,
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
            guarded_root,
            state_folder: self.state_dir,
            pin_path: self.pin_path,
            host_network: self.host_network,
            endpoints,
        };
        match block_on(async { Ok(boot(&settings)?) })? {
            Booted::NothingRemembered => println!(
                "nothing to guard by: no agent has accepted a policy here yet ({})",
                settings.state_folder.display()
            ),
            Booted::Stands => println!("the guard stands already"),
            Booted::Guarded { root, policy, pods, backstop } => {
                println!("guarding {} by the policy {policy}, with rulings for {pods} pods", root.display());
                let Parts { forward, uplink, bypass } = match backstop {
                    Ok(parts) => parts,
                    Err(error) => {
                        println!("without the backstop: {}", chain(&error));
                        return Ok(ExitCode::SUCCESS);
                    }
                };
                for (part, stands) in [("forward", forward), ("uplink", uplink), ("bypass", bypass)] {
                    if let Err(error) = stands {
                        println!("without the backstop's part `{part}`: {error}");
                    }
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
