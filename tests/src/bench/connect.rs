use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::floor::{Floor, Hook};
use super::host;
use super::report::{Report, Verdict};
use super::rounds::{Rounds, Spread};
use super::worker::{Call, Worker};
use crate::agent::Agent;
use crate::node::{Driver, Node, PodSpec};
use crate::place::Place;

/// Every pod is enforced: the guard at its strictest.
const POLICY: &str = "version: 1\nenforce: all\ndefault: { imds: deny }\n";

/// How long the agent may take to guard the node.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The workers are started anew so many times: where the kernel happens to put a process and its sockets makes more of
/// a difference than some programs do.
const GENERATIONS: usize = 15;
/// Rounds between two starts.
const ROUNDS: usize = 20;

/// How many times the agent is started and stopped for what it costs outside, and rounds in between.
const ALTERNATIONS: usize = 20;
const ROUNDS_OUTSIDE: usize = 30;

/// One row: a call, how often it is made in a round (a few milliseconds' worth), and how many times the floor's cost
/// it may cost.
const ROWS: [(Call, u32, Option<f64>); 4] = [
    (Call::Connect, 4_000, Some(1.08)),
    (Call::Send, 2_000, Some(1.05)),
    (Call::SendTo, 2_000, None),
    (Call::Socket, 1_000, None),
];

/// The same for what a process outside the guarded root pays, as against no agent at all.
const OUTSIDE: (Call, u32, f64) = (Call::Connect, 4_000, 1.05);

// The places of a round, in the order in which they are shown.
const NONE: usize = 0;
const FLOOR: usize = 1;
const GUARD: usize = 2;

/// Measures what the guard adds to the calls of processes, and prints it. `false`: a target is missed.
pub fn connect() -> Result<bool> {
    println!("imds-guard bench connect   {}", host::describe()?);
    println!(
        "ns per call, medians; ratios are medians over the rounds, within each of which the places take turns"
    );
    let started = Instant::now();
    let node = Node::new(Driver::Systemd)?;
    let none = node.outside().add_sub_cgroup("none")?;
    let floor = node.outside().add_sub_cgroup("floor")?;
    // On the node's network, which the other places share.
    let pod = node.pod(PodSpec::new("payments", "checkout").on_host_network())?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY_WITHIN)?;

    let mut report =
        Report::new(&["call", "none", "floor", "guard", "ratio", "middle half", "target", "rounds × calls"]);
    let attached = Floor::attach(floor.cgroup())?;
    let places = [&none, &floor, &*pod];
    expect_programs(places, [0, 1, 1])?;
    for (call, rounds, target, calls) in inside(places)? {
        let ratio = rounds.ratio(GUARD, FLOOR);
        report.row(
            &[
                call.to_string(),
                nanoseconds(rounds.nanoseconds(NONE)),
                nanoseconds(rounds.nanoseconds(FLOOR)),
                nanoseconds(rounds.nanoseconds(GUARD)),
                format!("{:.3} of floor", ratio.median),
                middle_half(ratio),
                target.map_or(String::new(), bound),
                format!("{} × {calls}", rounds.len()),
            ],
            Verdict::at_most(target, ratio.median),
        );
    }
    drop(attached);

    let (call, calls, target) = OUTSIDE;
    let rounds = outside(&node, &none, &pod, &mut agent)?;
    let ratio = rounds.ratio(1, 0);
    report.row(
        &[
            format!("{call} outside the guarded root"),
            nanoseconds(rounds.nanoseconds(0)),
            "–".to_owned(),
            nanoseconds(rounds.nanoseconds(1)),
            format!("{:.3} of none", ratio.median),
            middle_half(ratio),
            bound(target),
            format!("{} × {calls}", rounds.len() * ROUNDS_OUTSIDE),
        ],
        Verdict::at_most(Some(target), ratio.median),
    );
    let met = report.print();
    println!("\nin {:.0} s", started.elapsed().as_secs_f64());
    Ok(met)
}

/// Makes every call in every place, all at the same stage of their lives.
fn inside(places: [&Place; 3]) -> Result<Vec<(Call, Rounds<3>, Option<f64>, u32)>> {
    let mut rows: Vec<_> = ROWS.map(|(call, calls, target)| (call, Rounds::new(), target, calls)).into();
    for _ in 0..GENERATIONS {
        let mut workers = Vec::new();
        for place in places {
            workers.push(Worker::start(place)?);
        }
        for (call, rounds, _, calls) in &mut rows {
            for turn in 0..ROUNDS {
                let mut round = [f64::NAN; 3];
                // Whoever comes first finds other things in the caches than who comes last: they take turns in that.
                for step in 0..places.len() {
                    let place = (turn + step) % places.len();
                    round[place] = workers[place].measure(*call, *calls)?;
                }
                rounds.push(round);
            }
        }
    }
    Ok(rows)
}

/// Makes a call outside the guarded root, without an agent and with one. A round is a start of the agent.
fn outside(node: &Node, place: &Place, pod: &Place, agent: &mut Agent) -> Result<Rounds<2>> {
    let (call, calls, _) = OUTSIDE;
    let mut worker = Worker::start(place)?;
    let mut measure = || -> Result<f64> {
        let mut sample = [f64::NAN; ROUNDS_OUTSIDE];
        for nanoseconds in &mut sample {
            *nanoseconds = worker.measure(call, calls)?;
        }
        Ok(Spread::of(sample.into_iter()).median)
    };
    let mut rounds = Rounds::new();
    for _ in 0..ALTERNATIONS {
        agent.stop()?;
        expect_programs([place, pod], [0, 0])?;
        let without = measure()?;
        agent.restart(node)?;
        agent.wait_ready(READY_WITHIN)?;
        expect_programs([place, pod], [0, 1])?;
        rounds.push([without, measure()?]);
    }
    Ok(rounds)
}

/// Makes sure that the kernel runs what is to be measured, and no more.
fn expect_programs<const PLACES: usize>(places: [&Place; PLACES], expected: [u32; PLACES]) -> Result<()> {
    for (place, expected) in places.into_iter().zip(expected) {
        for hook in Hook::ALL {
            let cgroup: &Path = place.cgroup();
            let found = hook.programs(cgroup)?;
            let cgroup = cgroup.display();
            ensure!(found == expected, "{found} programs at {hook:?} of {cgroup}, {expected} expected");
        }
    }
    Ok(())
}

fn nanoseconds(value: f64) -> String {
    format!("{value:.0}")
}

fn middle_half(ratio: Spread) -> String {
    format!("{:.3}–{:.3}", ratio.lower, ratio.upper)
}

fn bound(target: f64) -> String {
    format!("≤ {target:.2}")
}
