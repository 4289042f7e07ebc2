//! One virtual machine from its start to its end, and what it said.
//!
//! The processor is emulated (TCG): nothing is asked of the host's, so that the same machines run in CI and in other
//! virtual machines. There is no network card and no disk; the serial line is the only way out.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{arch::Arch, kernel::Kernel};
use crate::run::counted;

/// How long a machine may take in all. It is several times what it takes on two idle processors.
const PATIENCE: Duration = Duration::from_mins(8);

/// Two, so that what the kernel keeps for each processor is more than one thing.
const PROCESSORS: &str = "2";

/// What a machine was seen to do.
#[derive(Default)]
pub(super) struct Course {
    pub(super) suites: Vec<Suite>,
    /// Lines of JSON: vector, pod, result.
    pub(super) attacks: Vec<String>,
    /// What the kernel complained of.
    pub(super) complaints: Vec<String>,
    /// From the start to the first suite.
    pub(super) boot: Duration,
    /// Whether it came to its end.
    pub(super) ended: bool,
}

/// What became of one test program.
#[derive(Default)]
pub(super) struct Suite {
    pub(super) name: String,
    pub(super) passed: u64,
    pub(super) failed: u64,
    /// What this kernel can't do, as the tests say it.
    pub(super) skipped: Vec<String>,
    pub(super) took: Duration,
    /// `None` while it runs.
    pub(super) status: Option<i32>,
    /// What it printed.
    pub(super) printed: Vec<String>,
}

impl Suite {
    /// Whether it ended, and well. One that ran no test has not tested anything.
    pub(super) fn is_good(&self) -> bool {
        self.status == Some(0) && self.failed == 0 && self.passed > 0
    }
}

/// Boots a kernel with an initramfs and reads what it says until it is off, writing everything to `log` too.
pub(super) fn run(arch: Arch, kernel: &Kernel, initramfs: &Path, log: &Path) -> Result<Course> {
    let (emulator, machine) = arch.emulator();
    // The emulator ends with us, however we end.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", emulator]).args(machine);
    command.args(["-accel", "tcg,thread=multi", "-nodefaults", "-display", "none", "-no-reboot"]);
    command.args(["-serial", "stdio", "-m", "1536M", "-smp", PROCESSORS]);
    command.arg("-kernel").arg(kernel.image()?).arg("-initrd").arg(initramfs);
    // Nobody attacks the processor, and what would hinder that costs an emulated one much.
    let settings = format!("console={} panic=-1 quiet mitigations=off", arch.console());
    command.args(["-append", &settings]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut running = Running(child.with_context(|| format!("start {emulator}"))?);
    let lines = lines_of(running.0.stdout.take().context("a piped output")?);
    let mut log = File::create(log).with_context(|| format!("make {}", log.display()))?;

    let started = Instant::now();
    let mut course = Course::default();
    let mut since = started;
    while let Some(left) = PATIENCE.checked_sub(started.elapsed()) {
        let Ok(line) = lines.recv_timeout(left) else { break };
        writeln!(log, "{:7.2} {line}", started.elapsed().as_secs_f64()).context("write a log")?;
        if line.starts_with("@@ begin ") {
            if course.suites.is_empty() {
                course.boot = started.elapsed();
            }
            since = Instant::now();
        }
        course.note(&line, since.elapsed());
    }
    if !course.ended {
        let mut said = String::new();
        if running.0.try_wait()?.is_some()
            && let Some(mut stderr) = running.0.stderr.take()
        {
            stderr.read_to_string(&mut said).context("read what the emulator says")?;
        }
        course.complaints.push(match said.trim() {
            "" => "the machine did not come to its end".to_owned(),
            said => format!("{emulator}: {said}"),
        });
    }
    Ok(course)
}

/// A process that is killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines as they come, so that waiting for one can have an end.
fn lines_of(output: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if tell.send(line).is_err() {
                break;
            }
        }
    });
    told
}

impl Course {
    /// Takes in one line, which came `after` the current suite began.
    fn note(&mut self, line: &str, after: Duration) {
        // The kernel may have left half a line of its own before ours.
        let Some((_, order)) = line.split_once("@@ ") else {
            if let Some(suite) = self.suites.last_mut().filter(|suite| suite.status.is_none()) {
                suite.note(line);
            }
            return;
        };
        let (word, rest) = order.split_once(' ').unwrap_or((order, ""));
        match word {
            "begin" => self.suites.push(Suite { name: rest.to_owned(), ..Suite::default() }),
            "end" => {
                if let Some(suite) = self.suites.last_mut() {
                    suite.took = after;
                    suite.status = rest.rsplit(' ').next().and_then(|status| status.parse().ok());
                }
            }
            "attack" => self.attacks.push(rest.to_owned()),
            "complaint" => self.complaints.push(rest.to_owned()),
            "done" => self.ended = true,
            _ => {}
        }
    }
}

impl Suite {
    fn note(&mut self, line: &str) {
        if let Some((_, result)) = line.split_once("test result: ") {
            self.passed = counted(result, "passed");
            self.failed = counted(result, "failed");
        } else if let Some((_, what)) = line.split_once("SKIPPED ") {
            self.skipped.push(what.to_owned());
        }
        self.printed.push(line.to_owned());
    }
}

/// Joins the parts of an initramfs into one file.
pub(super) fn join(parts: &[&[u8]], path: &Path) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("make {}", path.display()))?;
    for part in parts {
        file.write_all(part).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Removes a file that is not needed any more.
pub(super) fn discard(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| format!("remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_says_is_understood() {
        let mut course = Course::default();
        let said = "@@ kernel 6.1.0\n[    1.0] half a line@@ begin attacks\nrunning 2 tests\n\
                    test a_b ... SKIPPED Mptcp: no\nok\ntest c ... FAILED\n\
                    test result: FAILED. 1 passed; 1 failed; 0 ignored\n@@ end attacks 101\n@@ attack {}\n@@ done";
        for line in said.lines() {
            course.note(line, Duration::from_secs(3));
        }
        let [suite] = &course.suites[..] else { panic!("one suite") };
        assert_eq!((suite.name.as_str(), suite.passed, suite.failed), ("attacks", 1, 1));
        assert_eq!((suite.status, suite.took), (Some(101), Duration::from_secs(3)));
        assert_eq!(suite.skipped, ["Mptcp: no"]);
        assert!(!suite.is_good() && course.ended && course.attacks == ["{}"]);
    }
}
