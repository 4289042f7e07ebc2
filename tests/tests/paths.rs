//! The path attacks against the real gate: one that lets the region through lets nothing else through, however it is
//! asked, and still serves honest clients; one that denies lets nothing through at all.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::attack::http::{self, Case, Family, HttpReport};
use guard_tests::process::successful;
use guard_tests::simulator::{IMDS_V4, Key, Seen};
use guard_tests::{Agent, Driver, Node, PodHandle, PodSpec};

const POLICY: &str = "\
version: 1
enforce: all
default: { imds: deny }
rules:
  - name: region-only
    match: { serviceAccounts: [shop/filtered] }
    imds: { filter: { allow: [region] } }
";

/// What the gate may pass on in a second is another test's matter.
const ARGUMENTS: [&str; 2] = ["--imds-requests-per-second", "0"];

const READY: Duration = Duration::from_secs(20);

#[test]
fn a_filter_for_the_region_lets_nothing_else_through() -> Result<()> {
    filtered_by(Family::V4, Driver::Systemd)
}

#[test]
fn nor_does_it_over_ipv6() -> Result<()> {
    filtered_by(Family::V6, Driver::Cgroupfs)
}

fn filtered_by(family: Family, driver: Driver) -> Result<()> {
    let node = Node::new(driver)?;
    let pod = node.pod(PodSpec::new("shop", "filtered"))?;
    let mut agent = start(&node)?;
    node.simulator().forget();
    judge(&pod.besiege_by_http(family)?, Case::check)?;
    only_the_region(&node.simulator().seen())?;
    still_well(&mut agent, &pod)?;
    agent.stop()
}

#[test]
fn a_denied_pod_reaches_nothing() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let denied = node.pod(PodSpec::new("shop", "denied"))?;
    let filtered = node.pod(PodSpec::new("shop", "filtered"))?;
    let mut agent = start(&node)?;
    node.simulator().forget();
    judge(&denied.besiege_by_http(Family::V4)?, |_, report| {
        ensure!(report.is_refused() && !report.leaked, "{}: not refused: {report:?}", report.name);
        Ok(())
    })?;
    let seen = node.simulator().seen();
    ensure!(seen.requests.is_empty() && seen.peers.is_empty(), "IMDS saw {seen:?}");
    still_well(&mut agent, &filtered)?;
    agent.stop()
}

fn start(node: &Node) -> Result<Agent> {
    let mut agent = Agent::start_with(node, POLICY, &ARGUMENTS)?;
    agent.wait_ready(READY)?;
    Ok(agent)
}

/// Judges every case, and names all that fail.
fn judge(reports: &[HttpReport], check: impl Fn(&Case, &HttpReport) -> Result<()>) -> Result<()> {
    let cases = http::cases();
    let mut reports: BTreeMap<&str, &HttpReport> =
        reports.iter().map(|report| (report.name.as_str(), report)).collect();
    let mut failed = Vec::new();
    for case in &cases {
        let report = reports.remove(case.name.as_str()).with_context(|| format!("{} is lost", case.name))?;
        if let Err(error) = check(case, report) {
            failed.push(format!("{error:#}"));
        }
    }
    ensure!(reports.is_empty(), "nobody knows {:?}", reports.keys());
    ensure!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
    Ok(())
}

/// The simulator has the last word: whatever reached IMDS can be read in no way to ask for anything but the region.
fn only_the_region(seen: &Seen) -> Result<()> {
    let others: Vec<String> = seen
        .lines
        .iter()
        .filter(|line| !matches!(line.key, Key::Region | Key::Token))
        .map(|line| format!("{:?}: {:?}", line.key, line.target))
        .collect();
    ensure!(others.is_empty(), "{} lines that reached IMDS:\n{}", others.len(), others.join("\n"));
    let other = seen.requests.iter().find(|request| !matches!(request.key, Key::Region | Key::Token));
    ensure!(other.is_none(), "IMDS answered {other:?}");
    ensure!(seen.requests.iter().any(|request| request.key == Key::Region), "the region was never asked for");
    Ok(())
}

/// A client that comes now is served.
fn still_well(agent: &mut Agent, pod: &PodHandle) -> Result<()> {
    ensure!(agent.is_running(), "the agent is gone:\n{}", agent.log());
    let (status, body) = agent.get("/readyz")?;
    ensure!(status == 200, "/readyz answered {status}: {body}");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "5"])
        .arg(format!("http://{IMDS_V4}/latest/meta-data/placement/region"));
    let region = successful(pod.run(curl)?)?;
    ensure!(region == "eu-west-1", "the region is {region:?}");
    Ok(())
}
