//! One agent follows another: after its end, after a crash, and while it still runs, of the same build or of one with
//! another ABI. The kernel goes on deciding all the while, and no count is lost.

use std::env;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_tests::agent::Metrics;
use guard_tests::attack::Tally;
use guard_tests::{Agent, Driver, Hook, Node, PodHandle, PodSpec, Vector, wait_until};

const POLICY: &str = "\
version: 1
enforce: all
default: { imds: deny }
rules:
  - name: trusted
    match: { serviceAccounts: [shop/trusted] }
    imds: allow
";

const READY: Duration = Duration::from_secs(20);
const ATTEMPTS: &str = "imds_guard_attempts_total";

/// How often the agent is killed, and how long it lives at most until then.
const KILLS: u64 = 200;
const LIVES: Duration = Duration::from_millis(700);

const UPGRADES: usize = 20;

/// Those who try all the time to get what they are denied.
const VECTORS: [Vector; 4] = [Vector::Tcp, Vector::TcpMapped, Vector::UdpUnconnected, Vector::RawTcp];

/// The build with another version of the kernel's ABI.
fn next_abi() -> Result<PathBuf> {
    let path = env::var_os("IMDS_GUARD_NEXT_ABI_BIN").context(
        "IMDS_GUARD_NEXT_ABI_BIN must name an agent built with `--features imds-guard/next-abi`: `cargo xtask test` does",
    )?;
    Ok(path.into())
}

fn account(vector: Vector) -> String {
    format!("denied-{}", vector.name())
}

fn denied_pods(node: &Node) -> Result<Vec<(Vector, PodHandle)>> {
    VECTORS
        .into_iter()
        .map(|vector| Ok((vector, node.pod(PodSpec::new("shop", &account(vector)).on_host_network())?)))
        .collect()
}

/// What was counted of one who was denied: attempts, and packets of a raw socket.
fn counted(metrics: &Metrics, vector: Vector) -> u64 {
    let account = account(vector);
    let labels = [("service_account", account.as_str()), ("verdict", "deny"), ("mode", "enforce")];
    let name = if vector == Vector::RawTcp { "imds_guard_egress_packets_total" } else { ATTEMPTS };
    metrics.count(name, &labels)
}

/// Nobody got a byte, and each attempt is counted, exactly.
fn check_denied(metrics: &Metrics, denied: &[(Vector, Tally)]) -> Result<()> {
    for (vector, tally) in denied {
        ensure!(tally.attempts > 100 && tally.bytes == 0, "{vector:?}: {tally:?}");
        let counted = counted(metrics, *vector);
        ensure!(counted == tally.attempts, "{vector:?}: {counted} of {} are counted", tally.attempts);
    }
    Ok(())
}

#[test]
fn the_guard_outlives_its_agent_and_the_next_one_counts_on() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let denied = node.pod(PodSpec::new("shop", "cart"))?;
    let trusted = node.pod(PodSpec::new("shop", "trusted").on_host_network())?;
    let folder = tempfile::tempdir()?;
    let state = folder.path().to_string_lossy().into_owned();
    let mut agent = Agent::start_with(&node, POLICY, &["--state-dir", &state])?;
    agent.wait_ready(READY)?;
    ensure!(!denied.attack(Vector::Tcp)?.outcome.got_bytes());
    let root = node.cgroup_mount().join(node.guarded_root());
    let attached = || Hook::ALL.into_iter().map(|hook| hook.programs(&root)).collect::<Result<Vec<_>>>();
    let programs = attached()?.iter().map(Vec::len).collect::<Vec<_>>();

    let labels = [("service_account", "cart"), ("verdict", "deny")];
    for (restarts, ending) in (1..).zip([Agent::stop, Agent::kill, Agent::stop]) {
        ending(&mut agent)?;
        // Without an agent: who is denied is refused, and who goes straight goes on.
        ensure!(!denied.attack(Vector::Tcp)?.outcome.got_bytes(), "the guard stands");
        ensure!(trusted.attack(Vector::Tcp)?.outcome.got_bytes(), "who is allowed goes straight");
        agent.restart(&node)?;
        agent.wait_ready(READY)?;
        let counted = agent.metrics()?.count(ATTEMPTS, &labels);
        ensure!(counted == 1 + restarts, "{counted} attempts after {restarts} restarts");
        let now = attached()?.iter().map(Vec::len).collect::<Vec<_>>();
        ensure!(now == programs, "one program at each hook: {now:?}");
        let status = agent.status()?;
        ensure!(status["pods"][0]["started_unguarded"] == true, "known from the first start: {status}");
    }
    let since = node.pod(PodSpec::new("shop", "late"))?;
    agent.set_pods(&node)?;
    agent.restart(&node)?;
    agent.wait_ready(READY)?;
    let is_late = |pod: &&serde_json::Value| pod["service_account"] == "late";
    let status = agent.status()?;
    let late = status["pods"].as_array().and_then(|pods| pods.iter().find(is_late)).context("it is there")?;
    ensure!(late["started_unguarded"] == false, "it was guarded from its start: {late}");
    drop(since);
    // What is told of one attempt is told once, over all the starts.
    let told = agent.events()?.iter().filter(|event| event["imds_guard.service_account"] == "cart").count();
    ensure!(told <= 8, "{told} events of 4 attempts at a gate, two each at most");
    agent.stop()
}

#[test]
fn killed_at_random_it_lets_nobody_through_and_loses_no_count() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let trusted = node.pod(PodSpec::new("shop", "trusted"))?;
    let denied = denied_pods(&node)?;
    let folder = tempfile::tempdir()?;
    let state = folder.path().to_string_lossy().into_owned();
    let mut agent = Agent::start_with(&node, POLICY, &["--state-dir", &state])?;
    agent.wait_ready(READY)?;

    let mut shut = Vec::new();
    for _ in 0..5 {
        ensure!(trusted.attack(Vector::Tcp)?.outcome.got_bytes());
        let killed = Instant::now();
        agent.restart(&node)?;
        wait_until(READY, "the gate to be open again", || {
            trusted.attack(Vector::Tcp).is_ok_and(|report| report.outcome.got_bytes())
        })?;
        shut.push(killed.elapsed());
    }
    shut.sort_unstable();
    println!("after kill -9 and a restart a gate is open again after {shut:.2?}");

    node.simulator().forget();
    let sieges: Vec<_> =
        denied.iter().map(|(vector, pod)| Ok((*vector, pod.besiege(*vector)?))).collect::<Result<_>>()?;
    let mut random = u64::from(std::process::id());
    let mut was_ready = 0;
    for _ in 0..KILLS {
        // Any sequence that differs between runs will do.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let lives = LIVES * u32::try_from(random >> 48)? / (1 << 16);
        let dies = Instant::now() + lives;
        while Instant::now() < dies {
            std::thread::sleep(Duration::from_millis(5));
        }
        was_ready += usize::from(agent.get("/readyz").is_ok_and(|(status, _)| status == 200));
        agent.restart(&node)?;
    }
    agent.wait_ready(READY)?;
    println!("of {KILLS} agents {was_ready} were ready when they were killed");
    let tallies: Vec<_> =
        sieges.into_iter().map(|(vector, siege)| Ok((vector, siege.lift()?))).collect::<Result<_>>()?;
    let seen = node.simulator().seen();
    ensure!(seen.bytes_sent() == 0 && seen.requests.is_empty(), "IMDS saw {seen:?}");
    check_denied(&agent.metrics()?, &tallies)?;
    agent.stop()
}

#[test]
fn through_upgrades_nobody_is_let_through_and_nobody_is_refused() -> Result<()> {
    let builds = [next_abi()?, guard_tests::binary("imds-guard")?];
    let node = Node::new(Driver::Systemd)?;
    let trusted = node.pod(PodSpec::new("shop", "trusted"))?;
    let denied = denied_pods(&node)?;
    let folder = tempfile::tempdir()?;
    let state = folder.path().to_string_lossy().into_owned();
    let unlimited = ["--state-dir", &state, "--imds-requests-per-second", "0"];
    let mut agent = Agent::start_with(&node, POLICY, &unlimited)?;
    agent.wait_ready(READY)?;
    let generations = || -> Result<usize> { Ok(std::fs::read_dir(node.pin_path())?.count()) };

    let sieges: Vec<_> =
        denied.iter().map(|(vector, pod)| Ok((*vector, pod.besiege(*vector)?))).collect::<Result<_>>()?;
    let fetching = trusted.besiege(Vector::Tcp)?;
    let mut took = Vec::new();
    for build in builds.iter().cycle().take(UPGRADES) {
        let began = Instant::now();
        agent.upgrade(&node, build, READY)?;
        took.push(began.elapsed());
        ensure!(generations()? == 1, "an orphan is left");
    }
    let fetched = fetching.lift()?;
    ensure!(fetched.errors.is_empty() && fetched.bytes > 0, "who is allowed was refused: {fetched:?}");
    let tallies: Vec<_> =
        sieges.into_iter().map(|(vector, siege)| Ok((vector, siege.lift()?))).collect::<Result<_>>()?;
    check_denied(&agent.metrics()?, &tallies)?;
    let allowed = agent.metrics()?.count(ATTEMPTS, &[("service_account", "trusted"), ("verdict", "allow")]);
    ensure!(allowed == fetched.attempts, "{allowed} of {} are counted", fetched.attempts);
    took.sort_unstable();
    println!(
        "{UPGRADES} upgrades, {:.2?} each; {} fetches, none refused",
        took[took.len() / 2],
        fetched.attempts
    );
    agent.stop()
}
