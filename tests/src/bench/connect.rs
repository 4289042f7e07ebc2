use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::floor::Floor;
use super::host;
use super::report::{Report, Verdict};
use super::rounds::{Rounds, Spread};
use super::worker::{Call, Worker};
use crate::agent::Agent;
use crate::hook::Hook;
use crate::node::{Driver, Node, PodHandle, PodSpec};
use crate::place::Place;

/// Every pod is enforced: the guard at its strictest.
const POLICY: &str = "version: 1\nenforce: all\ndefault: { imds: deny }\n";

/// How long the agent may take to guard the node.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What is measured inside: a call, how often it is made in a round (a few milliseconds' worth), and how many times
/// the floor's cost it may cost.
const INSIDE: [(Call, u32, f64); 4] = [
    (Call::Connect, 4_000, 1.08),
    (Call::Send, 2_000, 1.05),
    (Call::SendTo, 2_000, 1.08),
    // The price of knowing a socket's creator: its storage is made and freed with it.
    (Call::Socket, 1_000, 1.40),
];
/// The workers are started anew so many times: where the kernel happens to put a process and its sockets makes more
/// of a difference than some programs do.
const GENERATIONS: usize = 15;
/// Rounds between two starts.
const ROUNDS_INSIDE: usize = 20;

/// The same for what a process outside the guarded root pays.
const OUTSIDE: (Call, u32, f64) = (Call::Connect, 4_000, 1.05);
/// What a hook in use may cost whoever does not use it: the kernel's own price, which no program can change.
const ANY_PROGRAM: f64 = 1.35;
/// How often that is measured in every state of the host, and in how many parts.
const ROUNDS_OUTSIDE: usize = 24;
const PARTS: usize = 30;
/// What the kernel puts off when programs come or go is done by then.
const SETTLE: Duration = Duration::from_millis(300);

// The places of a round, in the order in which they are shown.
const NONE: usize = 0;
const FLOOR: usize = 1;
const GUARD: usize = 2;

/// A node with a process in three places, which share its network.
struct Scene {
    agent: Agent,
    /// Where no program is.
    none: Place,
    /// Where the empty programs go, beside the guarded root.
    floor: Place,
    /// Under the guarded root.
    pod: PodHandle,
    node: Node,
}

/// Measures what the guard adds to the calls of processes, and prints it. `false`: a target is missed.
pub fn connect() -> Result<bool> {
    println!("imds-guard bench connect   {}", host::describe()?);
    println!(
        "ns per call: medians. ratio: the median over all rounds, in each of which the places take turns.\n\
         none: no program for this process; floor: an empty program at every hook; guard: the agent's"
    );
    let started = Instant::now();
    let mut scene = Scene::set()?;
    let columns = ["call", "none", "floor", "guard", "ratio", "middle half", "target", "rounds × calls"];
    let mut report = Report::new(&columns);
    for ((call, calls, target), rounds) in INSIDE.iter().zip(scene.inside()?) {
        let made = format!("{} × {calls}", rounds.len());
        compare(&mut report, call.to_string(), &rounds, FLOOR, *target, made);
    }
    let (call, calls, target) = OUTSIDE;
    let rounds = scene.outside()?;
    let made = format!("{} × {}", rounds.len() * PARTS, calls);
    let label = format!("{call} outside the guarded root");
    compare(&mut report, label, &rounds, FLOOR, target, made.clone());
    compare(
        &mut report,
        "  the same, against a host without any program".to_owned(),
        &rounds,
        NONE,
        ANY_PROGRAM,
        made,
    );
    let met = report.print();
    println!(
        "\nOutside, floor and guard are programs elsewhere on the host: a hook in use costs everybody, whoever uses it.\n\
         in {:.0} s",
        started.elapsed().as_secs_f64()
    );
    Ok(met)
}

impl Scene {
    /// With a running agent.
    fn set() -> Result<Self> {
        let node = Node::new(Driver::Systemd)?;
        let [bare, floor] = ["none", "floor"].map(|name| node.outside().add_sub_cgroup(name));
        let pod = node.pod(PodSpec::new("payments", "checkout").on_host_network())?;
        let mut agent = Agent::start(&node, POLICY)?;
        agent.wait_ready(READY_WITHIN)?;
        Ok(Self { agent, none: bare?, floor: floor?, pod, node })
    }

    /// Makes every call of [`INSIDE`] in every place.
    fn inside(&self) -> Result<[Rounds<3>; INSIDE.len()]> {
        let _attached = Floor::attach(self.floor.cgroup())?;
        self.expect_programs([0, 1, 1])?;
        let mut rows = [const { Rounds::new() }; INSIDE.len()];
        for _ in 0..GENERATIONS {
            let [none, floor, pod] = [&self.none, &self.floor, &*self.pod].map(Worker::start);
            let mut workers = [none?, floor?, pod?];
            for ((call, calls, _), rounds) in INSIDE.iter().zip(&mut rows) {
                for turn in 0..ROUNDS_INSIDE {
                    let mut round = [f64::NAN; 3];
                    // Whoever comes first finds other things in the caches than who comes last: they take turns.
                    for step in 0..workers.len() {
                        let place = (turn + step) % workers.len();
                        round[place] = workers[place].measure(*call, *calls)?;
                    }
                    rounds.push(round);
                }
            }
        }
        Ok(rows)
    }

    /// Makes the call of [`OUTSIDE`] where no program is, in three states of the host: nobody has a program at the
    /// hook, somebody has an empty one, the guard has its own. Programs of others on this host stay as they are.
    fn outside(&mut self) -> Result<Rounds<3>> {
        let mut worker = Worker::start(&self.none)?;
        let mut rounds = Rounds::new();
        for turn in 0..ROUNDS_OUTSIDE {
            let mut round = [f64::NAN; 3];
            // There and back again: the agent is started every second time, and what drifts cancels out.
            let order = if turn % 2 == 0 { [GUARD, FLOOR, NONE] } else { [NONE, FLOOR, GUARD] };
            for state in order {
                let attached = self.enter(state)?;
                sleep(SETTLE);
                round[state] = measure_outside(&mut worker)?;
                drop(attached);
            }
            rounds.push(round);
        }
        Ok(rounds)
    }

    /// Brings the host into a state, in which it is for as long as the returned value lives.
    fn enter(&mut self, state: usize) -> Result<Option<Floor>> {
        match (state == GUARD, self.agent.is_running()) {
            (true, false) => {
                self.agent.restart(&self.node)?;
                self.agent.wait_ready(READY_WITHIN)?;
            }
            (false, true) => self.agent.stop()?,
            _ => {}
        }
        let attached = if state == FLOOR { Some(Floor::attach(self.floor.cgroup())?) } else { None };
        self.expect_programs([0, usize::from(state == FLOOR), usize::from(state == GUARD)])?;
        Ok(attached)
    }

    /// Makes sure that the kernel runs what is to be measured, and no more.
    fn expect_programs(&self, expected: [usize; 3]) -> Result<()> {
        for (place, expected) in [&self.none, &self.floor, &*self.pod].into_iter().zip(expected) {
            for hook in Hook::ALL {
                let found = hook.programs(place.cgroup())?.len();
                let cgroup = place.cgroup().display();
                ensure!(found == expected, "{found} programs at {hook:?} of {cgroup}, {expected} expected");
            }
        }
        Ok(())
    }
}

fn measure_outside(worker: &mut Worker) -> Result<f64> {
    let (call, calls, _) = OUTSIDE;
    let mut parts = [f64::NAN; PARTS];
    for part in &mut parts {
        *part = worker.measure(call, calls)?;
    }
    Ok(Spread::of(parts.into_iter()).median)
}

/// Adds a row that judges the guard by another place.
fn compare(report: &mut Report, label: String, rounds: &Rounds<3>, to: usize, target: f64, made: String) {
    let ratio = rounds.ratio(GUARD, to);
    let [none, floor, guard] = [NONE, FLOOR, GUARD].map(|place| format!("{:.0}", rounds.nanoseconds(place)));
    let cells = [
        label,
        none,
        floor,
        guard,
        format!("{:.3} of {}", ratio.median, if to == FLOOR { "floor" } else { "none" }),
        format!("{:.3}–{:.3}", ratio.lower, ratio.upper),
        format!("≤ {target:.2}"),
        made,
    ];
    report.row(&cells, Verdict::at_most(target, ratio.median));
}
