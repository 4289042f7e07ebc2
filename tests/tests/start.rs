//! How the agent starts where something is not as it should be.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::{Agent, Driver, Node, PodSpec, Vector, wait_until};

const DENY_ALL: &str = "version: 1\nenforce: all\ndefault: { imds: deny }\n";
const TRUST: &str = "\
version: 1
enforce: all
default: { imds: deny }
rules:
  - name: trusted
    match: { serviceAccounts: [shop/trusted] }
    imds: allow
";
const READY: Duration = Duration::from_secs(20);

#[test]
fn without_a_readable_list_every_pod_is_unidentified_until_there_is_one() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let pod = node.pod(PodSpec::new("shop", "trusted"))?;
    let broken = tempfile::NamedTempFile::new()?;
    fs::write(broken.path(), "{\"kind\": \"List\", \"items\": [")?;
    // The last of two options counts.
    let list = broken.path().to_string_lossy().into_owned();
    let mut agent = Agent::start_with(&node, TRUST, &["--pods-from", &list])?;
    agent.wait_ready(READY)?;
    ensure!(!pod.attack(Vector::Tcp)?.outcome.got_bytes(), "it is not named");
    ensure!(agent.metrics()?.count("imds_guard_degraded", &[("feature", "pods_list")]) == 1);
    ensure!(agent.log().contains("ends too early"), "{}", agent.log());

    node.write_pods(broken.path())?;
    wait_until(READY, "the list to be read", || {
        agent.status().is_ok_and(|status| status["pods"][0]["service_account"] == "trusted")
    })?;
    ensure!(pod.attack(Vector::Tcp)?.outcome.got_bytes(), "it is named, and trusted");
    ensure!(agent.metrics()?.count("imds_guard_degraded", &[("feature", "pods_list")]) == 0);
    agent.stop()
}

#[test]
fn the_guarded_root_may_be_given_with_its_mount() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("shop", "cart"))?;
    let root = node.cgroup_mount().join(".").join(node.guarded_root());
    let mut agent = Agent::start_with(&node, DENY_ALL, &["--guarded-root", &root.to_string_lossy()])?;
    agent.wait_ready(READY)?;
    ensure!(!pod.attack(Vector::Tcp)?.outcome.got_bytes());
    let labels = [("service_account", "cart"), ("verdict", "deny")];
    ensure!(
        agent.metrics()?.count("imds_guard_attempts_total", &labels) == 1,
        "the pod is known by its cgroup"
    );
    agent.stop()
}

#[test]
fn a_guarded_root_that_is_replaced_is_guarded_anew() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let mut agent = Agent::start(&node, DENY_ALL)?;
    agent.wait_ready(READY)?;
    let root = node.cgroup_mount().join(node.guarded_root());
    for folder in ["burstable", "besteffort", "imds-guard-canary"] {
        fs::remove_dir(root.join(folder)).with_context(|| format!("remove {folder}"))?;
    }
    fs::remove_dir(&root)?;
    fs::create_dir(&root)?;
    wait_until(READY, "the agent to notice", || {
        agent.log().contains("is gone, or another one is in its place")
    })?;
    agent.wait_ready(READY)?;
    for class in ["burstable", "besteffort"] {
        fs::create_dir(root.join(class))?;
    }
    let pod = node.pod(PodSpec::new("shop", "cart"))?;
    agent.set_pods(&node)?;
    ensure!(!pod.attack(Vector::Tcp)?.outcome.got_bytes(), "the new one is guarded");
    let denied = [("verdict", "deny")];
    ensure!(agent.metrics()?.count("imds_guard_attempts_total", &denied) == 1);
    agent.stop()
}
