//! Nothing outside the guarded root is ever changed, and no other endpoint of a pod is.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use guard_tests::simulator::{IMDS_V4, POD_IDENTITY_V4, POD_IDENTITY_V6};
use guard_tests::{Agent, Driver, Hook, Node, Outcome, PodSpec, Vector, process::successful};

const DENY_ALL: &str = "version: 1\nenforce: all\nunidentified: deny\ndefault: { imds: deny }\n";
const READY: Duration = Duration::from_secs(20);

#[test]
fn a_process_beside_the_guarded_root_reaches_imds_throughout() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let siege = node.outside().besiege(Vector::Tcp)?;
    let mut agent = Agent::start(&node, DENY_ALL)?;
    agent.wait_ready(READY)?;
    for vector in Vector::of_sockets() {
        let report = node.outside().attack(vector)?;
        ensure!(
            report.outcome.got_bytes() || matches!(report.outcome, Outcome::Unsupported(_)),
            "{report:?}"
        );
    }
    agent.stop()?;
    let tally = siege.lift()?;
    ensure!(tally.attempts > 0 && tally.passed == tally.attempts, "before, during and after: {tally:?}");
    Ok(())
}

#[test]
fn the_pod_identity_endpoint_stays_open_to_a_pod_that_is_denied_imds() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("shop", "cart"))?;
    let mut agent = Agent::start(&node, DENY_ALL)?;
    agent.wait_ready(READY)?;
    for host in [POD_IDENTITY_V4.to_string(), format!("[{POD_IDENTITY_V6}]")] {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "5",
            "--header",
            "Authorization: token",
        ]);
        let credentials = successful(pod.run({
            curl.arg(format!("http://{host}/v1/credentials"));
            curl
        })?)?;
        ensure!(credentials.contains("AccessKeyId"), "{credentials}");
    }
    ensure!(!pod.attack(Vector::Tcp)?.outcome.got_bytes(), "{IMDS_V4} is denied all the same");
    let metrics = agent.metrics()?;
    let allowed = [("service_account", "cart"), ("endpoint", "pod-identity"), ("verdict", "allow")];
    ensure!(metrics.count("imds_guard_attempts_total", &allowed) == 2);
    agent.stop()
}

#[test]
fn nothing_is_left_when_the_agent_ends() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let pod = node.pod(PodSpec::new("shop", "cart"))?;
    let root = node.cgroup_mount().join(node.guarded_root());
    let attached = || Hook::ALL.into_iter().map(|hook| hook.programs(&root)).collect::<Result<Vec<_>>>();
    let before = attached()?;
    for ending in [Agent::stop, Agent::kill] {
        let mut agent = Agent::start_with(&node, DENY_ALL, &["--detach-on-exit"])?;
        agent.wait_ready(READY)?;
        for (hook, (before, during)) in Hook::ALL.iter().zip(before.iter().zip(attached()?)) {
            ensure!(during.len() == before.len() + 1, "at {hook:?} {before:?} became {during:?}");
        }
        ensure!(!pod.attack(Vector::Tcp)?.outcome.got_bytes());
        ending(&mut agent)?;
        if node.pin_path().exists() {
            // It was killed: the guard stands, until it is removed.
            ensure!(!pod.attack(Vector::Tcp)?.outcome.got_bytes());
            let said = agent.clean_up(&node)?;
            ensure!(said.contains("removed  the programs and maps"), "{said}");
            ensure!(!node.pin_path().exists());
        }
        let after = attached()?;
        ensure!(after == before, "attached before: {before:?}, and after: {after:?}");
        ensure!(pod.attack(Vector::Tcp)?.outcome.got_bytes(), "the programs are detached");
    }
    Ok(())
}
