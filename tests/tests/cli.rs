//! The commands beside `run`, as one types them.

use std::fs::{self, File};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::{Agent, Driver, Node, PodSpec, Vector, binary, process::successful};

const POLICY: &str = "\
version: 1
enforce: [{ namespaces: [shop] }]
help: https://wiki.example/aws
default: { imds: deny }
rules:
  - name: legacy
    match: { serviceAccounts: [shop/legacy] }
    imds: allow
    until: 2020-01-31
    reason: SEC-1
";

const READY: Duration = Duration::from_secs(20);

fn imds_guard(arguments: &[&str]) -> Result<Output> {
    Command::new(binary("imds-guard")?).args(arguments).output().context("start imds-guard")
}

#[test]
fn check_shows_every_problem_and_tells_by_its_exit_code() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("policy.yaml");
    fs::write(&path, POLICY)?;
    let accepted = imds_guard(&["check", &path.to_string_lossy()])?;
    ensure!(accepted.status.code() == Some(0));
    ensure!(String::from_utf8_lossy(&accepted.stdout).starts_with("accepted: 1 rule in 1 file, 1 warning"));
    let strict = imds_guard(&["check", "--deny-warnings", &path.to_string_lossy()])?;
    ensure!(strict.status.code() == Some(1));

    fs::write(&path, "version: 2\nenforced: all\n")?;
    let refused = imds_guard(&["check", &path.to_string_lossy()])?;
    let shown = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1));
    ensure!(shown.contains(":1:10") && shown.contains(":2:1"), "both problems have a place:\n{shown}");

    let missing = imds_guard(&["check", "/nonexistent.yaml"])?;
    ensure!(missing.status.code() == Some(1));
    ensure!(String::from_utf8_lossy(&missing.stderr).contains("/nonexistent.yaml"));
    Ok(())
}

#[test]
fn explain_says_which_rule_and_why() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("policy.yaml");
    fs::write(&path, POLICY)?;
    let explain = |account: &str| {
        let policy = path.to_string_lossy();
        let arguments = ["explain", "--policy", &policy, "--namespace", "shop", "--service-account", account];
        successful(imds_guard(&arguments)?)
    };
    let text = explain("legacy")?;
    ensure!(text.contains("imds          denied by the rule `default`"), "{text}");
    ensure!(text.contains("expired  legacy: its last day was 2020-01-31"), "{text}");
    ensure!(text.contains("Mode: enforce, because a selector of `enforce` matches"), "{text}");
    ensure!(text.contains("https://wiki.example/aws"), "{text}");
    Ok(())
}

#[test]
fn status_and_watch_show_a_running_agent() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let pod = node.pod(PodSpec::new("shop", "cart"))?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    let socket = agent.socket().to_string_lossy().into_owned();

    let status = successful(imds_guard(&["status", "--socket", &socket])?)?;
    let row = status.lines().find(|line| line.contains("cart")).context("no row for the pod")?;
    ensure!(row.contains("shop") && row.contains("denied") && row.contains("default"), "{status}");

    let folder = tempfile::tempdir()?;
    let shown = folder.path().join("shown");
    let mut watch = Command::new(binary("imds-guard")?);
    watch.args(["watch", "--socket", &socket]).stdin(Stdio::null()).stdout(File::create(&shown)?);
    let _watch = node.outside().spawn(watch)?;
    // Its subscription takes effect at some moment: attempts are made until one shows.
    let line = guard_tests::wait_for(READY, "an attempt to show", || {
        pod.attack(Vector::Tcp).ok()?;
        fs::read_to_string(&shown)
            .ok()?
            .lines()
            .find(|line| line.contains("guard-attack["))
            .map(ToOwned::to_owned)
    })?;
    ensure!(line.contains("denied") && line.contains("shop/cart"), "an event reads: {line}");
    agent.stop()
}

#[test]
fn doctor_and_completions_answer() -> Result<()> {
    let doctor = imds_guard(&["doctor", "--json"])?;
    let findings: serde_json::Value = serde_json::from_slice(&doctor.stdout)?;
    ensure!(findings.as_array().is_some_and(|items| items.len() > 5), "{findings}");
    for shell in ["bash", "zsh", "fish"] {
        ensure!(successful(imds_guard(&["completions", shell])?)?.contains("imds-guard"));
    }
    Ok(())
}

#[test]
fn run_refuses_to_start_with_a_bad_policy_and_says_where() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let mut agent = Agent::start(&node, "version: 1\nenforce: al\n")?;
    let error = agent.wait_ready(READY).expect_err("a bad policy is no policy").to_string();
    ensure!(error.contains("policy.yaml:2:10"), "{error}");
    Ok(())
}
