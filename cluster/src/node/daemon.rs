use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Setting;

/// How long anything here may take to be ready. A busy machine of two cores needs a third of it.
const READY_WITHIN: Duration = Duration::from_mins(2);

/// How long to leave the machine alone between two looks: a look is a program of its own.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// How much of a log is shown when its daemon ended.
const LAST_LINES: usize = 12;

/// A daemon of the node. Dropping it kills it.
pub(super) struct Daemon {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `program` with nothing of the machine's environment but what finds programs.
    pub(super) fn start<A: AsRef<OsStr>>(
        setting: &Setting<'_>,
        name: &'static str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        let log = setting.folder.logs().join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("open {}", log.display()))?;
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {name} ({})", program.display()))?;
        Ok(Self { name, child, log })
    }

    /// Waits until `ready` says so; an error with the end of its log when it ends before.
    pub(super) fn wait_until(&mut self, what: &str, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let expired = Instant::now() >= deadline;
            if ready()? {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}):\n{}", self.name, self.last_lines());
            }
            if expired {
                bail!("waited {READY_WITHIN:?} in vain for {what}; its log ends:\n{}", self.last_lines());
            }
            thread::sleep(BETWEEN_LOOKS);
        }
    }

    fn last_lines(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
