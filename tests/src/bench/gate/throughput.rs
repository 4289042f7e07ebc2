use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;

use super::super::report::{Report, Verdict};
use super::super::rounds::Spread;
use super::nginx::Nginx;
use super::pin::{self, Cpus};
use super::wrk::Load;
use super::{ARGUMENTS, NAMESPACE, POLICY, READY_WITHIN};
use crate::agent::Agent;
use crate::node::{Driver, Node, PodHandle, PodSpec};
use crate::place::Place;
use crate::simulator::IMDS_V4;

/// What is asked for, whether a filter refuses it, and how many times as many requests as nginx the gate aims at.
const ASKED: [(&str, &str, bool, f64); 2] = [
    ("allowed", "/latest/meta-data/placement/region", false, 1.0),
    ("denied", "/latest/meta-data/iam/security-credentials/", true, 0.6),
];

/// What the gate must do at least, for an allowed path: requests a second, and milliseconds.
const LEAST: f64 = 10_000.0;
const P99: f64 = 5.0;

/// All ways take turns so many times; the medians are shown.
const ROUNDS: usize = 3;

const NGINX: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// How a request comes to IMDS.
struct Way {
    name: &'static str,
    place: Place,
    address: SocketAddr,
    filters: bool,
}

/// A pod with a gate. It is gone when the agent is.
struct Gated {
    _agent: Agent,
    pod: PodHandle,
}

/// Measures requests per second and prints them. `false`: a target is missed.
pub(super) fn measure() -> Result<bool> {
    let cpus = Cpus::find()?;
    let node = Node::without_imds(Driver::Systemd)?;
    let _imds = pin::on(cpus.servers, || Nginx::imds(&node.beyond()))?;
    let _filter = pin::on(cpus.servers, || Nginx::filter(node.outside(), NGINX))?;
    let imds = SocketAddr::from((IMDS_V4, 80));
    let mut ways = vec![
        Way { name: "direct", place: node.outside().clone(), address: imds, filters: false },
        Way { name: "nginx", place: node.outside().clone(), address: NGINX, filters: true },
    ];
    // Without a gate the others are measured all the same: that shows what it is held to.
    let gated = pin::on(cpus.servers, || Gated::on(&node));
    if let Ok(Gated { pod, .. }) = &gated {
        ways.push(Way { name: "gate", place: Place::clone(pod), address: imds, filters: true });
    }
    println!(
        "\nwrk, 32 connections, on CPU {}, every server on CPU {}; medians of {ROUNDS} rounds of 5 s, in which all take \
         turns",
        cpus.client, cpus.servers
    );

    let columns = ["way", "what", "requests/s", "p50 ms", "p99 ms", "of nginx", "target"];
    let mut report = Report::new(&columns);
    for (what, path, refused, aim) in ASKED {
        let loads = take_turns(&ways, cpus.client, path, refused)?;
        let nginx = loads[1].requests_per_second;
        for (way, load) in ways.iter().zip(&loads) {
            let ratio = load.requests_per_second / nginx;
            let cells = cells(way.name, what, load, ratio);
            if way.name == "gate" {
                judge_gate(&mut report, cells, load, ratio, aim, refused);
            } else {
                report.row(&cells, Verdict::Unjudged);
            }
        }
        if gated.is_err() {
            let cells = ["gate", what, "–", "–", "–", "–", ""].map(ToOwned::to_owned);
            report.row(&cells, Verdict::Missed);
        }
    }
    let met = report.print();
    gated.map(|_| met)
}

impl Gated {
    fn on(node: &Node) -> Result<Self> {
        let pod = node.pod(PodSpec::new(NAMESPACE, "client"))?;
        let mut agent = Agent::start_with(node, POLICY, &ARGUMENTS)?;
        agent.wait_ready(READY_WITHIN)?;
        Ok(Self { _agent: agent, pod })
    }
}

/// The medians of every way.
fn take_turns(ways: &[Way], cpu: usize, path: &str, refused: bool) -> Result<Vec<Load>> {
    let mut rounds: Vec<Vec<Load>> = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (Way { place, address, filters, .. }, loads) in ways.iter().zip(&mut rounds) {
            let url = format!("http://{address}{path}");
            loads.push(Load::measure(place, cpu, &url, refused && *filters)?);
        }
    }
    let median = |loads: &Vec<Load>, of: fn(&Load) -> f64| Spread::of(loads.iter().map(of)).median;
    Ok(rounds
        .iter()
        .map(|loads| Load {
            requests_per_second: median(loads, |load| load.requests_per_second),
            p50: median(loads, |load| load.p50),
            p99: median(loads, |load| load.p99),
        })
        .collect())
}

fn cells(way: &str, what: &str, load: &Load, ratio: f64) -> [String; 7] {
    [
        way.to_owned(),
        what.to_owned(),
        format!("{:.0}", load.requests_per_second),
        format!("{:.2}", load.p50),
        format!("{:.2}", load.p99),
        format!("{ratio:.2}"),
        String::new(),
    ]
}

/// What must be, for an allowed path, and what is aimed at.
fn judge_gate(report: &mut Report, cells: [String; 7], load: &Load, ratio: f64, aim: f64, refused: bool) {
    let [way, what, requests, p50, p99, shown_ratio, _] = cells;
    let empty = String::new;
    let aimed = Verdict::at_least(aim, ratio).aimed();
    let row = |target: String| [way.clone(), what.clone(), requests, p50, p99, shown_ratio, target];
    if refused {
        return report.row(&row(format!("≥ {aim:.1} × nginx")), aimed);
    }
    report.row(&row(format!("≥ {LEAST:.0}/s")), Verdict::at_least(LEAST, load.requests_per_second));
    let more = |target| [empty(), empty(), empty(), empty(), empty(), empty(), target];
    report.row(&more(format!("p99 < {P99:.0} ms")), Verdict::at_most(P99, load.p99));
    report.row(&more(format!("≥ {aim:.1} × nginx")), aimed);
}
