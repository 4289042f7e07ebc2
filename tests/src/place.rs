use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result};

use serde::de::DeserializeOwned;

use crate::attack::{Props, Report, Staged, Vector};
use crate::binary::binary;
use crate::capabilities::Capabilities;
use crate::namespace::Namespace;
use crate::node::Cgroup;
use crate::process::{Process, piped, successful};

/// How long a program that is run to its end may take.
const RUN_WITHIN: Duration = Duration::from_mins(1);

/// Where processes run: a cgroup and a network namespace, and what they may do there.
#[derive(Clone, Debug)]
pub struct Place {
    cgroup: Cgroup,
    namespace: Namespace,
    capabilities: Capabilities,
}

impl Place {
    pub(crate) fn new(cgroup: Cgroup, namespace: Namespace) -> Self {
        Self { cgroup, namespace, capabilities: Capabilities::All }
    }

    /// The folder of the cgroup.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// The network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Another network in the same cgroup.
    pub(crate) fn in_namespace(&self, namespace: Namespace) -> Self {
        Self { namespace, ..self.clone() }
    }

    /// The network of `other` in the cgroup of this one: a process that reaches into a pod from outside.
    #[must_use]
    pub fn inside_network_of(&self, other: &Self) -> Self {
        self.in_namespace(other.namespace.clone())
    }

    /// The same place with other capabilities.
    #[must_use]
    pub fn with(&self, capabilities: Capabilities) -> Self {
        Self { capabilities, ..self.clone() }
    }

    /// The same network in a new cgroup below this one.
    pub fn add_sub_cgroup(&self, name: &str) -> Result<Self> {
        Ok(Self { cgroup: self.cgroup.create(name)?, ..self.clone() })
    }

    /// Starts a process here: in the cgroup and the network namespace from its first instruction.
    pub fn spawn(&self, command: Command) -> Result<Process> {
        let procs = self.cgroup.path().join("cgroup.procs");
        let procs = OpenOptions::new()
            .write(true)
            .open(&procs)
            .with_context(|| format!("open {}", procs.display()))?;
        Process::spawn(command, procs, &self.namespace, self.capabilities)
    }

    /// Runs a program here to its end and returns what it printed.
    pub fn run(&self, command: Command) -> Result<Output> {
        self.spawn(piped(command))?.output(RUN_WITHIN)
    }

    /// Performs one attack from here.
    pub fn attack(&self, vector: Vector) -> Result<Report> {
        self.stage(vector)?.proceed()
    }

    /// Starts an attack that needs more than IMDS, up to its pause if it has one.
    pub fn stage_with(&self, vector: Vector, props: &Props) -> Result<Staged> {
        Staged::start_with(self, vector, props)
    }

    /// Turns on a gate itself from here, with arguments of `guard-attack gate`, and returns what that prints.
    pub fn attack_gate<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let mut command = Command::new(binary("guard-attack")?);
        command.arg("gate").args(arguments);
        let printed = successful(self.run(command)?)?;
        serde_json::from_str(&printed).with_context(|| format!("read {printed}"))
    }

    /// The same, started and left to a conversation.
    pub fn begin_attack_on_gate(&self, arguments: &[&str]) -> Result<Process> {
        let mut command = Command::new(binary("guard-attack")?);
        command.arg("gate").args(arguments);
        self.spawn(piped(command))
    }

    /// Starts an attack from here up to its pause: its socket is open, connected if the vector says so.
    pub fn stage(&self, vector: Vector) -> Result<Staged> {
        Staged::start(self, vector)
    }
}
