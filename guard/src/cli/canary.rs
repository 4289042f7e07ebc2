use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;

use crate::canary::{Entrance, Target, converse};

/// Try to reach IMDS from a cgroup, in the ways that are named on the standard input. The agent runs this itself.
#[derive(Args, Debug)]
pub(super) struct Canary {
    #[arg(long)]
    cgroup: PathBuf,
    #[arg(long)]
    network: PathBuf,
    #[arg(long)]
    ipv4: Option<Ipv4Addr>,
    #[arg(long)]
    ipv6: Option<Ipv6Addr>,
}

impl Canary {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let entrance = Entrance { cgroup: self.cgroup, network: self.network };
        let target = Target { v4: self.ipv4, v6: self.ipv6 };
        converse(&entrance, &target, io::stdin().lock(), io::stdout().lock())?;
        Ok(ExitCode::SUCCESS)
    }
}
