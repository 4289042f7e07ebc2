//! A pod is never let through before it is identified.

use std::time::Duration;

use anyhow::{Result, ensure};
use guard_tests::attack::Blow;
use guard_tests::{Agent, Driver, Node, PodSpec, Vector, wait_until};

const POLICY: &str = "\
version: 1
enforce: all
unidentified: deny
default: { imds: deny }
rules:
  - name: trusted
    match: { serviceAccounts: [shop/trusted] }
    imds: allow
";

const READY: Duration = Duration::from_secs(20);
const PODS: u64 = 1000;
const ATTEMPTS: u64 = 3;

#[test]
fn a_thousand_new_pods_get_nothing_while_four_others_hammer() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let on_host = |account: &str| PodSpec::new("shop", account).on_host_network();
    let besiegers: Vec<_> = (0..4)
        .map(|number| node.pod(PodSpec::new("shop", &format!("besieger-{number}"))))
        .collect::<Result<_>>()?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    let vectors = [Vector::Tcp, Vector::TcpMapped, Vector::UdpUnconnected, Vector::TcpIpv6];
    let sieges: Vec<_> =
        besiegers.iter().zip(vectors).map(|(pod, vector)| pod.besiege(vector)).collect::<Result<_>>()?;
    node.simulator().forget();

    for number in 0..PODS {
        // Every other one is on the list before its first process starts; none is named by then for certain.
        let pod = node.pod(PodSpec { listed: number % 2 == 0, ..on_host("newcomer") })?;
        if number % 2 == 0 {
            agent.set_pods(&node)?;
        }
        let tally = pod.hammer(Blow::Tcp, ATTEMPTS)?;
        ensure!(tally.attempts == ATTEMPTS, "{tally:?}");
        pod.delete()?;
    }

    for siege in sieges {
        let tally = siege.lift()?;
        ensure!(tally.attempts > 0 && tally.bytes == 0, "{tally:?}");
    }
    let seen = node.simulator().seen();
    ensure!(seen.peers.is_empty(), "IMDS saw {seen:?}");
    let metrics = agent.metrics()?;
    let counted = metrics
        .count("imds_guard_attempts_total", &[("service_account", "newcomer"), ("verdict", "deny")])
        + metrics.count("imds_guard_attempts_total", &[("service_account", ""), ("verdict", "deny")]);
    ensure!(counted == PODS * ATTEMPTS, "{counted} of {} attempts are counted", PODS * ATTEMPTS);
    agent.stop()
}

#[test]
fn an_allowed_pod_is_let_through_once_it_is_named() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    let pod = node.pod(PodSpec { listed: false, ..PodSpec::new("shop", "trusted") })?;
    ensure!(!pod.attack(Vector::Tcp)?.outcome.got_bytes(), "unidentified pods are denied");

    pod.list(|_| {});
    agent.set_pods(&node)?;
    wait_until(READY, "the pod to be named", || {
        agent.status().is_ok_and(|status| status["pods"][0]["service_account"] == "trusted")
    })?;
    let report = pod.attack(Vector::Tcp)?;
    ensure!(report.outcome.got_bytes(), "{report:?}");
    agent.stop()
}

#[test]
fn a_new_pod_is_named_when_its_cgroup_is_made() -> Result<()> {
    // Much less than the 15 s after which the agent walks the cgroup tree in any case.
    const SOON: Duration = Duration::from_secs(5);
    let node = Node::new(Driver::Cgroupfs)?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    for number in 1..=3 {
        // The list alone makes no one look at the tree, and nobody makes an attempt.
        let account = format!("newcomer-{number}");
        let pod = node.pod(PodSpec::new("shop", &account).on_host_network())?;
        agent.set_pods(&node)?;
        let known = |accounts: &[&str]| {
            agent.status().is_ok_and(|status| {
                let pods = status["pods"].as_array().map_or(&[][..], Vec::as_slice);
                pods.iter().map(|pod| &pod["service_account"]).eq(accounts)
            })
        };
        wait_until(SOON, &format!("{account} to be named"), || known(&[&account]))?;
        pod.delete()?;
        wait_until(SOON, &format!("{account} to be missed"), || known(&[]))?;
    }
    agent.stop()
}
