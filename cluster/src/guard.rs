use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use guard_tests::agent::Metrics;
use guard_tests::process::successful;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::node;
use crate::records::AgentRequest;

/// The namespace that the manifests install the agent in.
pub const NAMESPACE: &str = "imds-guard";

/// The ConfigMap with the policy.
const POLICY: &str = "imds-guard-policy";

/// How agents follow each other, and in which words for an API server from before surges (Kubernetes 1.22), as the
/// tests' is: there the old one ends first.
const SURGES: &str = "      maxSurge: 1\n      maxUnavailable: 0\n";
const SURGES_NOT: &str = "      maxUnavailable: 1\n";

/// The taint that keeps pods away from a node until its agent stands.
const TAINT: &str = "imds-guard.io/agent-not-ready";

/// The agent, installed from the manifests in `deploy/` and started by the kubelet. Dropping it uninstalls it.
#[derive(Debug)]
pub struct Guard<'a> {
    cluster: &'a Cluster,
    manifests: String,
    /// How many requests agents had made before.
    asked_before: usize,
    /// There is one node, so there can be one guard: tests of one program wait for each other here.
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

impl<'a> Guard<'a> {
    /// Installs what `kubectl kustomize deploy/kustomize/PROFILE` renders, with another policy, on a node that is new:
    /// it bears the start-up taint, and nothing is left of an agent from before.
    pub fn install(cluster: &'a Cluster, profile: &str, policy: &str) -> Result<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let asked_before = cluster.agent_requests()?.len();
        cluster.let_go_of(NAMESPACE)?;
        taint(cluster)?;
        let manifests = cluster.kubectl(&["kustomize", path(&deploy().join("kustomize").join(profile))?])?;
        let manifests = manifests.replace(SURGES, SURGES_NOT);
        let guard = Self { cluster, manifests, asked_before, _turn: turn };
        cluster.apply(&guard.manifests)?;
        guard.set_policy(policy)?;
        guard.wait_until_ready()?;
        Ok(guard)
    }

    /// Waits until every node has a ready agent.
    pub fn wait_until_ready(&self) -> Result<()> {
        let rollout =
            ["rollout", "status", "daemonset/imds-guard", "--namespace", NAMESPACE, "--timeout=100s"];
        self.cluster.kubectl(&rollout).map(drop).with_context(|| self.log().unwrap_or_default())
    }

    /// Replaces the policy, as people do: with kubectl.
    pub fn set_policy(&self, policy: &str) -> Result<()> {
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": POLICY, "namespace": NAMESPACE },
            "data": { "policy.yaml": policy },
        });
        self.cluster.kubectl_with_input(&["replace", "--filename", "-"], &map.to_string()).map(drop)
    }

    /// Replaces the policy and waits until the agent has it in force.
    pub fn enforce(&self, policy: &str) -> Result<()> {
        let before = self.status()?["policy"]["sha256"].clone();
        self.set_policy(policy)?;
        self.cluster.wait_for("the new policy to be in force", |_| {
            Ok((self.status()?["policy"]["sha256"] != before).then_some(()))
        })
    }

    /// The agent's pod: the newest that is not on its way out.
    pub fn pod(&self) -> Result<Value> {
        let selector = "--selector=app.kubernetes.io/name=imds-guard";
        let pods = self.cluster.get(&["pods", "--namespace", NAMESPACE, selector])?;
        let pods = pods["items"].as_array().into_iter().flatten();
        let mut live = pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        live.next().cloned().context("no agent's pod is there")
    }

    /// What `imds-guard ARGUMENTS` prints in the agent's pod.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let exec = ["exec", "--namespace", NAMESPACE, "daemonset/imds-guard", "--", "imds-guard"];
        self.cluster.kubectl(&[&exec, arguments].concat())
    }

    /// What the agent says of itself.
    pub fn status(&self) -> Result<Value> {
        serde_json::from_str(&self.run(&["status", "--json"])?).context("parse the status")
    }

    /// The place at which Prometheus finds its metrics.
    pub fn address(&self) -> Result<String> {
        let pod = self.pod()?;
        let ip = pod["status"]["podIP"].as_str().context("the agent's pod has an address")?;
        Ok(format!("{ip}:9811"))
    }

    /// A scrape of its metrics, over the network.
    pub fn metrics(&self) -> Result<Metrics> {
        let url = format!("http://{}/metrics", self.address()?);
        let mut curl = self.cluster.in_node("curl")?;
        let output = curl.args(["--silent", "--show-error", "--fail", "--max-time", "10", &url]).output();
        Ok(Metrics::parse(&successful(output.context("start curl in the node")?)?))
    }

    /// What this agent has asked of the API server.
    pub fn requests(&self) -> Result<Vec<AgentRequest>> {
        Ok(self.cluster.agent_requests()?.split_off(self.asked_before))
    }

    /// Deletes what was installed, as `kubectl delete` does.
    pub fn delete(&self) -> Result<()> {
        let delete = ["delete", "--filename", "-", "--ignore-not-found", "--timeout=100s"];
        self.cluster.kubectl_with_input(&delete, &self.manifests).map(drop)
    }

    /// What the agent has logged.
    pub fn log(&self) -> Result<String> {
        self.cluster.kubectl(&["logs", "--namespace", NAMESPACE, "daemonset/imds-guard", "--tail=200"])
    }

    /// How often its container has been started again.
    pub fn restarts(&self) -> Result<u64> {
        self.pod()?["status"]["containerStatuses"][0]["restartCount"].as_u64().context("it has a container")
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.delete() {
            eprintln!("left behind: {error:#}");
        }
        if let Err(error) = clean_node(self.cluster) {
            eprintln!("left behind in the node: {error:#}");
        }
    }
}

/// What agents leave on a node, so that they can be followed by others.
pub const LEFT_ON_NODES: [&str; 3] =
    ["/sys/fs/bpf/imds-guard", "/var/lib/imds-guard", "/run/imds-guard/agent.sock"];

/// Removes what an agent has left on the node, not by its own means: those have tests of their own.
pub fn clean_node(cluster: &Cluster) -> Result<()> {
    successful(cluster.in_node("rm")?.arg("-rf").args(LEFT_ON_NODES).output().context("start rm")?)?;
    if has_table(cluster)? {
        let delete = cluster.in_node("nft")?.args(["delete", "table", "inet", TABLE]).output();
        successful(delete.context("start nft")?)?;
    }
    Ok(())
}

/// What an agent has left on the node.
pub fn left_on_node(cluster: &Cluster) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for path in LEFT_ON_NODES {
        // What is not there makes find fail. A folder that the kubelet made for a mount stays, empty.
        let found =
            cluster.in_node("find")?.args([path, "-not", "-type", "d"]).output().context("start find")?;
        left.extend(String::from_utf8_lossy(&found.stdout).lines().map(ToOwned::to_owned));
    }
    if has_table(cluster)? {
        left.push(format!("the table {TABLE}"));
    }
    Ok(left)
}

/// The table of the host's packet filter that is the agent's.
const TABLE: &str = "imds_guard";

fn has_table(cluster: &Cluster) -> Result<bool> {
    let tables = cluster.in_node("nft")?.args(["list", "tables"]).output().context("start nft")?;
    Ok(successful(tables)?.lines().any(|line| line.ends_with(TABLE)))
}

/// Puts the start-up taint on the node, as it is on a new one.
fn taint(cluster: &Cluster) -> Result<()> {
    let taint = format!("{TAINT}=:NoSchedule");
    cluster.kubectl(&["taint", "node", node::NAME, &taint, "--overwrite"]).map(drop)
}

/// Whether the node bears the start-up taint.
pub fn is_tainted(cluster: &Cluster) -> Result<bool> {
    let node = cluster.get(&["node", node::NAME])?;
    let mut taints = node["spec"]["taints"].as_array().into_iter().flatten();
    Ok(taints.any(|taint| taint["key"] == TAINT))
}

/// The folder `deploy/` of the project.
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").join("deploy")
}

/// What became of a request to IMDS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// By IMDS.
    Answered,
    /// By the pod's gate, with a 403.
    Denied,
    /// There was no connection.
    Refused,
    Other(String),
}

/// Has a container of a pod ask IMDS, and checks that IMDS saw the request if and only if it was answered.
pub fn ask_imds(cluster: &Cluster, namespace: &str, pod: &str, container: Option<&str>) -> Result<Answer> {
    let path = unique_path();
    judge(cluster, &path, &ask_for(cluster, namespace, pod, container, &path)?)
}

/// Has a container of a pod ask IMDS for `path`, and returns how that ended.
pub fn ask_for(
    cluster: &Cluster,
    namespace: &str,
    pod: &str,
    container: Option<&str>,
    path: &str,
) -> Result<Output> {
    let container = container.map(|name| vec!["--container", name]).unwrap_or_default();
    let question = question(path);
    let question: Vec<_> = question.iter().map(String::as_str).collect();
    let exec = [&["exec", "--namespace", namespace, pod][..], &container, &["--"], &question].concat();
    cluster.kubectl_command()?.args(exec).output().context("start kubectl in the node")
}

/// The program by which a pod asks IMDS for `path`. It prints the answer with its head.
pub fn question(path: &str) -> Vec<String> {
    let url = format!("http://169.254.169.254{path}");
    ["curl", "--silent", "--show-error", "--include", "--max-time", "10", &url].map(str::to_owned).to_vec()
}

/// What happened to an attempt to ask for `path`, which nobody else asked for, by what the client and IMDS say.
pub fn judge(cluster: &Cluster, path: &str, client: &Output) -> Result<Answer> {
    let answer = answer(client);
    let seen = cluster.imds_requests()?.iter().any(|request| request.path == path);
    let should_be_seen = answer == Answer::Answered;
    ensure!(seen == should_be_seen, "the client says {answer:?}, IMDS saw it: {seen}\n{client:?}");
    Ok(answer)
}

/// What a client that asked IMDS says of it.
fn answer(client: &Output) -> Answer {
    let said = String::from_utf8_lossy(&client.stdout);
    let complaint = String::from_utf8_lossy(&client.stderr);
    let head = said.split("\r\n\r\n").next().unwrap_or_default();
    let is_gates = head.lines().any(|line| line.starts_with("x-imds-guard-rule: "));
    match client.status.success() {
        true if !is_gates => Answer::Answered,
        true if head.starts_with("HTTP/1.1 403 ") => Answer::Denied,
        true => Answer::Other(said.into_owned()),
        false if complaint.contains("Connection refused") || complaint.contains("Failed to connect") => {
            Answer::Refused
        }
        false => Answer::Other(complaint.into_owned()),
    }
}

/// The id of a denial, which stands in the gate's answer and in the Event.
pub fn denial_id(text: &str) -> Result<&str> {
    let id = text.split("(denial ").nth(1).and_then(|rest| rest.split(')').next());
    id.with_context(|| format!("no id of a denial is in this:\n{text}"))
}

/// A path below the metadata that nobody else asks for.
pub fn unique_path() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("/latest/meta-data/test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no text", path.display()))
}
