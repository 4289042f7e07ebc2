//! The policy is read again when it changes, as a `ConfigMap` volume changes; a bad one changes nothing and says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::{Agent, Driver, Node, PodSpec, Vector, wait_until};

const READY: Duration = Duration::from_secs(20);

fn policy(enforce: &str, cart: &str) -> String {
    format!(
        "version: 1\nenforce: {enforce}\ndefault: {{ imds: deny }}\nrules:\n  - name: cart\n    \
         match: {{ serviceAccounts: [shop/cart] }}\n    imds: {cart}\n"
    )
}

#[test]
fn a_swapped_policy_decides_at_once_and_without_a_restart() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("shop", "cart"))?;
    let mut agent = Agent::start(&node, &policy("all", "allow"))?;
    agent.wait_ready(READY)?;
    let id = agent.id();
    let mut expected = sha256(&agent)?;
    for (enforce, cart, reaches) in [
        ("all", "deny", false),
        ("none", "deny", true),
        ("[{ namespaces: [shop] }]", "deny", false),
        ("all", "allow", true),
    ] {
        agent.set_policy(&policy(enforce, cart))?;
        wait_until(READY, "the new policy", || sha256(&agent).is_ok_and(|now| now != expected))?;
        expected = sha256(&agent)?;
        let report = pod.attack(Vector::Tcp)?;
        ensure!(report.outcome.got_bytes() == reaches, "enforce {enforce}, cart {cart}: {report:?}");
    }
    ensure!(agent.id() == id && agent.is_running());
    agent.stop()
}

#[test]
fn every_bad_policy_leaves_the_last_good_one_deciding() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let denied = node.pod(PodSpec::new("shop", "other").on_host_network())?;
    let allowed = node.pod(PodSpec::new("shop", "cart").on_host_network())?;
    let good = policy("all", "allow");
    let mut agent = Agent::start(&node, &good)?;
    agent.wait_ready(READY)?;
    let in_force = sha256(&agent)?;

    let bad = bad_policies()?;
    ensure!(bad.len() >= 20, "only {} bad policies", bad.len());
    for path in bad {
        let name = path.file_name().context("a fixture has a name")?.to_string_lossy().into_owned();
        agent.set_policy(&fs::read_to_string(&path)?)?;
        let refusal = refusal(&agent, &name)?;
        let expected = fs::read_to_string(path.with_extension("expected"))?;
        // The fixture's text is the same but for the name of the file, which here is the volume's.
        let messages = expected.lines().filter(|line| line.starts_with("error"));
        for message in messages {
            ensure!(refusal.contains(message), "{name}: {message:?} is not in\n{refusal}");
        }
        ensure!(agent.metrics()?.count("imds_guard_policy_last_reload_successful", &[]) == 0, "{name}");
        ensure!(sha256(&agent)? == in_force, "{name} is in force");
        ensure!(!denied.attack(Vector::Tcp)?.outcome.got_bytes(), "{name} opened the way");
        ensure!(allowed.attack(Vector::Tcp)?.outcome.got_bytes(), "{name} shut the way");

        agent.set_policy(&good)?;
        wait_until(READY, "the good policy to be accepted again", || {
            agent.metrics().is_ok_and(|m| m.count("imds_guard_policy_last_reload_successful", &[]) == 1)
        })?;
    }
    ensure!(agent.log().contains("the policy is not accepted; the last good one goes on deciding"));
    agent.stop()
}

/// Why the policy is refused, once it is.
fn refusal(agent: &Agent, name: &str) -> Result<String> {
    guard_tests::wait_for(READY, &format!("{name} to be refused"), || {
        agent.status().ok()?["policy"]["refused"].as_str().map(ToOwned::to_owned)
    })
}

fn sha256(agent: &Agent) -> Result<String> {
    agent.status()?["policy"]["sha256"].as_str().map(ToOwned::to_owned).context("a policy has a hash")
}

/// The bad fixtures of one file that is text; the folders, and what is no UTF-8, are the unit tests' matter.
fn bad_policies() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/bad");
    let mut files: Vec<PathBuf> =
        fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|path| {
        path.extension().is_some_and(|kind| kind == "yaml")
            && path.is_file()
            && fs::read_to_string(path).is_ok()
    });
    files.sort();
    Ok(files)
}
