//! Counts are exact: every attempt is in the metrics, whatever becomes of the pods, and what is lost of events is
//! counted too.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::attack::{Blow, Tally};
use guard_tests::{Agent, Driver, Node, Place, PodHandle, PodSpec};

const POLICY: &str = "\
version: 1
enforce: all
default: { imds: deny }
rules:
  - name: trusted
    match: { serviceAccounts: [load/trusted-*] }
    imds: allow
";

const READY: Duration = Duration::from_secs(20);

/// A process's share of 1,000,000 attempts by 8 processes.
const EACH: u64 = 125_000;

#[test]
fn a_million_attempts_are_a_million_counts() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    // The allowed go straight to IMDS, on the host's network, and the denied to their gates.
    let pod = |account: &str| {
        let spec = PodSpec::new("load", account);
        node.pod(if account.starts_with("trusted") { spec.on_host_network() } else { spec })
    };
    let (allowed, denied) = (pod("trusted-0")?, pod("denied-0")?);
    let (first_allowed, first_denied) = (pod("trusted-1")?, pod("denied-1")?);
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;

    // Two pods live through it. Two are deleted half-way, and pods of the same service accounts take over.
    let (lasting, replaced) = thread::scope(|scope| -> Result<_> {
        let lasting = scope.spawn(|| two_processes([&allowed, &denied], EACH));
        let first = two_processes([&first_allowed, &first_denied], EACH / 2)?;
        first_allowed.delete()?;
        first_denied.delete()?;
        let (next_allowed, next_denied) = (pod("trusted-1")?, pod("denied-1")?);
        agent.set_pods(&node)?;
        wait_named(&agent, 4)?;
        let second = two_processes([&next_allowed, &next_denied], EACH / 2)?;
        Ok((lasting.join().expect("no panic")?, [first, second].concat()))
    })?;

    for tally in &lasting {
        ensure!(tally.attempts == EACH, "{tally:?}");
    }
    let attempts: u64 = lasting.iter().chain(&replaced).map(|tally| tally.attempts).sum();
    ensure!(attempts == 8 * EACH, "the processes made {attempts} attempts");

    let metrics = agent.metrics()?;
    for account in ["trusted-0", "trusted-1", "denied-0", "denied-1"] {
        let verdict = if account.starts_with("trusted") { "allow" } else { "deny" };
        let labels =
            [("namespace", "load"), ("service_account", account), ("verdict", verdict), ("endpoint", "imds")];
        let counted = metrics.count("imds_guard_attempts_total", &labels);
        ensure!(counted == 2 * EACH, "{account}: {counted} of {}", 2 * EACH);
    }
    let counted = metrics.count("imds_guard_attempts_total", &[]);
    ensure!(counted == 8 * EACH, "{counted} of {} attempts are counted", 8 * EACH);

    // Every attempt came up as an event or was counted as lost.
    let lost = metrics.count("imds_guard_events_lost_total", &[]);
    guard_tests::wait_until(READY, "the events that were not lost", || {
        agent.events().is_ok_and(|events| events.len() as u64 + lost == 8 * EACH)
    })?;
    ensure!(lost > 0, "so many events fit in no budget");
    agent.stop()
}

#[test]
fn the_counts_of_a_deleted_pod_stay_with_its_service_account() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("load", "denied"))?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    pod.hammer(Blow::UdpMapped, 1000)?;
    pod.hammer(Blow::TcpIpv6, 1000)?;
    // Nothing was read before the pod is gone from the node and from the list.
    pod.delete()?;
    agent.set_pods(&node)?;
    wait_named(&agent, 0)?;
    let labels = [("namespace", "load"), ("service_account", "denied"), ("verdict", "deny")];
    ensure!(agent.metrics()?.count("imds_guard_attempts_total", &labels) == 2000);
    agent.stop()
}

#[test]
fn what_is_gone_is_forgotten_and_its_counts_stay() -> Result<()> {
    const PODS: usize = 20;
    const ATTEMPTS: u64 = 50;
    /// The agent gives what is gone 30 s, and tidies every 15 s: 45 s, and as long again for a slow machine.
    const FORGOTTEN: Duration = Duration::from_secs(90);
    let node = Node::new(Driver::Cgroupfs)?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    let before = held(&agent)?;
    let account = |number: usize| format!("denied-{number}");
    let pods = (0..PODS)
        .map(|number| node.pod(PodSpec::new("load", &account(number)).on_host_network()))
        .collect::<Result<Vec<_>>>()?;
    agent.set_pods(&node)?;
    wait_named(&agent, PODS)?;
    for pod in pods {
        pod.hammer(Blow::Tcp, ATTEMPTS)?;
        pod.delete()?;
    }
    // Here and gone, maybe between two walks.
    let fleeting =
        node.pod(PodSpec { listed: false, ..PodSpec::new("load", "fleeting").on_host_network() })?;
    fleeting.hammer(Blow::Udp, ATTEMPTS)?;
    fleeting.delete()?;
    agent.set_pods(&node)?;

    let during = held(&agent)?;
    ensure!(during.rulings >= before.rulings + PODS as u64, "{before:?}, then {during:?}");
    ensure!(during.counters > before.counters + PODS as u64, "{before:?}, then {during:?}");
    guard_tests::wait_until(FORGOTTEN, "what is gone to be forgotten", || {
        held(&agent).is_ok_and(|now| now == before)
    })?;

    let metrics = agent.metrics()?;
    let counted = |account: &str| {
        metrics.count("imds_guard_attempts_total", &[("service_account", account), ("verdict", "deny")])
    };
    for account in (0..PODS).map(account) {
        ensure!(counted(&account) == ATTEMPTS, "{account}: {} of {ATTEMPTS}", counted(&account));
    }
    ensure!(counted("") == ATTEMPTS, "of the fleeting pod: {} of {ATTEMPTS}", counted(""));
    agent.stop()
}

/// What the kernel holds for an agent.
#[derive(Debug, PartialEq)]
struct Held {
    rulings: u64,
    counters: u64,
}

fn held(agent: &Agent) -> Result<Held> {
    let status = agent.status()?;
    let number = |name: &str| status[name].as_u64().with_context(|| format!("/status has no {name}"));
    Ok(Held { rulings: number("rulings")?, counters: number("counters")? })
}

/// One process by TCP and one by UDP in every pod, all at once.
fn two_processes(pods: [&PodHandle; 2], attempts: u64) -> Result<Vec<Tally>> {
    thread::scope(|scope| {
        let spawn = |(pod, blow): (&PodHandle, Blow)| {
            let place = Place::clone(pod);
            scope.spawn(move || place.hammer(blow, attempts))
        };
        let both = pods.into_iter().flat_map(|pod| [(pod, Blow::Tcp), (pod, Blow::Udp)]);
        let threads: Vec<_> = both.map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// Waits until the agent knows so many pods by name, and no others.
fn wait_named(agent: &Agent, count: usize) -> Result<()> {
    guard_tests::wait_until(READY, "the pods to be named", || {
        agent.status().is_ok_and(|status| {
            let pods = status["pods"].as_array().map_or(&[][..], Vec::as_slice);
            pods.len() == count && pods.iter().all(|pod| !pod["pod"].is_null())
        })
    })
}
