//! The least that must hold on every kernel from Linux 5.10 on: the programs load, deny and count, also when the agent is
//! gone, and what the kernel lacks is named.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::{Agent, Driver, Node, PodHandle, PodSpec, Qos, Vector, binary};
use serde_json::Value;

const POLICY: &str = "\
version: 1
enforce: all
default: { imds: deny }
rules:
  - name: trusted
    match: { serviceAccounts: [shop/trusted] }
    imds: allow
";

/// The old verifiers take their time, and emulated ones more.
const READY: Duration = Duration::from_mins(2);

/// One for each hook, and one that passes no socket hook.
const VECTORS: [Vector; 5] =
    [Vector::Tcp, Vector::TcpMapped, Vector::UdpUnconnected, Vector::UdpUnconnectedIpv6, Vector::RawTcp];

#[test]
fn it_denies_counts_and_names_what_the_kernel_lacks() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = |account: &str| PodSpec::new("shop", account);
    let trusted = node.pod(pod("trusted").on_host_network())?;
    let burstable = node.pod(pod("burstable"))?;
    let guaranteed = node.pod(PodSpec { qos: Qos::Guaranteed, ..pod("guaranteed") })?;
    let host_network = node.pod(pod("host-network").on_host_network())?;
    for vector in VECTORS {
        let report = burstable.attack(vector)?;
        ensure!(report.outcome.got_bytes(), "no attack, without a guard: {report:?}");
    }
    let connected = burstable.stage(Vector::Preconnected)?;
    node.simulator().forget();

    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    ensure!(!connected.proceed()?.outcome.got_bytes(), "a connection from before the guard goes on");
    for (pod, account) in
        [(&burstable, "burstable"), (&guaranteed, "guaranteed"), (&host_network, "host-network")]
    {
        nothing_by_any_vector(pod)?;
        let labels = [("service_account", account), ("verdict", "deny"), ("endpoint", "imds")];
        let metrics = agent.metrics()?;
        let (attempts, packets) = (
            metrics.count("imds_guard_attempts_total", &labels),
            metrics.count("imds_guard_egress_packets_total", &labels),
        );
        // The raw socket's packet is no attempt.
        ensure!(attempts == VECTORS.len() as u64 - 1, "{account}: {attempts} attempts are counted");
        ensure!(packets > 0, "{account}: no packet is counted");
    }
    let seen = node.simulator().seen();
    ensure!(seen.bytes_sent() == 0 && seen.requests.is_empty(), "IMDS saw {seen:?}");
    let report = trusted.attack(Vector::Tcp)?;
    ensure!(report.outcome.got_bytes(), "who is allowed gets no answer: {report:?}");

    says_what_is_missing(&node, &agent)?;
    agent.kill()?;
    nothing_by_any_vector(&burstable).context("after the agent's end")
}

fn nothing_by_any_vector(pod: &PodHandle) -> Result<()> {
    for vector in VECTORS {
        let report = pod.attack(vector)?;
        ensure!(report.outcome.is_genuine(), "the attack failed of itself: {report:?}");
        ensure!(!report.outcome.got_bytes(), "a byte got through: {report:?}");
    }
    Ok(())
}

/// What came with later kernels is there on those, and on the others is named by `doctor` and the running agent alike.
fn says_what_is_missing(node: &Node, agent: &Agent) -> Result<()> {
    let printed = Command::new(binary("imds-guard")?)
        .args(["doctor", "--json", "--cgroup-mount"])
        .arg(node.cgroup_mount())
        .arg("--guarded-root")
        .arg(node.guarded_root())
        .output()
        .context("start doctor")?;
    let findings: Vec<Value> = serde_json::from_slice(&printed.stdout).context("read what doctor says")?;
    let version = kernel_version()?;
    let metrics = agent.metrics()?;
    for (feature, since) in
        [("kernel", (6, 1)), ("set_retval", (5, 18)), ("gate", (5, 14)), ("ring_buffer", (5, 8))]
    {
        let finding = findings.iter().find(|finding| finding["feature"] == feature);
        let finding = finding.with_context(|| format!("doctor says nothing of {feature}"))?;
        let expected = if version >= since { "ok" } else { "degraded" };
        ensure!(finding["state"] == expected, "on Linux {version:?}, doctor says {finding}");
        let degraded = metrics.count("imds_guard_degraded", &[("feature", feature)]);
        ensure!(degraded == u64::from(version < since), "the agent says {degraded} of {feature}");
    }
    ensure!(
        findings.iter().all(|finding| finding["state"] != "missing"),
        "doctor misses what the guard does well without: {findings:?}"
    );
    Ok(())
}

/// Its first two numbers.
fn kernel_version() -> Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => anyhow::bail!("no version in {release}"),
    }
}
