//! The gate, from inside its pods: what it answers, to whom, and that nobody else is answered.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::{Agent, Driver, Node, PodSpec};

const READY: Duration = Duration::from_secs(20);

const POLICY: &str = "version: 1
enforce: all
help: https://wiki.example/aws
default: { imds: deny }
rules:
  - name: metadata-only
    match: { serviceAccounts: [shop/web] }
    imds: { filter: { allow: [region] } }
  - name: v2-only
    match: { serviceAccounts: [shop/strict] }
    imds: { filter: { allow: [all], tokens: required } }
  - name: trusted
    match: { serviceAccounts: [shop/api] }
    imds: allow
";

/// What curl got: the status and the body.
fn ask(pod: &guard_tests::Place, arguments: &[&str]) -> Result<(u16, String)> {
    let mut curl = Command::new("curl");
    curl.args(["--disable", "--silent", "--show-error", "--noproxy", "*", "--max-time", "5", "--include"])
        .args(arguments);
    let output = pod.run(curl)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.with_context(|| format!("no answer: {text}"))?, text))
}

#[test]
fn each_verdict_is_answered_over_both_families() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let denied = node.pod(PodSpec::new("shop", "cart"))?;
    let filtered = node.pod(PodSpec::new("shop", "web"))?;
    let allowed = node.pod(PodSpec::new("shop", "api"))?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    for host in ["169.254.169.254", "[fd00:ec2::254]"] {
        let url = |path: &str| format!("http://{host}/latest/{path}");
        let (status, body) = ask(&denied, &[&url("meta-data/placement/region")])?;
        ensure!(status == 403 && body.contains("shop/cart may not use IMDS"), "{body}");
        let (status, body) = ask(&filtered, &[&url("meta-data/placement/region")])?;
        ensure!(status == 200 && body.ends_with("eu-west-1"), "{body}");
        let (status, body) = ask(&filtered, &[&url("meta-data/iam/security-credentials/")])?;
        ensure!(status == 403 && body.contains("credentials"), "{body}");
        let (status, body) = ask(&allowed, &[&url("meta-data/iam/security-credentials/")])?;
        ensure!(status == 200, "{body}");
    }
    println!("{}", agent.get("/metrics")?.1);
    println!("{}", agent.log());
    agent.stop()
}
