use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::memory::Memory;
use super::super::report::{Report, Verdict};
use super::knock::Knocking;
use super::{ARGUMENTS, NAMESPACE, POLICY, READY_WITHIN};
use crate::agent::Agent;
use crate::node::{Driver, Node, PodHandle, PodSpec};

/// As many pods as the largest nodes have, each with a network of its own.
const PODS: u16 = 250;
const PODS_PER_ACCOUNT: u16 = 3;

const AUDIT: &str = "version: 1\nenforce: none\ndefault: { imds: deny }\n";

/// What the agent does once after its start is over by then.
const SETTLE: Duration = Duration::from_secs(5);

/// The most that a gate may take, in KiB.
const TARGET: f64 = 60.0;

/// Measures what the agent's memory grows by with every gate, and prints it. `false`: a target is missed.
pub(super) fn measure() -> Result<bool> {
    let node = Node::new(Driver::Cgroupfs)?;
    let pods = pods(&node)?;
    println!("\n{PODS} pods, each asks once: first audited, then each with a gate");
    let audited = memory(&node, &pods, AUDIT)?;
    let gated = memory(&node, &pods, POLICY)?;

    let mut report = Report::new(&["the agent's memory", "audited", "gated", "a pod", "target"]);
    for (what, audited, gated) in
        [("resident", audited.resident, gated.resident), ("its own part", audited.anonymous, gated.anonymous)]
    {
        let each = (gated - audited) / f64::from(PODS);
        let mib = |kib: f64| format!("{:.1} MiB", kib / 1024.0);
        let cells = [
            what.to_owned(),
            mib(audited),
            mib(gated),
            format!("{each:.1} KiB"),
            format!("≤ {TARGET:.0} KiB a pod"),
        ];
        report.row(&cells, Verdict::at_most(TARGET, each));
    }
    Ok(report.print())
}

fn pods(node: &Node) -> Result<Vec<PodHandle>> {
    let account = |number: u16| format!("service-{}", number / PODS_PER_ACCOUNT);
    (0..PODS).map(|number| node.pod(PodSpec::new(NAMESPACE, &account(number)))).collect()
}

/// What an agent has once every pod has asked and has been answered.
fn memory(node: &Node, pods: &[PodHandle], policy: &str) -> Result<Memory> {
    let mut agent = Agent::start_with(node, policy, &ARGUMENTS)?;
    agent.wait_ready(READY_WITHIN)?;
    for pod in pods {
        let status = Knocking::start(pod)?.answer()?;
        ensure!(status == 200, "the region was answered with {status}");
    }
    sleep(SETTLE);
    let memory = Memory::of(agent.id())?;
    agent.stop()?;
    Ok(memory)
}
