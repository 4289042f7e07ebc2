//! The real `imds-guard` binary on a private node, and what it reports.
//!
//! It owns the agent's files: a policy folder that changes as a `ConfigMap` volume does, the list of pods, the
//! socket, the events and the log. It knows the agent from outside alone: its arguments, its HTTP and its exit.

mod http;
mod metrics;
mod policy_folder;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::binary::binary;
use crate::node::Node;
use crate::process::{Process, successful};
use crate::wait::wait_until;
pub use metrics::{Metrics, Sample};
use policy_folder::PolicyFolder;

/// How long the agent may take to end when asked to.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A running agent, outside the guarded root and on the node's network. Dropping it kills it, as a crash would.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    policy: PolicyFolder,
    arguments: Arguments,
    folder: TempDir,
}

/// What it is started with, beside its files.
#[derive(Debug)]
struct Arguments {
    words: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Agent {
    /// Starts an agent with a policy and with the node's pods as they are now. It need not be ready yet.
    pub fn start(node: &Node, policy: &str) -> Result<Self> {
        Self::start_with(node, policy, &[])
    }

    /// The same with further arguments.
    pub fn start_with(node: &Node, policy: &str, arguments: &[&str]) -> Result<Self> {
        Self::start_in(node, policy, arguments, &[])
    }

    /// The same with variables of its environment.
    pub fn start_in(
        node: &Node,
        policy: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("imds-guard-agent-").tempdir().context("make a folder")?;
        let policy = PolicyFolder::create(folder.path().join("policy"), policy)?;
        node.write_pods(&folder.path().join("pods.json"))?;
        let arguments = Arguments {
            words: arguments.iter().map(ToString::to_string).collect(),
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        let process = spawn(&binary("imds-guard")?, node, folder.path(), &arguments)?;
        Ok(Self { process, policy, arguments, folder })
    }

    /// Starts it again after its end, or kills it and starts it again, with the same files.
    pub fn restart(&mut self, node: &Node) -> Result<()> {
        self.kill()?;
        self.process = spawn(&binary("imds-guard")?, node, self.folder.path(), &self.arguments)?;
        Ok(())
    }

    /// Has another build follow it while it runs, as a roll-out with a surge does: it ends once the other is ready.
    pub fn upgrade(&mut self, node: &Node, build: &Path, within: Duration) -> Result<()> {
        let next = spawn(build, node, self.folder.path(), &self.arguments)?;
        let mut old = std::mem::replace(&mut self.process, next);
        let is_next = |agent: &Self| {
            agent.status().is_ok_and(|status| status["pid"] == agent.id())
                && agent.get("/readyz").is_ok_and(|(status, _)| status == 200)
        };
        wait_until(within, "the next agent to be ready", || !self.process.is_running() || is_next(self))?;
        ensure!(self.process.is_running(), "the next agent ended:\n{}", self.log());
        old.signal(Signal::SIGTERM)?;
        let status = old.wait(STOP_WITHIN)?;
        ensure!(status.success(), "the agent ended with {status}:\n{}", self.log());
        Ok(())
    }

    /// Removes from the node what the agent leaves there, by the command for it.
    pub fn clean_up(&self, node: &Node) -> Result<String> {
        let mut command = Command::new(binary("imds-guard")?);
        command.arg("cleanup").arg("--pin-path").arg(node.pin_path()).arg("--socket").arg(self.socket());
        successful(node.outside().run(command)?)
    }

    /// Ends it as a crash does, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        if self.process.is_running() {
            self.process.signal(Signal::SIGKILL)?;
        }
        self.process.wait(STOP_WITHIN).map(drop)
    }

    /// Asks it to end, and fails unless it does so in good order.
    pub fn stop(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        let status = self.process.wait(STOP_WITHIN)?;
        ensure!(status.success(), "the agent ended with {status}:\n{}", self.log());
        Ok(())
    }

    /// Waits until it says that it is ready.
    pub fn wait_ready(&mut self, within: Duration) -> Result<()> {
        let socket = self.socket();
        let process = &mut self.process;
        let mut ended = false;
        let ready = wait_until(within, "the agent to be ready", || {
            ended = !process.is_running();
            ended || http::get(&socket, "/readyz").is_ok_and(|(status, _)| status == 200)
        });
        ensure!(
            ready.is_ok() && !ended,
            "the agent {}:\n{}",
            if ended { "ended" } else { "is not ready" },
            self.log()
        );
        Ok(())
    }

    /// The status and the body of a path that it serves.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        http::get(&self.socket(), path)
    }

    /// A scrape of its metrics.
    pub fn metrics(&self) -> Result<Metrics> {
        let (status, body) = self.get("/metrics")?;
        ensure!(status == 200, "/metrics answered {status}: {body}");
        Ok(Metrics::parse(&body))
    }

    /// What it says of itself.
    pub fn status(&self) -> Result<Value> {
        let (status, body) = self.get("/status")?;
        ensure!(status == 200, "/status answered {status}: {body}");
        serde_json::from_str(&body).context("read /status")
    }

    /// The address at which the node can scrape it.
    pub fn listen(&self) -> Result<String> {
        let status = self.status()?;
        status["listen"].as_str().map(ToOwned::to_owned).context("/status names no listener")
    }

    /// Replaces the policy, as an update of its `ConfigMap` does.
    pub fn set_policy(&mut self, policy: &str) -> Result<()> {
        self.policy.publish(policy)
    }

    /// Tells it of the node's pods as they are now.
    pub fn set_pods(&self, node: &Node) -> Result<()> {
        node.write_pods(&self.folder.path().join("pods.json"))
    }

    /// The events that it has written so far. A line that is still being written is left for the next time.
    pub fn events(&self) -> Result<Vec<Value>> {
        let path = self.folder.path().join("events.jsonl");
        let written = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.with_context(|| format!("read {}", path.display()))?,
        };
        let whole = written.rfind('\n').map_or("", |end| &written[..end]);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("no event: {line}")))
            .collect()
    }

    /// All that it tells anybody: its metrics, its status, its events and its log.
    pub fn everything_told(&self) -> Result<[String; 4]> {
        let events = self.events()?.iter().map(ToString::to_string).collect();
        Ok([self.get("/metrics")?.1, self.get("/status")?.1, events, self.log()])
    }

    /// Everything that it has printed, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(log_path(self.folder.path())).unwrap_or_else(|error| error.to_string())
    }

    /// Stops it where it is, until it is thawed.
    pub fn freeze(&self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<()> {
        self.process.signal(Signal::SIGCONT)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// The folder of its policy, for the commands that read one.
    pub fn policy_folder(&self) -> &Path {
        self.policy.path()
    }

    /// The unix socket on which it answers.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }
}

fn spawn(build: &Path, node: &Node, folder: &Path, arguments: &Arguments) -> Result<Process> {
    let path = log_path(folder);
    let log = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    let mut command = Command::new(build);
    command
        .arg("run")
        .arg("--policy")
        .arg(folder.join("policy"))
        .arg("--pods-from")
        .arg(folder.join("pods.json"))
        .arg("--cgroup-mount")
        .arg(node.cgroup_mount())
        .arg("--guarded-root")
        .arg(node.guarded_root())
        .arg("--pin-path")
        .arg(node.pin_path())
        .args(["--node-name", node.name()])
        // The agent runs on the private node's network: never ask IMDS from this machine's own.
        .args(["--host-network", "/proc/self/ns/net"])
        .args(["--listen", "127.0.0.1:0"])
        .arg("--socket")
        .arg(folder.join("agent.sock"))
        .arg("--events")
        .arg(folder.join("events.jsonl"))
        .args(&arguments.words)
        .envs(arguments.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    node.outside().spawn(command)
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("agent.log")
}
