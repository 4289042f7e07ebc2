//! The attack suite against the real guard: in enforce no vector gets a byte and each attempt is counted as denied for
//! the right service account; in audit every outcome is what it is without a guard.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::agent::Metrics;
use guard_tests::attack::Staged;
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

const ROLL_OUT: &str = "\
version: 1
enforce: [{ namespaces: [payments] }]
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
    fn each(&self) -> [(&PodHandle, Labels); 4] {
        [
            (&self.burstable, labels_of("shop", "burstable")),
            (&self.guaranteed, labels_of("shop", "guaranteed")),
            (&self.host_network, labels_of("shop", "host-network")),
            (&self.unidentified, labels_of("", "")),
        ]
    }
}

/// Whose attempts are counted.
type Labels = [(&'static str, &'static str); 2];

fn labels_of(namespace: &'static str, service_account: &'static str) -> Labels {
    [("namespace", namespace), ("service_account", service_account)]
}

#[test]
fn enforced_no_vector_gets_a_byte_and_each_is_counted() -> Result<()> {
    for driver in Driver::ALL {
        let node = Node::new(driver)?;
        let attackers = Attackers::on(&node)?;
        let vectors = possible_vectors(&node)?;
        let staged = stage_all(attackers.each(), &vectors)?;
        node.simulator().forget();
        let mut agent = Agent::start(&node, ENFORCE)?;
        agent.wait_ready(READY)?;

        for (attack, labels) in staged {
            let before = agent.metrics()?;
            let report = attack.proceed()?;
            refused(&report)?;
            if is_ended(&report, labels) {
                continue;
            }
            counted_as(&agent, &before, "deny", "enforce", labels)
                .with_context(|| format!("{driver:?} {:?} {labels:?}", report.vector))?;
        }
        for (pod, labels) in attackers.each() {
            for vector in vectors.iter().filter(|vector| !vector.pauses()) {
                let before = agent.metrics()?;
                refused(&pod.attack(*vector)?)?;
                counted_as(&agent, &before, "deny", "enforce", labels)
                    .with_context(|| format!("{driver:?} {vector:?} {labels:?}"))?;
            }
        }
        // The simulator has the last word: nothing was asked, and nothing went out.
        let seen = node.simulator().seen();
        ensure!(seen.bytes_sent() == 0 && seen.requests.is_empty(), "IMDS saw {seen:?}");
        // By TCP over IPv4 and over IPv6, and by UDP.
        for (_, labels) in attackers.each() {
            let ended = agent.metrics()?.count("imds_guard_connections_destroyed_total", &labels);
            ensure!(ended == if labels[1].1.is_empty() { 0 } else { 3 }, "{labels:?}: {ended} ended");
        }
        agent.stop()?;
    }
    Ok(())
}

#[test]
fn audited_every_outcome_is_as_without_a_guard_and_counted() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let attackers = Attackers::on(&node)?;
    let vectors = possible_vectors(&node)?;
    let unguarded = outcomes(&attackers, &vectors)?;

    let staged = stage_all(attackers.each(), &vectors)?;
    let mut agent = Agent::start(&node, AUDIT)?;
    agent.wait_ready(READY)?;
    for (attack, labels) in staged {
        let before = agent.metrics()?;
        let report = attack.proceed()?;
        ensure!(report.outcome.got_bytes(), "audit broke a connection: {report:?}");
        counted_as(&agent, &before, "deny", "audit", labels)
            .with_context(|| format!("{:?} {labels:?}", report.vector))?;
    }
    for (pod, labels) in attackers.each() {
        for vector in &vectors {
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
fn rolled_out_by_selectors_the_selected_are_denied_and_the_others_audited() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let payments = node.pod(PodSpec::new("payments", "checkout"))?;
    let shop = node.pod(PodSpec::new("shop", "cart"))?;
    let unidentified = node.pod(PodSpec { listed: false, ..PodSpec::new("payments", "invoices") })?;
    let (enforced, audited, unnamed) =
        (labels_of("payments", "checkout"), labels_of("shop", "cart"), labels_of("", ""));
    let vectors = possible_vectors(&node)?;
    let of_payments = stage_all([(&payments, enforced)], &vectors)?;
    let of_shop = stage_all([(&shop, audited)], &vectors)?;
    let mut agent = Agent::start(&node, ROLL_OUT)?;
    agent.wait_ready(READY)?;

    for (attack, labels) in of_payments {
        let before = agent.metrics()?;
        let report = attack.proceed()?;
        refused(&report)?;
        if is_ended(&report, labels) {
            continue;
        }
        counted_as(&agent, &before, "deny", "enforce", labels)?;
    }
    for (attack, labels) in of_shop {
        let before = agent.metrics()?;
        let report = attack.proceed()?;
        ensure!(report.outcome.got_bytes(), "shop is only audited: {report:?}");
        counted_as(&agent, &before, "deny", "audit", labels)?;
    }
    for vector in vectors.iter().filter(|vector| !vector.pauses()) {
        let before = agent.metrics()?;
        refused(&payments.attack(*vector)?)?;
        counted_as(&agent, &before, "deny", "enforce", enforced)
            .with_context(|| format!("payments {vector:?}"))?;

        let before = agent.metrics()?;
        let report = shop.attack(*vector)?;
        ensure!(report.outcome.got_bytes(), "shop is only audited: {report:?}");
        counted_as(&agent, &before, "deny", "audit", audited).with_context(|| format!("shop {vector:?}"))?;
    }

    // Who has no name yet is in nobody's selector, and is denied nothing, until the name comes.
    let before = agent.metrics()?;
    let report = unidentified.attack(Vector::Tcp)?;
    ensure!(report.outcome.got_bytes(), "{report:?}");
    counted_as(&agent, &before, "allow", "enforce", unnamed)?;
    unidentified.list(|_| {});
    agent.set_pods(&node)?;
    wait_until(READY, "the third pod to be named", || {
        agent.status().is_ok_and(|status| {
            let pods = status["pods"].as_array().map_or(&[][..], Vec::as_slice);
            pods.iter().any(|pod| pod["service_account"] == "invoices")
        })
    })?;
    let before = agent.metrics()?;
    refused(&unidentified.attack(Vector::Tcp)?)?;
    counted_as(&agent, &before, "deny", "enforce", labels_of("payments", "invoices"))?;
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

/// The vectors that this kernel can make, tried where nothing guards. The others are skipped, aloud, and never in CI.
fn possible_vectors(node: &Node) -> Result<Vec<Vector>> {
    let mut possible = Vec::new();
    for vector in Vector::of_sockets() {
        match node.outside().attack(vector)?.outcome {
            Outcome::Unsupported(why) => {
                ensure!(
                    std::env::var_os("CI").is_none(),
                    "CI's kernel should have what {vector:?} needs: {why}"
                );
                eprintln!("SKIPPED {vector:?}: {why}");
            }
            outcome => {
                ensure!(outcome.got_bytes(), "{vector:?} is no attack: {outcome:?}");
                possible.push(vector);
            }
        }
    }
    Ok(possible)
}

/// Starts every attack that pauses, so that its socket is open, and connected maybe, before there is a guard.
fn stage_all<'a>(
    attackers: impl IntoIterator<Item = (&'a PodHandle, Labels)>,
    vectors: &[Vector],
) -> Result<Vec<(Staged, Labels)>> {
    let mut staged = Vec::new();
    for (pod, labels) in attackers {
        for vector in vectors.iter().filter(|vector| vector.pauses()) {
            staged.push((pod.stage(*vector)?, labels));
        }
    }
    Ok(staged)
}

/// What every vector comes to without a guard.
fn outcomes(attackers: &Attackers, vectors: &[Vector]) -> Result<BTreeMap<(&'static str, Vector), Outcome>> {
    let mut outcomes = BTreeMap::new();
    for (pod, labels) in attackers.each() {
        for vector in vectors {
            let report = pod.attack(*vector)?;
            ensure!(report.outcome.got_bytes(), "no attack: {report:?}");
            outcomes.insert((labels[1].1, *vector), report.outcome);
        }
    }
    Ok(outcomes)
}

/// The attempt was made, and came to nothing.
fn refused(report: &Report) -> Result<()> {
    ensure!(report.outcome.is_genuine(), "the attack failed of itself: {report:?}");
    ensure!(!report.outcome.got_bytes(), "a byte got through: {report:?}");
    Ok(())
}

/// Whether the attack was made on a connection from before, which the agent has ended: nothing goes out on it. Of a pod that
/// has no name the connections are left to the egress lock.
fn is_ended(report: &Report, who: Labels) -> bool {
    let is_connected =
        matches!(report.vector, Vector::Preconnected | Vector::PreconnectedIpv6 | Vector::PreconnectedUdp);
    is_connected && !who[1].1.is_empty()
}

/// Something was counted for these labels since `before`, and no attempt for anyone else.
fn counted_as(agent: &Agent, before: &Metrics, verdict: &str, mode: &str, who: Labels) -> Result<()> {
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

#[test]
fn an_event_says_who_asked_for_what() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("shop", "cart"))?;
    let mut agent = Agent::start(&node, ENFORCE)?;
    agent.wait_ready(READY)?;
    refused(&pod.attack(Vector::TcpMapped)?)?;
    let event = guard_tests::wait_for(READY, "the event", || {
        agent.events().ok()?.into_iter().find(|event| event["event.name"] == "imds_guard.attempt")
    })?;
    for (field, expected) in [
        ("event.name", "imds_guard.attempt"),
        ("k8s.namespace.name", "shop"),
        ("imds_guard.service_account", "cart"),
        ("k8s.pod.uid", pod.uid()),
        ("process.executable.name", "guard-attack"),
        ("server.address", "169.254.169.254"),
        ("network.transport", "tcp"),
        ("imds_guard.endpoint", "imds"),
        ("imds_guard.verdict", "deny"),
        ("imds_guard.mode", "enforce"),
        ("imds_guard.rule", "default"),
        ("imds_guard.hook", "connect6"),
    ] {
        ensure!(event[field] == expected, "{field} is {}, not {expected}", event[field]);
    }
    // The container's id stands in its cgroup's name, and its name in the list.
    let cgroup = pod.cgroup().to_string_lossy();
    ensure!(event["container.id"].as_str().is_some_and(|id| cgroup.contains(id)), "{event}");
    ensure!(event["k8s.container.name"].is_string(), "{event}");
    ensure!(event["server.port"] == 80 && event["process.pid"].is_u64(), "{event}");
    agent.stop()
}
