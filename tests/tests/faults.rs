//! What breaks around the guard: it stays closed, goes on counting, and says what is wrong.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::attack::Blow;
use guard_tests::process::successful;
use guard_tests::{Agent, DetachedMount, Driver, Node, PinnedMap, PodHandle, PodSpec, Vector, wait_until};

const DENY_ALL: &str = "version: 1\nenforce: all\ndefault: { imds: deny }\n";
const READY: Duration = Duration::from_secs(20);

/// The agent looks after what may have broken every 15 seconds.
const LOOKED_AFTER: Duration = Duration::from_secs(40);

const ATTEMPTS: &str = "imds_guard_attempts_total";
const DEGRADED: &str = "imds_guard_degraded";

fn guarded(node: &Node, policy: &str, arguments: &[&str]) -> Result<Agent> {
    let mut agent = Agent::start_with(node, policy, arguments)?;
    agent.wait_ready(READY)?;
    Ok(agent)
}

fn is_denied(pod: &PodHandle) -> Result<()> {
    let report = pod.attack(Vector::Tcp)?;
    ensure!(!report.outcome.got_bytes(), "{report:?}");
    Ok(())
}

fn is_degraded(agent: &Agent, feature: &str) -> bool {
    agent.metrics().is_ok_and(|metrics| metrics.count(DEGRADED, &[("feature", feature)]) == 1)
}

fn wait_degraded(agent: &Agent, feature: &str, degraded: bool) -> Result<()> {
    let what = format!("{feature} to be {}", if degraded { "degraded" } else { "whole again" });
    wait_until(LOOKED_AFTER, &what, || is_degraded(agent, feature) == degraded).with_context(|| agent.log())
}

#[test]
fn without_a_bpffs_it_guards_while_it_lives_and_says_that_no_longer() -> Result<()> {
    let mut node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("shop", "cart"))?;
    let mut agent = guarded(&node, DENY_ALL, &[])?;
    ensure!(!is_degraded(&agent, "pins"));

    // Somebody removes the pins: they are made again.
    fs::remove_dir_all(node.pin_path()).context("remove the pins")?;
    is_denied(&pod)?;
    wait_until(LOOKED_AFTER, "the pins to be there again", || node.pin_path().exists())?;
    agent.kill()?;
    is_denied(&pod).context("what was pinned again stands without the agent")?;
    agent.restart(&node)?;
    agent.wait_ready(READY)?;

    node.unmount_bpffs();
    is_denied(&pod)?;
    wait_degraded(&agent, "pins", true)?;
    ensure!(agent.log().contains("would end with this agent"), "{}", agent.log());
    is_denied(&pod)?;
    agent.stop()?;
    let after = pod.attack(Vector::Tcp)?;
    ensure!(after.outcome.got_bytes(), "there was nothing to stand on: {after:?}");

    // Neither can it begin with one.
    let folder = tempfile::tempdir()?;
    let nowhere = folder.path().join("imds-guard");
    let agent = guarded(&node, DENY_ALL, &["--pin-path", &nowhere.to_string_lossy()])?;
    ensure!(is_degraded(&agent, "pins") && agent.log().contains("mount -t bpf"), "{}", agent.log());
    ensure!(!nowhere.exists(), "nothing is left where no bpffs is");
    is_denied(&pod)
}

#[test]
fn a_map_of_rulings_without_room_closes_the_way() -> Result<()> {
    const FIRST: u64 = 1 << 40;
    let node = Node::new(Driver::Cgroupfs)?;
    let policy = "version: 1\nenforce: all\nunidentified: allow\ndefault: { imds: deny }\n";
    let mut agent = guarded(&node, policy, &[])?;
    let generation = fs::read_dir(node.pin_path())?.next().context("a generation")??.path();
    let map = PinnedMap::open(&generation.join("PODS"), 48)?;
    let filled = map.fill(FIRST)?;

    let pod = node.pod(PodSpec::new("shop", "late"))?;
    agent.set_pods(&node)?;
    wait_degraded(&agent, "pods_map", true)?;
    is_denied(&pod).context("its ruling has no room, so nobody without one is let through")?;
    let denied = [("service_account", "late"), ("verdict", "deny")];
    ensure!(agent.metrics()?.count(ATTEMPTS, &denied) == 1, "it is counted by its name all the same");
    ensure!(agent.log().contains("a ruling is not written"), "{}", agent.log());

    map.remove(FIRST, filled)?;
    wait_degraded(&agent, "pods_map", false)?;
    is_denied(&pod)?;
    agent.stop()
}

#[test]
fn requests_that_find_no_room_are_counted_as_lost() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("shop", "scraper"))?;
    let audit = "version: 1\nenforce: none\ndefault: { imds: deny }\n";
    let mut agent = guarded(&node, audit, &[])?;
    agent.freeze()?;
    let siege = pod.besiege(Vector::Tcp)?;
    wait_until(READY, "more requests than the buffer holds", || {
        node.simulator().seen().requests.len() > 2500
    })?;
    let tally = siege.lift()?;
    agent.thaw()?;
    let account = [("service_account", "scraper")];
    let told = || -> Result<[u64; 3]> {
        let metrics = agent.metrics()?;
        let lost = metrics.count("imds_guard_events_lost_total", &[("reason", "requests_full")]);
        Ok([metrics.count(ATTEMPTS, &account), metrics.count("imds_guard_requests_total", &account), lost])
    };
    wait_until(READY, "what was held up to be counted", || {
        told().is_ok_and(|[_, requests, lost]| requests + lost == tally.attempts)
    })
    .with_context(|| format!("{tally:?} {:?}", told()))?;
    let [attempts, _, lost] = told()?;
    ensure!(attempts == tally.attempts && lost > 0, "{attempts} of {tally:?}, {lost} lost");
    agent.stop()
}

#[test]
fn a_full_disk_takes_the_memory_and_not_the_guard() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let pod = node.pod(PodSpec::new("shop", "cart"))?;
    let disk = DetachedMount::tmpfs(128 * 1024)?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (state, events) = (text(&disk.path().join("state")), text(&disk.path().join("events.jsonl")));
    let mut agent = guarded(&node, DENY_ALL, &["--state-dir", &state, "--events", &events])?;
    let filler = disk.path().join("filler");
    ensure!(fs::write(&filler, vec![0; 256 * 1024]).is_err(), "the disk is full");

    is_denied(&pod)?;
    pod.hammer(Blow::Udp, 1000)?;
    wait_degraded(&agent, "state_folder", true)?;
    let metrics = agent.metrics()?;
    ensure!(metrics.count("imds_guard_events_lost_total", &[("reason", "log_failed")]) > 0);
    ensure!(metrics.count(ATTEMPTS, &[("service_account", "cart"), ("verdict", "deny")]) == 1001);
    // A change of the policy counts, remembered or not.
    agent.set_policy("version: 1\nenforce: none\ndefault: { imds: deny }\n")?;
    wait_until(READY, "the new policy to decide", || {
        pod.attack(Vector::Tcp).is_ok_and(|report| report.outcome.got_bytes())
    })?;

    fs::remove_file(&filler)?;
    wait_degraded(&agent, "state_folder", false)?;
    agent.stop()
}

#[test]
fn a_policy_that_is_half_written_changes_nothing_until_it_is_whole() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("shop", "cart"))?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("policy.yaml");
    fs::write(&file, DENY_ALL)?;
    let mut agent = guarded(&node, DENY_ALL, &["--policy", &folder.path().to_string_lossy()])?;
    let whole = "version: 1\nenforce: none\ndefault: { imds: allow }\n";
    let reload = |agent: &Agent| {
        agent.metrics().map(|metrics| metrics.count("imds_guard_policy_last_reload_successful", &[]))
    };
    for end in [whole.len() - 4, whole.len() / 2 + 3, 0] {
        fs::write(&file, &whole[..end])?;
        wait_until(READY, "the half to be refused", || reload(&agent).is_ok_and(|good| good == 0))?;
        is_denied(&pod).with_context(|| format!("by the first {end} bytes"))?;
        fs::write(&file, DENY_ALL)?;
        wait_until(READY, "what was there to be taken again", || reload(&agent).is_ok_and(|good| good == 1))?;
    }
    fs::write(&file, whole)?;
    wait_until(READY, "the whole to decide", || {
        pod.attack(Vector::Tcp).is_ok_and(|report| report.outcome.got_bytes())
    })?;
    agent.stop()
}

#[test]
fn a_clock_that_jumps_moves_the_ends_of_rules_and_nothing_else() -> Result<()> {
    let Some(library) = faketime() else {
        ensure!(env::var_os("CI").is_none(), "libfaketime is missing: `cargo xtask setup` installs it");
        eprintln!("SKIPPED: libfaketime is missing");
        return Ok(());
    };
    let policy = "\
version: 1
enforce: all
default: { imds: deny }
rules:
  - { name: legacy, match: { serviceAccounts: [shop/legacy] }, imds: allow, until: 2030-06-30, reason: TEST-1 }
";
    let node = Node::new(Driver::Systemd)?;
    let legacy = node.pod(PodSpec::new("shop", "legacy"))?;
    let cart = node.pod(PodSpec::new("shop", "cart"))?;
    let folder = tempfile::tempdir()?;
    let clock = folder.path().join("clock");
    let set = |time: &str| fs::write(&clock, time).context("set the clock");
    set("2030-06-01 12:00:00")?;
    let (library, clock_path) = (library.to_string_lossy(), clock.to_string_lossy());
    let environment = [
        ("LD_PRELOAD", library.as_ref()),
        ("FAKETIME_TIMESTAMP_FILE", clock_path.as_ref()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let mut agent = Agent::start_in(&node, policy, &[], &environment)?;
    agent.wait_ready(READY)?;
    let is_allowed = || legacy.attack(Vector::Tcp).is_ok_and(|report| report.outcome.got_bytes());
    ensure!(is_allowed(), "{}", agent.log());
    for (time, allowed) in
        [("2030-07-02 12:00:00", false), ("2030-06-02 12:00:00", true), ("2041-01-01 00:00:00", false)]
    {
        set(time)?;
        wait_until(LOOKED_AFTER, &format!("the rule to be {allowed} at {time}"), || is_allowed() == allowed)?;
        is_denied(&cart)?;
        agent.wait_ready(READY)?;
    }
    agent.stop()
}

#[test]
fn cgroups_that_go_while_it_decides_leave_nobody_let_through() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let mut agent = guarded(&node, DENY_ALL, &[])?;
    node.simulator().forget();
    for number in 0..40 {
        let spec = PodSpec::new("shop", "brief");
        let pod = node.pod(if number % 2 == 0 { spec } else { spec.on_host_network() })?;
        agent.set_pods(&node)?;
        let vector = [Vector::Tcp, Vector::UdpUnconnected, Vector::TcpMapped, Vector::RawTcp][number % 4];
        let siege = pod.besiege(vector)?;
        // Its processes are killed in the middle of it.
        pod.delete()?;
        drop(siege);
    }
    let seen = node.simulator().seen();
    ensure!(seen.bytes_sent() == 0 && seen.requests.is_empty(), "IMDS saw {seen:?}");
    agent.wait_ready(READY)?;
    let metrics = agent.metrics()?;
    ensure!(metrics.count(ATTEMPTS, &[("verdict", "deny")]) > 0);
    ensure!(metrics.count(ATTEMPTS, &[("verdict", "allow")]) == 0);
    agent.stop()
}

#[test]
fn ten_thousand_pods_come_and_go() -> Result<()> {
    const PODS: u64 = 10_000;
    const EACH: u64 = 100;
    let node = Node::new(Driver::Cgroupfs)?;
    let mut agent = guarded(&node, DENY_ALL, &[])?;
    let memory =
        |agent: &Agent| agent.metrics().map(|metrics| metrics.count("process_resident_memory_bytes", &[]));
    let before = memory(&agent)?;
    for number in 0..PODS {
        let pod =
            node.pod(PodSpec { has_pause: false, ..PodSpec::new("shop", "brief").on_host_network() })?;
        if number % EACH == 0 {
            agent.set_pods(&node)?;
            let tally = pod.hammer(Blow::Udp, 1)?;
            ensure!(tally.passed == 0, "{tally:?}");
        }
        pod.delete()?;
    }
    agent.wait_ready(READY)?;
    let metrics = agent.metrics()?;
    ensure!(metrics.count(ATTEMPTS, &[("verdict", "deny")]) == PODS / EACH);
    ensure!(!is_degraded(&agent, "pods_map"));
    let grown = memory(&agent)?.saturating_sub(before);
    ensure!(grown < 16 << 20, "{PODS} pods have left {grown} bytes");
    agent.stop()
}

#[test]
fn without_descriptors_new_gates_are_missing_and_their_pods_refused() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let policy = "version: 1\nenforce: all\ndefault: { imds: allow }\n";
    let early = node.pod(PodSpec::new("shop", "early"))?;
    let mut agent = guarded(&node, policy, &[])?;
    ensure!(early.attack(Vector::Tcp)?.outcome.got_bytes());
    let open = fs::read_dir(format!("/proc/{}/fd", agent.id()))?.count();
    let limit = |count: usize| -> Result<()> {
        let mut prlimit = Command::new("prlimit");
        prlimit.args([format!("--pid={}", agent.id()), format!("--nofile={count}:4096")]);
        successful(prlimit.output().context("start prlimit")?).map(drop)
    };
    limit(open + 2)?;
    let late: Vec<_> = (0..3).map(|_| node.pod(PodSpec::new("shop", "late"))).collect::<Result<_>>()?;
    agent.set_pods(&node)?;
    wait_until(READY, "it to be said", || agent.log().contains("Too many open files"))?;
    for pod in &late {
        is_denied(pod).context("its gate is missing, so it is refused")?;
    }
    limit(4096)?;
    wait_until(LOOKED_AFTER, "the gates to be open", || {
        late.iter().all(|pod| pod.attack(Vector::Tcp).is_ok_and(|report| report.outcome.got_bytes()))
    })
    .with_context(|| agent.log())?;
    ensure!(early.attack(Vector::Tcp)?.outcome.got_bytes());
    agent.stop()
}

/// The library that shows a process another time.
fn faketime() -> Option<PathBuf> {
    let libraries = fs::read_dir("/usr/lib").ok()?;
    let found = libraries.filter_map(|folder| Some(folder.ok()?.path().join("faketime/libfaketime.so.1")));
    found.into_iter().find(|path| path.exists())
}
