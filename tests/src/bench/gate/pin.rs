use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// One CPU for the servers and another for whoever asks them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpus {
    pub(super) servers: usize,
    pub(super) client: usize,
}

impl Cpus {
    /// The first and the last that this process may use; the same where there is only one.
    pub(super) fn find() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("ask which CPUs are there")?;
        let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true));
        let servers = cpus.next().context("no CPU is there")?;
        Ok(Self { servers, client: cpus.next_back().unwrap_or(servers) })
    }
}

/// Does `work` on one CPU. Processes that it starts stay there.
pub(super) fn on<T>(cpu: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this).context("ask which CPUs are there")?;
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(this, &only).context("stay on one CPU")?;
    let done = work();
    sched_setaffinity(this, &before).context("leave the CPU")?;
    done
}
