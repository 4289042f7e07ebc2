//! The API server is away for two minutes, and the agent goes on with what it knows: through restarts of containers,
//! and through its own. Alone in this program: nothing else could run meanwhile.

use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_cluster::guard::{self, Answer, Guard, ask_imds, judge, question, unique_path};
use guard_cluster::{Cluster, Namespace, StaticPod, client_pod};
use guard_tests::agent::Metrics;
use guard_tests::process::successful;

const AWAY: Duration = Duration::from_mins(2);

/// The static pod that comes while the API server is away runs as default/default, which is allowed: once it has a name.
const POLICY: &str = "\
version: 1
enforce: all
default: { imds: deny }
rules:
  - { name: trusted, match: { serviceAccounts: [\"away-*/trusted\", default/default] }, imds: allow }
";

#[test]
fn without_the_api_server_the_known_are_known_and_the_others_unidentified() -> Result<()> {
    let cluster = Cluster::attach()?;
    let away = Namespace::create(&cluster, "away")?;
    away.add_account("trusted")?;
    away.add_account("stranger")?;
    let guard = Guard::install(&cluster, "base", POLICY)?;
    away.add_pod("trusted", "serviceAccountName: trusted")?;
    away.add_pod("stranger", "serviceAccountName: stranger")?;
    // What is known is written down within a quarter of a minute.
    cluster.wait_for("the agent to remember the pods", |cluster| {
        let saved = cluster.in_node("cat")?.arg("/var/lib/imds-guard/pods.json").output()?;
        let saved = successful(saved)?;
        Ok((saved.contains("\"trusted\"") && saved.contains("\"stranger\"")).then_some(()))
    })?;
    let address = guard.address()?;

    cluster.stop_api_server()?;
    let gone = Instant::now();
    let outcome = while_away(&cluster, &address, gone);
    cluster.start_api_server()?;
    let late = outcome?;

    // The kubelet tells the API server of its static pod by itself, and that names it.
    cluster.wait_for("the agent to name the static pod", |cluster| {
        Ok((ask_imds(cluster, "default", late.name(), None)? == Answer::Answered).then_some(()))
    })?;
    away.add_pod("newcomer", "serviceAccountName: trusted")?;
    ensure!(
        ask_imds(&cluster, away.name(), "newcomer", None)? == Answer::Answered,
        "new pods are named again"
    );
    let metrics = guard.metrics()?;
    ensure!(
        metrics.count("imds_guard_degraded", &[("feature", "kubernetes_api")]) == 0,
        "it says that all is well"
    );
    Ok(())
}

/// Everything that happens without the API server.
fn while_away(cluster: &Cluster, agent: &str, gone: Instant) -> Result<StaticPod> {
    ensure!(cluster.kubectl(&["get", "nodes"]).is_err(), "the API server still answers");
    let late = StaticPod::create(cluster, "late", &client_pod("default", "late", ""))?;
    let expected =
        [("trusted", Answer::Answered), ("stranger", Answer::Denied), ("late-node-1", Answer::Refused)];
    for (pod, expected) in &expected {
        let answer = ask(cluster, pod)?;
        ensure!(answer == *expected, "{pod}: {answer:?}, not {expected:?}");
    }
    for pod in ["trusted", "stranger"] {
        restart(cluster, pod)?;
    }
    // The agent itself too: it starts from what it remembers.
    restart(cluster, guard::NAMESPACE)?;
    ready(cluster, agent)?;
    let metrics = format!("http://{agent}/metrics");
    let mut rounds = 0;
    while gone.elapsed() < AWAY || rounds == 0 {
        for (pod, expected) in &expected {
            let answer = ask(cluster, pod)?;
            ensure!(answer == *expected, "{pod}, started again: {answer:?}, not {expected:?}");
        }
        let away = cluster.in_node("curl")?.args(["--silent", "--max-time", "5", &metrics]).output()?;
        let away = Metrics::parse(&successful(away)?);
        ensure!(
            away.count("imds_guard_degraded", &[("feature", "kubernetes_api")]) == 1,
            "it says that the API server answers"
        );
        rounds += 1;
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(late)
}

/// Has the newest container of a pod ask IMDS, without the API server's help.
fn ask(cluster: &Cluster, pod: &str) -> Result<Answer> {
    let path = unique_path();
    let question = question(&path);
    let question: Vec<_> = question.iter().map(String::as_str).collect();
    judge(cluster, &path, &exec(cluster, pod, &question)?)
}

/// Runs a program in a pod's container, once one runs.
fn exec(cluster: &Cluster, pod: &str, program: &[&str]) -> Result<Output> {
    cluster.wait_for(&format!("a container of {pod} to run"), |cluster| {
        running(cluster, pod)?.map(|container| cluster.exec_in_container(&container, program)).transpose()
    })
}

/// Ends a pod's container and waits until the kubelet has started another.
fn restart(cluster: &Cluster, pod: &str) -> Result<()> {
    let before = running(cluster, pod)?.with_context(|| format!("no container of {pod} runs"))?;
    let kill = ["--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", &before];
    successful(cluster.in_node("ctr")?.args(kill).output()?)?;
    cluster.wait_for(&format!("another container of {pod} to run"), |cluster| {
        Ok(running(cluster, pod)?.filter(|container| *container != before))
    })?;
    Ok(())
}

/// The container of a pod that runs, as containerd knows it. The sandbox is none.
fn running(cluster: &Cluster, pod: &str) -> Result<Option<String>> {
    let ctr = |arguments: &[&str]| -> Result<String> {
        successful(cluster.in_node("ctr")?.args(["--namespace", "k8s.io"]).args(arguments).output()?)
    };
    let label =
        if pod == guard::NAMESPACE { "io.kubernetes.pod.namespace" } else { "io.kubernetes.pod.name" };
    let filter = format!("labels.\"{label}\"=={pod},labels.\"io.cri-containerd.kind\"==container");
    let containers = ctr(&["containers", "list", "--quiet", &filter])?;
    let tasks = ctr(&["tasks", "list"])?;
    let runs =
        |container: &&str| tasks.lines().any(|line| line.contains(*container) && line.contains("RUNNING"));
    Ok(containers.lines().find(runs).map(ToOwned::to_owned))
}

/// Waits until the agent says that it guards.
fn ready(cluster: &Cluster, agent: &str) -> Result<()> {
    let url = format!("http://{agent}/readyz");
    cluster.wait_for("the agent to be ready", |cluster| {
        let output =
            cluster.in_node("curl")?.args(["--silent", "--fail", "--max-time", "5", &url]).output()?;
        Ok(output.status.success().then_some(()))
    })
}
