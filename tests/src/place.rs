use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::attack::{Report, Staged, Vector};
use crate::namespace::Namespace;
use crate::node::Cgroup;
use crate::process::{Process, piped};

/// How long a program that is run to its end may take.
const RUN_WITHIN: Duration = Duration::from_mins(1);

/// Where processes run: a cgroup and a network namespace.
#[derive(Clone, Debug)]
pub struct Place {
    cgroup: Cgroup,
    namespace: Namespace,
}

impl Place {
    pub(crate) fn new(cgroup: Cgroup, namespace: Namespace) -> Self {
        Self { cgroup, namespace }
    }

    /// The folder of the cgroup.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// The network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The same network in a new cgroup below this one.
    pub fn add_sub_cgroup(&self, name: &str) -> Result<Self> {
        Ok(Self { cgroup: self.cgroup.create(name)?, namespace: self.namespace.clone() })
    }

    /// The same cgroup in another network.
    pub(crate) fn in_namespace(&self, namespace: Namespace) -> Self {
        Self { cgroup: self.cgroup.clone(), namespace }
    }

    /// Starts a process here: in the cgroup and the network namespace from its first instruction.
    pub fn spawn(&self, command: Command) -> Result<Process> {
        let procs = self.cgroup.path().join("cgroup.procs");
        let procs = OpenOptions::new()
            .write(true)
            .open(&procs)
            .with_context(|| format!("open {}", procs.display()))?;
        Process::spawn(command, procs, &self.namespace)
    }

    /// Runs a program here to its end and returns what it printed.
    pub fn run(&self, command: Command) -> Result<Output> {
        self.spawn(piped(command))?.output(RUN_WITHIN)
    }

    /// Performs one attack from here.
    pub fn attack(&self, vector: Vector) -> Result<Report> {
        self.stage(vector)?.proceed()
    }

    /// Starts an attack from here up to its pause: its socket is open, connected if the vector says so.
    pub fn stage(&self, vector: Vector) -> Result<Staged> {
        Staged::start(self, vector)
    }
}
