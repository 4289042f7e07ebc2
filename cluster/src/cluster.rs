use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs, thread};

use anyhow::{Context, Result, bail};
use guard_tests::process::successful;
use guard_tests::wait_for;
use serde_json::Value;

use crate::folder::{Folder, Running};
use crate::image::{self, Image};
use crate::node::{self, Ask};

/// How long a program that a test runs in the node may take, in seconds.
const RUN_WITHIN: &str = "120";

/// How long anything that a cluster does by itself may take on a busy machine.
const SETTLE_WITHIN: Duration = Duration::from_mins(1);

/// The cluster that runs, as tests see it.
#[derive(Clone, Debug)]
pub struct Cluster {
    folder: Folder,
    running: Running,
}

/// A port of the node that leads to one of a pod. Dropping it ends that.
#[derive(Debug)]
pub struct ForwardedPort {
    kubectl: Child,
    port: u16,
}

impl ForwardedPort {
    /// The port of the node, at 127.0.0.1.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for ForwardedPort {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and been waited for.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

impl Cluster {
    /// The cluster that runs.
    pub fn attach() -> Result<Self> {
        Self::attach_in(Folder::usual())
    }

    /// The cluster that runs in `folder`.
    pub fn attach_in(folder: Folder) -> Result<Self> {
        let Some(running) = folder.read_running()? else {
            bail!("no cluster runs in {}: `cargo xtask cluster up` starts one", folder.path().display());
        };
        Ok(Self { folder, running })
    }

    /// Its folder, with the logs of its parts and what IMDS and the API server wrote down.
    pub const fn folder(&self) -> &Folder {
        &self.folder
    }

    /// A command that will run in the node: its network, mounts, processes. The working directory stays. The program is
    /// killed when the command is, and both when the thread that started them ends: no test leaves one behind.
    pub fn in_node(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter"])
            .args(["--target", &self.running.process.to_string()])
            .args(["--mount", "--net", "--uts", "--ipc", "--pid"])
            .args(["setpriv", "--pdeathsig", "KILL", "env", "--chdir"])
            .arg(env::current_dir().context("find the working directory")?)
            .arg(program)
            // No proxy knows the way to the node's addresses.
            .env("NO_PROXY", "*")
            .env("KUBECONFIG", self.folder.kubeconfig());
        Ok(command)
    }

    /// A kubectl that will run in the node.
    pub fn kubectl_command(&self) -> Result<Command> {
        self.in_node(&self.running.kubectl)
    }

    /// Runs kubectl to its good end and returns what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with_input(arguments, "")
    }

    /// Runs kubectl with `input` and returns what it printed.
    pub fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.output(self.running.kubectl.as_ref(), arguments, input)?;
        successful(output).with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// Makes or changes the objects that `yaml` describes.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.kubectl_with_input(&["apply", "--filename", "-"], yaml).map(drop)
    }

    /// An object or a list of them, as `kubectl get` names it.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "--output", "json"], arguments].concat())?;
        serde_json::from_str(&text).context("parse what kubectl printed")
    }

    /// Runs a program in a pod to its end, good or bad.
    pub fn exec(&self, namespace: &str, pod: &str, program: &[&str]) -> Result<Output> {
        let arguments = [&["exec", "--namespace", namespace, pod, "--"], program].concat();
        self.output(self.running.kubectl.as_ref(), &arguments, "")
    }

    /// What a pod has printed.
    pub fn logs(&self, namespace: &str, pod: &str) -> Result<String> {
        self.kubectl(&["logs", "--namespace", namespace, pod])
    }

    /// Has kubectl forward a port of the node to a pod's, for as long as the value lives.
    pub fn forward_port(&self, namespace: &str, pod: &str, port: u16) -> Result<ForwardedPort> {
        let mut command = self.kubectl_command()?;
        command.args(["port-forward", "--address=127.0.0.1", "--namespace", namespace]);
        command.args([&format!("pod/{pod}"), &format!(":{port}")]);
        // What becomes of a connection is for its client to say, not for kubectl.
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let kubectl = command.spawn().context("start kubectl in the node")?;
        let mut forwarded = ForwardedPort { kubectl, port: 0 };
        // It says so once it listens: "Forwarding from 127.0.0.1:40001 -> 61000".
        let mut said = String::new();
        let output = forwarded.kubectl.stdout.as_mut().context("a piped output")?;
        BufReader::new(output).read_line(&mut said).context("read what kubectl prints")?;
        let listens = said.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split(' ').next());
        let listens = listens.with_context(|| format!("kubectl forwards no port: {said}"))?;
        forwarded.port = listens.parse().with_context(|| format!("parse the port of {said}"))?;
        Ok(forwarded)
    }

    /// A pod's `status`; `None` if there is no such pod.
    pub fn pod_status(&self, namespace: &str, pod: &str) -> Result<Option<Value>> {
        let text = self.kubectl(&[
            "get",
            "pod",
            pod,
            "--namespace",
            namespace,
            "--ignore-not-found",
            "--output",
            "jsonpath={.status}",
        ])?;
        let parse = || serde_json::from_str(&text).with_context(|| format!("parse the status of {pod}"));
        if text.is_empty() { Ok(None) } else { parse().map(Some) }
    }

    /// Waits until a namespace that is being deleted is gone: what is applied meanwhile goes with it.
    pub fn let_go_of(&self, namespace: &str) -> Result<()> {
        self.wait_for(&format!("the namespace {namespace} to be gone"), |cluster| {
            let phase =
                ["get", "namespace", namespace, "--ignore-not-found", "--output=jsonpath={.status.phase}"];
            Ok((cluster.kubectl(&phase)? != "Terminating").then_some(()))
        })
    }

    /// Waits until `look` finds something. A look is a program of its own, so there are pauses between two; one that
    /// fails is no reason to give up, and its error is told at the end.
    pub fn wait_for<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Result<Option<T>>) -> Result<T> {
        let mut last = None;
        let found = wait_for(SETTLE_WITHIN, what, || {
            match look(self) {
                Ok(Some(found)) => return Some(found),
                Ok(None) => last = None,
                Err(error) => last = Some(error),
            }
            thread::sleep(Duration::from_millis(50));
            None
        });
        match (found, last) {
            (Err(error), Some(last)) => Err(error.context(format!("the last look failed: {last:#}"))),
            (found, _) => found,
        }
    }

    /// Waits until a pod's containers are ready, and returns its status.
    pub fn wait_until_ready(&self, namespace: &str, pod: &str) -> Result<Value> {
        self.wait_for(&format!("the pod {namespace}/{pod} to be ready"), |cluster| {
            let status = cluster.pod_status(namespace, pod)?;
            Ok(status.filter(|status| {
                let conditions = status["conditions"].as_array().into_iter().flatten();
                conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
            }))
        })
    }

    /// Waits until there is no such pod.
    pub fn wait_until_gone(&self, namespace: &str, pod: &str) -> Result<()> {
        self.wait_for(&format!("the pod {namespace}/{pod} to be gone"), |cluster| {
            Ok(cluster.pod_status(namespace, pod)?.is_none().then_some(()))
        })
    }

    /// Ends the API server as a crash would.
    pub fn stop_api_server(&self) -> Result<()> {
        node::ask(&self.folder, Ask::StopApiServer)
    }

    /// Starts the API server again and waits until it serves.
    pub fn start_api_server(&self) -> Result<()> {
        node::ask(&self.folder, Ask::StartApiServer)
    }

    /// The id of a pod's first container, by which it is found while the API server is away.
    pub fn container(&self, namespace: &str, pod: &str) -> Result<String> {
        let status = self.pod_status(namespace, pod)?.with_context(|| format!("no pod {namespace}/{pod}"))?;
        let id = status["containerStatuses"][0]["containerID"].as_str();
        let id = id.and_then(|id| id.strip_prefix("containerd://"));
        Ok(id.with_context(|| format!("the pod {namespace}/{pod} has no container yet"))?.to_owned())
    }

    /// Runs a program in a container to its end, good or bad, without asking the API server.
    pub fn exec_in_container(&self, container: &str, program: &[&str]) -> Result<Output> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let arguments =
            [&["--namespace", "k8s.io", "tasks", "exec", "--exec-id", &name, container], program].concat();
        self.output("ctr".as_ref(), &arguments, "")
    }

    /// Does what the helm command does, and returns what it printed. `arguments` are the action (`lint`, `render`,
    /// `install`, `upgrade`, `uninstall`), the namespace, the release and, but for `uninstall`, the chart's folder;
    /// `values` is YAML.
    pub fn helm(&self, arguments: &[&str], values: &str) -> Result<String> {
        let program = [&["-c", include_str!("helm.py")], arguments].concat();
        let output = self.output(self.running.python.as_ref(), &program, values)?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        successful(output).with_context(|| format!("helm {}: {printed}", arguments.join(" ")))
    }

    /// Makes the agent's image anew, from its root file system. Containers that run keep the old one.
    pub fn load_agent(&self, root: &Path) -> Result<()> {
        let aside = self.folder.path().join("image.tar");
        Image::agent(root)?.write_to(&aside)?;
        let output = self.in_node("ctr")?.args(image::IMPORT).arg(&aside).output();
        fs::remove_file(&aside)?;
        successful(output.context("start ctr in the node")?).map(drop).context("import the agent's image")
    }

    /// Runs a program in the node to its end, killed when it takes too long.
    fn output(&self, program: &OsStr, arguments: &[&str], input: &str) -> Result<Output> {
        let mut command = self.in_node("timeout")?;
        command.args(["--kill-after", "5", RUN_WITHIN]).arg(program).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start setpriv, nsenter")?;
        let mut pipe = child.stdin.take().context("a piped input")?;
        // A program that does not read its input to the end says why itself.
        let _ = pipe.write_all(input.as_bytes());
        drop(pipe);
        child.wait_with_output().with_context(|| format!("wait for {}", program.display()))
    }
}
