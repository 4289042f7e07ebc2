//! Processes that do not outlive the test: killed when their value is dropped, and by the kernel when the thread
//! that started them ends.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid, write};

use crate::capabilities::Capabilities;
use crate::wait::wait_for;

/// A child process. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Option<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts `command` in a cgroup, given by its open `cgroup.procs`, and in a network namespace, with capabilities.
    /// All hold from the first instruction of the new program.
    pub(crate) fn spawn(
        mut command: Command,
        procs: impl AsFd,
        namespace: impl AsFd,
        capabilities: Capabilities,
    ) -> Result<Self> {
        let described = format!("{command:?}");
        let parent = Pid::this();
        let (procs, namespace) =
            (procs.as_fd().try_clone_to_owned()?, namespace.as_fd().try_clone_to_owned()?);
        let enter = move || -> io::Result<()> {
            // In this order: a child whose parent is already gone must not stay.
            set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != parent {
                return Err(Errno::ESRCH.into());
            }
            write(&procs, b"0")?;
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            capabilities.keep_at_exec()
        };
        #[expect(unsafe_code, reason = "only between fork and exec can a child choose its cgroup for itself")]
        // SAFETY: between fork and exec `enter` makes system calls and nothing else: it takes no lock, allocates
        // nothing, and its descriptors are open for as long as `command` lives.
        unsafe {
            command.pre_exec(enter);
        }
        let child = command.spawn().with_context(|| format!("start {described}"))?;
        Ok(Self { child, lines: None })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a process id fits")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to process {pid}"))
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let what = format!("process {} to end", self.child.id());
        let child = &mut self.child;
        wait_for(within, &what, || child.try_wait().transpose())?.context("wait for a process")
    }

    /// Writes a line to its standard input, which must be a pipe.
    pub fn write_line(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("the standard input is no pipe")?;
        writeln!(stdin, "{line}").context("write to a process")
    }

    /// The next line of its standard output, which must be a pipe; an error at its end. Waits for as long as the
    /// process takes.
    pub fn read_line(&mut self) -> Result<String> {
        let mut lines = self.take_lines()?;
        let mut line = String::new();
        let length = lines.read_line(&mut line).context("read from a process")?;
        self.lines = Some(lines);
        ensure!(length > 0, "the process printed no more");
        Ok(line.trim_end().to_owned())
    }

    /// Its standard output, which must be a pipe, from where it has been read to.
    pub(crate) fn take_lines(&mut self) -> Result<BufReader<ChildStdout>> {
        let lines = self.lines.take().or_else(|| self.child.stdout.take().map(BufReader::new));
        lines.context("the standard output is no pipe")
    }

    /// Everything that it prints from now on, to whichever outputs are pipes, and its exit status. Killed, with an
    /// error, when it does not end in time.
    pub fn output(mut self, within: Duration) -> Result<Output> {
        let deadline = Instant::now() + within;
        let stdout: Option<Box<dyn Read + Send>> = match self.lines.take() {
            Some(lines) => Some(Box::new(lines)),
            None => self.child.stdout.take().map(|pipe| Box::new(pipe) as _),
        };
        let (stdout, stderr) = (read_all(stdout), read_all(self.child.stderr.take()));
        drop(self.child.stdin.take());
        let status = self.wait(within)?;
        let rest = |printed: mpsc::Receiver<io::Result<Vec<u8>>>| {
            let left = deadline.saturating_duration_since(Instant::now());
            printed
                .recv_timeout(left)
                .context("a descendant keeps the output open")?
                .context("read an output")
        };
        Ok(Output { status, stdout: rest(stdout)?, stderr: rest(stderr)? })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The standard output of a process that must succeed.
pub fn successful(output: Output) -> Result<String> {
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    String::from_utf8(output.stdout).context("the output is not UTF-8")
}

/// A command whose input and outputs are pipes.
pub(crate) fn piped(mut command: Command) -> Command {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Reads on a thread of its own, so that two full pipes cannot block each other. No reader: an empty output.
fn read_all(reader: Option<impl Read + Send + 'static>) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = reader.map_or(Ok(0), |mut reader| reader.read_to_end(&mut bytes));
        // Nobody listens any more when the deadline has passed.
        let _ = tell.send(read.map(|_| bytes));
    });
    told
}
