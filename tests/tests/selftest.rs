//! The agent proves that it guards: its canary tries the ways to IMDS, and what it finds is what the agent says.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::{Agent, Driver, Hook, Node, PodSpec, wait_until};

const DENY_ALL: &str = "version: 1\nenforce: all\ndefault: { imds: deny }\n";
/// Everybody may do everything; the canary still may not.
const ALLOW_ALL: &str = "version: 1\nenforce: none\nunidentified: allow\ndefault: { imds: allow }\n";
const OFTEN: [&str; 2] = ["--selftest-interval", "2s"];
const READY: Duration = Duration::from_secs(20);
/// What is promised: a broken guard is said within this time.
const SAID_WITHIN: Duration = Duration::from_secs(90);

/// Each vector with the hook that must refuse it.
const VECTORS: [(&str, Hook); 7] = [
    ("connect4", Hook::Connect4),
    ("connect6", Hook::Connect6),
    ("connect6_mapped", Hook::Connect6),
    ("sendmsg4", Hook::Sendmsg4),
    ("sendmsg6", Hook::Sendmsg6),
    ("raw4", Hook::Egress),
    ("raw6", Hook::Egress),
];

fn success(agent: &Agent, vector: &str) -> Result<Option<u64>> {
    let metrics = agent.metrics()?;
    let labels = [("vector", vector)];
    let known = metrics.select("imds_guard_selftest_success", &labels).next().is_some();
    Ok(known.then(|| metrics.count("imds_guard_selftest_success", &labels)))
}

#[test]
fn every_vector_is_refused_and_nobody_is_charged_for_it() -> Result<()> {
    for (driver, policy) in [(Driver::Systemd, DENY_ALL), (Driver::Cgroupfs, ALLOW_ALL)] {
        let node = Node::new(driver)?;
        let pod = node.pod(PodSpec::new("shop", "cart"))?;
        let mut agent = Agent::start_with(&node, policy, &OFTEN)?;
        agent.wait_ready(READY)?;
        for (vector, _) in VECTORS {
            ensure!(success(&agent, vector)? == Some(1), "{vector}: {}", agent.get("/metrics")?.1);
        }
        ensure!(success(&agent, "attached")? == Some(1));
        let last_run = || -> Result<u64> {
            Ok(agent.metrics()?.count("imds_guard_selftest_last_run_timestamp_seconds", &[]))
        };
        let first = last_run()?;
        wait_until(READY, "the next self-test", || last_run().is_ok_and(|now| now > first))?;

        // Seven attempts a run, and nothing of them anywhere but there.
        let metrics = agent.metrics()?;
        for counter in [
            "imds_guard_attempts_total",
            "imds_guard_egress_packets_total",
            "imds_guard_policy_rule_hits_total",
            "imds_guard_events_lost_total",
            "imds_guard_selftest_failures_total",
        ] {
            ensure!(metrics.count(counter, &[]) == 0, "{counter}: {}", agent.get("/metrics")?.1);
        }
        let status = agent.status()?;
        ensure!(status["counters"] == 0 && status["pods"].as_array().is_some_and(|pods| pods.len() == 1));
        ensure!(status["selftest"]["vectors"]["connect4"]["result"] == "shut", "{status}");
        ensure!(agent.events()?.is_empty(), "{:?}", agent.events()?);
        let seen = node.simulator().seen();
        ensure!(seen.peers.is_empty(), "{seen:?}");
        agent.stop()?;
        drop(pod);
        let place = node.cgroup_mount().join(node.guarded_root()).join("imds-guard-canary");
        ensure!(!place.exists(), "it is taken away at the end");
    }
    Ok(())
}

#[test]
fn a_program_that_somebody_detaches_is_said_and_put_back() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let root = node.cgroup_mount().join(node.guarded_root());
    let mut agent = Agent::start_with(&node, DENY_ALL, &OFTEN)?;
    agent.wait_ready(READY)?;
    for hook in [Hook::Connect4, Hook::Sendmsg6, Hook::Egress, Hook::Getpeername4] {
        ensure!(hook.detach(&root)? == 1, "{hook:?} was attached");
        // That a program is missing is seen at once, and what follows from it by the next self-test.
        let (status, why) = agent.get("/readyz")?;
        ensure!(status == 503, "{hook:?}: {status} {why}");
        let opened: Vec<_> =
            VECTORS.iter().filter(|(_, by)| *by == hook).map(|(vector, _)| *vector).collect();
        for vector in opened.iter().copied().chain(["attached"]) {
            wait_until(SAID_WITHIN, &format!("{vector} to be said to be open"), || {
                success(&agent, vector).is_ok_and(|success| success == Some(0))
            })?;
            let (status, why) = agent.get("/readyz")?;
            ensure!(status == 503 && why.contains(vector), "{hook:?}: {status} {why}");
        }
        wait_until(SAID_WITHIN, "the guard to be whole again", || {
            agent.get("/readyz").is_ok_and(|(status, _)| status == 200)
        })?;
        ensure!(!hook.programs(&root)?.is_empty(), "{hook:?} is attached again");
        let metrics = agent.metrics()?;
        for vector in opened {
            ensure!(success(&agent, vector)? == Some(1), "{vector}");
            let failures = metrics.count("imds_guard_selftest_failures_total", &[("vector", vector)]);
            ensure!(failures >= 1, "what was open for a moment stays counted");
        }
    }
    agent.stop()
}

#[test]
fn a_canary_whose_place_is_taken_away_makes_another() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let root = node.cgroup_mount().join(node.guarded_root());
    let mut agent = Agent::start_with(&node, DENY_ALL, &OFTEN)?;
    agent.wait_ready(READY)?;
    let place = root.join("imds-guard-canary");
    wait_until(READY, "its place to be free", || std::fs::remove_dir(&place).is_ok())?;
    wait_until(READY, "another place", || place.exists())?;
    let before = agent.status()?["selftest"]["last_run"].clone();
    wait_until(READY, "another self-test", || {
        agent.status().is_ok_and(|status| status["selftest"]["last_run"] != before)
    })?;
    let (status, why) = agent.get("/readyz")?;
    ensure!(status == 200, "{why}");
    ensure!(agent.metrics()?.count("imds_guard_attempts_total", &[]) == 0);
    agent.stop().context("it ends in good order")
}

#[test]
fn a_program_that_shuts_the_guard_out_is_named() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let root = node.cgroup_mount().join(node.guarded_root());
    Hook::Connect4.attach_exclusively(&root)?;
    let foreign = Hook::Connect4.programs(&root)?;
    let mut agent = Agent::start(&node, DENY_ALL)?;
    wait_until(READY, "the agent to end", || !agent.is_running())?;
    let named = format!("cgroup/connect4 at {}: floor (id {}) lets no other in", root.display(), foreign[0]);
    ensure!(agent.log().contains(&named), "{named}, but:\n{}", agent.log());
    Ok(())
}
