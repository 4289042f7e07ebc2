//! The least that any program on these hooks can cost: programs of two instructions that let everything pass.

use std::path::Path;

use anyhow::Result;

use crate::hook::{EmptyProgram, Hook};

/// Empty programs at every hook of one cgroup. Dropping it detaches them.
#[derive(Debug)]
pub(super) struct Floor {
    _programs: Vec<EmptyProgram>,
}

impl Floor {
    pub(super) fn attach(cgroup: &Path) -> Result<Self> {
        let programs = Hook::ALL.map(|hook| hook.attach_empty(cgroup));
        Ok(Self { _programs: programs.into_iter().collect::<Result<_>>()? })
    }
}
