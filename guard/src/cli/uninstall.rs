use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::{block_on, run::object_name};
use crate::kubernetes::{ObjectName, clean_nodes};

/// Remove the guard from every node of a cluster, before its DaemonSet is deleted: its pods are told to clean up.
///
/// It needs the right to read and to patch the DaemonSet. The chart does this by itself before it is uninstalled.
#[derive(Args, Debug)]
pub(super) struct Uninstall {
    /// The agent's DaemonSet
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "imds-guard/imds-guard", value_parser = object_name)]
    daemonset: ObjectName,

    /// How many seconds all nodes may take
    #[arg(long, value_name = "SECONDS", default_value_t = 240)]
    within: u64,
}

impl Uninstall {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let nodes =
            block_on(async { Ok(clean_nodes(&self.daemonset, Duration::from_secs(self.within)).await?) })?;
        println!("cleaned up  {nodes} nodes");
        Ok(ExitCode::SUCCESS)
    }
}
