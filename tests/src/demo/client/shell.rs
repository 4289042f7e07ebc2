use std::collections::BTreeMap;
use std::env;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::Result;

use crate::demo::interrupt::Interrupt;
use crate::place::Place;
use crate::process::piped;
use crate::wait::wait_until;

/// How long one process of a client may take: longer than any client's own patience.
pub(in crate::demo) const RUN_WITHIN: Duration = Duration::from_secs(30);

/// Where a client's processes run.
pub(super) struct Shell<'a> {
    pub(super) pod: &'a Place,
    pub(super) environment: &'a BTreeMap<String, String>,
    pub(super) interrupt: &'a Interrupt,
}

impl Shell<'_> {
    /// Runs a program to its end, or until somebody asks the demo to end: then it is killed.
    pub(super) fn run(&self, mut command: Command) -> Result<Output> {
        command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default()).envs(self.environment);
        let program = command.get_program().to_string_lossy().into_owned();
        let mut process = self.pod.spawn(piped(command))?;
        wait_until(RUN_WITHIN, &format!("{program} to end"), || {
            self.interrupt.is_set() || !process.is_running()
        })?;
        self.interrupt.check()?;
        process.output(RUN_WITHIN)
    }
}
