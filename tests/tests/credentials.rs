//! Enforcing revokes nothing: the agent names who may still hold credentials from before, and until when.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use guard_tests::process::successful;
use guard_tests::simulator::{IMDS_V4, NODE_ROLE};
use guard_tests::{Agent, Driver, Node, Place, PodSpec, binary, wait_until};

const AUDIT: &str = "\
version: 1
enforce: none
default: { imds: deny }
rules:
  - name: trusted
    match: { serviceAccounts: [shop/trusted] }
    imds: allow
  - name: metadata
    match: { serviceAccounts: [shop/filtered] }
    imds: { filter: { allow: [region] } }
";
const READY: Duration = Duration::from_secs(20);
const SIX_HOURS: u64 = 6 * 60 * 60;

fn fetch_credentials(place: &Place) -> Result<()> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "5"]);
    curl.arg(format!("http://{IMDS_V4}/latest/meta-data/iam/security-credentials/{NODE_ROLE}"));
    let credentials = successful(place.run(curl)?)?;
    ensure!(credentials.contains("SecretAccessKey"), "{credentials}");
    Ok(())
}

/// Who is said to hold some, and whether that was seen.
fn held(agent: &Agent) -> Result<Vec<(String, bool)>> {
    let status = agent.status()?;
    let held = status["credentials"].as_array().context("/status has credentials")?;
    let one = |held: &serde_json::Value| {
        Some((held["service_account"].as_str()?.to_owned(), held["seen"].as_bool()?))
    };
    held.iter().map(|held| one(held).context("a service account")).collect()
}

fn owned(expected: &[(&str, bool)]) -> Vec<(String, bool)> {
    expected.iter().map(|(account, seen)| ((*account).to_owned(), *seen)).collect()
}

#[test]
fn who_was_given_credentials_before_it_was_denied_is_named() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let early = node.pod(PodSpec::new("shop", "early"))?;
    let state = tempfile::tempdir()?;
    let folder = state.path().to_string_lossy().into_owned();
    let mut agent = Agent::start_with(&node, AUDIT, &["--state-dir", &folder])?;
    agent.wait_ready(READY)?;
    let given = ["cart", "filtered", "trusted"].map(|account| node.pod(PodSpec::new("shop", account)));
    let given = given.into_iter().collect::<Result<Vec<_>>>()?;
    let idle = node.pod(PodSpec::new("shop", "idle"))?;
    agent.set_pods(&node)?;
    wait_until(READY, "the pods to be named", || {
        agent.metrics().is_ok_and(|metrics| metrics.count("imds_guard_pods", &[("state", "audited")]) == 5)
    })?;
    for pod in &given {
        fetch_credentials(pod)?;
    }
    let issued = |agent: &Agent| {
        agent.metrics().map(|metrics| metrics.count("imds_guard_credentials_issued_total", &[]))
    };
    wait_until(READY, "what was issued to be counted", || issued(&agent).is_ok_and(|count| count == 3))?;
    ensure!(held(&agent)?.is_empty(), "nobody is denied yet: {:?}", held(&agent)?);

    let enforce = AUDIT.replace("enforce: none", "enforce: all");
    agent.set_policy(&enforce)?;
    let expected = owned(&[("cart", true), ("early", false), ("filtered", true)]);
    wait_until(READY, "those who hold some to be named", || held(&agent).is_ok_and(|held| held == expected))?;
    let metrics = agent.metrics()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    for (account, _) in &expected {
        let labels = [("namespace", "shop"), ("service_account", account.as_str())];
        let until = metrics.count("imds_guard_credentials_valid_until_timestamp_seconds", &labels);
        ensure!(until > now && until <= now + SIX_HOURS, "{account}: {until}, and it is {now}");
    }
    let mut status = Command::new(binary("imds-guard")?);
    status.arg("status").arg("--socket").arg(agent.socket());
    let printed = String::from_utf8(status.output()?.stdout)?;
    ensure!(printed.contains("from before are still good"), "{printed}");
    ensure!(printed.contains("it ran before the guard") && printed.contains("some were issued"), "{printed}");

    // The next agent knows it too, after a crash as well. Who is not denied any more is not named.
    wait_until(READY, "it to be written down", || {
        std::fs::read_to_string(state.path().join("issued.json")).is_ok_and(|text| text.contains("filtered"))
    })?;
    agent.restart(&node)?;
    agent.wait_ready(READY)?;
    ensure!(held(&agent)? == expected, "{:?} after the crash", held(&agent)?);
    agent.set_policy(&enforce.replace("[shop/trusted]", "[shop/trusted, shop/cart]"))?;
    wait_until(READY, "one of them to be allowed", || held(&agent).is_ok_and(|held| held == expected[1..]))?;
    let labels = [("service_account", "cart")];
    let name = "imds_guard_credentials_valid_until_timestamp_seconds";
    ensure!(agent.metrics()?.select(name, &labels).next().is_none(), "it is not shown any more");
    drop((early, idle));
    agent.stop()
}
