use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::report::{Report, Verdict};
use super::knock::Knocking;
use super::{ARGUMENTS, NAMESPACE, POLICY, READY_WITHIN};
use crate::agent::Agent;
use crate::node::{Driver, Node, PodSpec};

const PODS: usize = 200;

/// The longest that a new pod may wait for its gate, in milliseconds.
const TARGET: f64 = 50.0;

/// Measures how soon after its sandbox a pod's gate answers, and prints it. `false`: a target is missed.
///
/// The pod is listed after its sandbox is there, and the client's start is within the time: both make it longer than
/// it is where the API server is first.
pub(super) fn measure() -> Result<bool> {
    let node = Node::new(Driver::Systemd)?;
    let mut agent = Agent::start_with(&node, POLICY, &ARGUMENTS)?;
    agent.wait_ready(READY_WITHIN)?;
    println!(
        "\n{PODS} pods, one after the other: from the start of the sandbox to the first answer of its gate"
    );
    let mut waits = Vec::with_capacity(PODS);
    for _ in 0..PODS {
        let pod = node.pod(PodSpec::new(NAMESPACE, "newcomer"))?;
        agent.set_pods(&node)?;
        let status = Knocking::start(&pod)?.answer()?;
        waits.push(pod.began().elapsed());
        // Whatever it says, it is there.
        ensure!([200, 403].contains(&status), "the region was answered with {status}");
        pod.delete()?;
    }
    agent.stop()?;

    waits.sort();
    let at = |percent: usize| waits[(waits.len() - 1) * percent / 100];
    let mut report = Report::new(&["until the gate answers", "measured", "target"]);
    for (what, wait) in [("p50", at(50)), ("p99", at(99)), ("the longest", at(100))] {
        let milliseconds = 1_000.0 * Duration::as_secs_f64(&wait);
        let verdict = match what {
            "the longest" => Verdict::Unjudged,
            _ => Verdict::at_most(TARGET, milliseconds),
        };
        let target = if verdict == Verdict::Unjudged { String::new() } else { format!("≤ {TARGET:.0} ms") };
        report.row(&[what.to_owned(), format!("{milliseconds:.1} ms"), target], verdict);
    }
    Ok(report.print())
}
