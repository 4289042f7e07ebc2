//! The attack suite against the real guard: in enforce no vector gets a byte and each attempt is counted as denied for
//! the right service account; in audit every outcome is what it is without a guard.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::agent::Metrics;
use guard_tests::{Agent, Driver, Node, Outcome, Place, PodHandle, PodSpec, Qos, Report, Vector, wait_until};

const ENFORCE: &str = "\
version: 1
enforce: all
default: { imds: deny }
rules:
  - name: trusted
    match: { serviceAccounts: [shop/trusted] }
    imds: allow
";

const AUDIT: &str = "\
version: 1
enforce: none
unidentified: deny
default: { imds: deny }
";

const READY: Duration = Duration::from_secs(20);

/// The pods that the suite is run from: every kind that policy denies.
struct Attackers {
    burstable: PodHandle,
    guaranteed: PodHandle,
    host_network: PodHandle,
    unidentified: PodHandle,
}

impl Attackers {
    fn on(node: &Node) -> Result<Self> {
        let spec = |account: &str| PodSpec::new("shop", account);
        Ok(Self {
            burstable: node.pod(spec("burstable"))?,
            guaranteed: node.pod(PodSpec { qos: Qos::Guaranteed, ..spec("guaranteed") })?,
            host_network: node.pod(spec("host-network").on_host_network())?,
            unidentified: node.pod(PodSpec {
                listed: false,
                qos: Qos::BestEffort,
                ..spec("unidentified")
            })?,
        })
    }

    /// Each with the labels that its attempts are counted under.
    fn each(&self) -> [(&PodHandle, [(&'static str, &'static str); 2]); 4] {
        let known = |account| [("namespace", "shop"), ("service_account", account)];
        [
            (&self.burstable, known("burstable")),
            (&self.guaranteed, known("guaranteed")),
            (&self.host_network, known("host-network")),
            (&self.unidentified, [("namespace", ""), ("service_account", "")]),
        ]
    }
}

#[test]
fn enforced_no_vector_gets_a_byte_and_each_is_counted() -> Result<()> {
    for driver in Driver::ALL {
        let node = Node::new(driver)?;
        let attackers = Attackers::on(&node)?;
        // What was open before the guard came: connections, and sockets still to be connected.
        let staged: Vec<_> = attackers
            .each()
            .into_iter()
            .map(|(pod, _)| Ok([pod.stage(Vector::Preconnected)?, pod.stage(Vector::PreopenedUnconnected)?]))
            .collect::<Result<_>>()?;
        node.simulator().forget();
        let mut agent = Agent::start(&node, ENFORCE)?;
        agent.wait_ready(READY)?;

        for ((_, labels), staged) in attackers.each().into_iter().zip(staged) {
            for attack in staged {
                let before = agent.metrics()?;
                refused(&attack.proceed()?)?;
                counted_as(&agent, &before, "deny", "enforce", labels)?;
            }
        }
        for (pod, labels) in attackers.each() {
            for vector in Vector::all().iter().filter(|vector| !vector.pauses()) {
                let before = agent.metrics()?;
                refused(&pod.attack(*vector)?)?;
                counted_as(&agent, &before, "deny", "enforce", labels)
                    .with_context(|| format!("{driver:?} {vector:?} {labels:?}"))?;
            }
        }
        // The simulator has the last word: nothing was asked, and nothing went out.
        let seen = node.simulator().seen();
        ensure!(seen.bytes_sent() == 0 && seen.requests.is_empty(), "IMDS saw {seen:?}");
        agent.stop()?;
    }
    Ok(())
}

#[test]
fn audited_every_outcome_is_as_without_a_guard_and_counted() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let attackers = Attackers::on(&node)?;
    let unguarded = outcomes(&attackers)?;

    let staged: Vec<_> = attackers
        .each()
        .into_iter()
        .map(|(pod, labels)| Ok((pod.stage(Vector::Preconnected)?, labels)))
        .collect::<Result<_>>()?;
    let mut agent = Agent::start(&node, AUDIT)?;
    agent.wait_ready(READY)?;
    for (attack, labels) in staged {
        let before = agent.metrics()?;
        let report = attack.proceed()?;
        ensure!(report.outcome.got_bytes(), "audit broke a connection: {report:?}");
        counted_as(&agent, &before, "deny", "audit", labels)?;
    }
    for (pod, labels) in attackers.each() {
        for vector in Vector::all() {
            let before = agent.metrics()?;
            let report = pod.attack(*vector)?;
            let without = &unguarded[&(labels[1].1, *vector)];
            ensure!(
                report.outcome == *without,
                "audit changed {vector:?}: {without:?}, now {:?}",
                report.outcome
            );
            counted_as(&agent, &before, "deny", "audit", labels)
                .with_context(|| format!("{vector:?} {labels:?}"))?;
        }
    }
    agent.stop()
}

#[test]
fn of_task_and_creator_the_stricter_decides() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let trusted = node.pod(PodSpec::new("shop", "trusted"))?;
    let other_trusted = node.pod(PodSpec::new("shop", "trusted"))?;
    let denied = node.pod(PodSpec::new("shop", "denied"))?;
    let mut agent = Agent::start(&node, ENFORCE)?;
    agent.wait_ready(READY)?;

    let handed_over = |from: &Place, to: &Place| to.attack_with_socket_of(from);
    let report = handed_over(&trusted, &other_trusted)?;
    ensure!(report.outcome.got_bytes(), "both are allowed: {report:?}");
    refused(&handed_over(&trusted, &denied)?).context("the task is denied")?;
    refused(&handed_over(&denied, &trusted)?).context("the creator is denied")?;

    // The attempt is the task's, and the event names the pod whose ruling decided.
    let labels = [("service_account", "trusted"), ("verdict", "deny")];
    ensure!(agent.metrics()?.count("imds_guard_attempts_total", &labels) == 1);
    wait_until(READY, "the event that names the creator", || {
        agent.events().is_ok_and(|events| {
            events.iter().any(|event| {
                event["imds_guard.service_account"] == "trusted"
                    && event["imds_guard.socket_creator"]
                        .as_str()
                        .is_some_and(|pod| pod.starts_with("shop/denied"))
            })
        })
    })?;
    agent.stop()
}

/// What every vector comes to without a guard.
fn outcomes(attackers: &Attackers) -> Result<BTreeMap<(&'static str, Vector), Outcome>> {
    let mut outcomes = BTreeMap::new();
    for (pod, labels) in attackers.each() {
        for vector in Vector::all() {
            let report = pod.attack(*vector)?;
            ensure!(report.outcome.got_bytes() || is_skipped(&report), "no attack: {report:?}");
            outcomes.insert((labels[1].1, *vector), report.outcome);
        }
    }
    Ok(outcomes)
}

/// The attempt was made, and came to nothing.
fn refused(report: &Report) -> Result<()> {
    if is_skipped(report) {
        return Ok(());
    }
    ensure!(report.outcome.is_genuine(), "the attack failed of itself: {report:?}");
    ensure!(!report.outcome.got_bytes(), "a byte got through: {report:?}");
    Ok(())
}

/// Skips a vector that this kernel can't make, aloud, and never in CI.
fn is_skipped(report: &Report) -> bool {
    let Outcome::Unsupported(why) = &report.outcome else { return false };
    assert!(
        std::env::var_os("CI").is_none(),
        "CI's kernel should have what {:?} needs: {why}",
        report.vector
    );
    eprintln!("SKIPPED {:?}: {why}", report.vector);
    true
}

/// Something was counted for these labels since `before`, and no attempt for anyone else.
fn counted_as(
    agent: &Agent,
    before: &Metrics,
    verdict: &str,
    mode: &str,
    who: [(&str, &str); 2],
) -> Result<()> {
    let after = agent.metrics()?;
    let added = |name: &str, labels: &[(&str, &str)]| after.count(name, labels) - before.count(name, labels);
    let labels = [who[0], who[1], ("verdict", verdict), ("mode", mode), ("endpoint", "imds")];
    let attempts = added("imds_guard_attempts_total", &labels);
    ensure!(
        attempts + added("imds_guard_egress_packets_total", &labels) > 0,
        "nothing is counted for {labels:?}"
    );
    // Packets are another matter: the kernel sends those of a former victim's connection again and again.
    let others = added("imds_guard_attempts_total", &[]) - attempts;
    ensure!(others == 0, "{others} attempts are not counted for {labels:?}");
    Ok(())
}
