use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::report::HttpReport;
use crate::binary::binary;
use crate::place::Place;
use crate::process::successful;

/// The address that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Family {
    V4,
    V6,
    /// The IPv4 address through an IPv6 socket
    Mapped,
}

impl Place {
    /// Performs every [`Case`](super::Case) from here, and returns what came back.
    pub fn besiege_by_http(&self, family: Family) -> Result<Vec<HttpReport>> {
        let family = family.to_possible_value().context("every family has a name")?;
        let mut command = Command::new(binary("guard-attack")?);
        command.args(["http", "--family", family.get_name()]);
        let printed = successful(self.run(command)?)?;
        let report =
            |line| serde_json::from_str(line).with_context(|| format!("guard-attack printed {line:?}"));
        printed.lines().map(report).collect()
    }
}
