use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::time::ClockId;
use nix::unistd::Pid;

use super::host;
use super::memory::Memory;
use super::report::{Report, Verdict};
use crate::agent::Agent;
use crate::node::{Driver, Node, PodHandle, PodSpec, Qos};
use crate::random;

/// As many pods as the largest nodes have.
const PODS: usize = 250;
/// Service accounts have several pods each, as deployments do.
const PODS_PER_ACCOUNT: usize = 3;

const POLICY: &str = "version: 1\nenforce: all\ndefault: { imds: deny }\n";

const READY_WITHIN: Duration = Duration::from_secs(30);
/// What the agent does once after its start is over by then.
const SETTLE: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_mins(1);
/// How often Prometheus asks.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(15);

/// The most that the agent may use: resident memory, and a share of one CPU.
const MEMORY_TARGET_MIB: f64 = 20.0;
/// Loading the programs takes more for a moment, for which a memory limit must leave room.
const PEAK_TARGET_MIB: f64 = 32.0;
const CPU_TARGET_PERCENT: f64 = 0.2;

/// Measures what the agent uses when nothing happens, and prints it. `false`: a target is missed.
pub fn idle() -> Result<bool> {
    println!("imds-guard bench idle   {}", host::describe()?);
    let node = Node::new(Driver::Cgroupfs)?;
    let pods = pods(&node)?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY_WITHIN)?;
    println!(
        "{} pods; {window} s of nothing, then {window} s of scrapes",
        pods.len(),
        window = WINDOW.as_secs()
    );
    sleep(SETTLE);

    let usage = Usage::of(&agent)?;
    let quiet = usage.cpu_percent(|| {
        sleep(WINDOW);
        Ok(())
    })?;
    let memory = Memory::of(agent.id())?;
    let scraped = usage.cpu_percent(|| scrape(&agent))?;
    let memory_scraped = Memory::of(agent.id())?;

    let mut report = Report::new(&["what", "measured", "target"]);
    let mib = |kib: f64| format!("{:.1} MiB", kib / 1024.0);
    let percent = |share: f64| format!("{share:.3} %");
    let resident = memory.resident.max(memory_scraped.resident);
    for (what, kib, target) in [
        ("resident memory", resident, MEMORY_TARGET_MIB),
        ("its own part of the memory", memory_scraped.anonymous, MEMORY_TARGET_MIB),
        ("resident memory at its peak, the start included", memory_scraped.peak, PEAK_TARGET_MIB),
    ] {
        let verdict = Verdict::at_most(target, kib / 1024.0);
        report.row(&[what.to_owned(), mib(kib), format!("≤ {target:.0} MiB")], verdict);
    }
    for (what, share) in [("of a CPU", quiet), ("of a CPU, scraped every 15 s", scraped)] {
        let verdict = Verdict::at_most(CPU_TARGET_PERCENT, share);
        report.row(&[what.to_owned(), percent(share), format!("≤ {CPU_TARGET_PERCENT} %")], verdict);
    }
    Ok(report.print())
}

/// Pods of every class with the cgroups that a kubelet makes: one for the pause container, one or two for the others.
fn pods(node: &Node) -> Result<Vec<PodHandle>> {
    let classes = [Qos::Burstable, Qos::BestEffort, Qos::Guaranteed];
    let pod = |number: usize| -> Result<PodHandle> {
        let account = number / PODS_PER_ACCOUNT;
        let spec = PodSpec::new(&format!("team-{}", account % 10), &format!("service-{account}"));
        // A network of their own would change nothing here and take a minute to make.
        let pod = node.pod(PodSpec { qos: classes[number % classes.len()], ..spec.on_host_network() })?;
        for _ in 0..=number % 2 {
            pod.pod_cgroup().create(&random::hex(32)?)?;
        }
        Ok(pod)
    };
    (0..PODS).map(pod).collect()
}

fn scrape(agent: &Agent) -> Result<()> {
    let scrapes = WINDOW.as_secs() / SCRAPE_INTERVAL.as_secs();
    for _ in 0..scrapes {
        sleep(SCRAPE_INTERVAL);
        let (status, _) = agent.get("/metrics")?;
        ensure!(status == 200, "/metrics answered {status}");
    }
    Ok(())
}

/// Reads how much of a CPU a process uses.
struct Usage {
    clock: ClockId,
}

impl Usage {
    fn of(agent: &Agent) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(agent.id()).context("a process id fits")?);
        // utime and stime of /proc/PID/stat count in hundredths of a second: too coarse here.
        let clock = ClockId::pid_cpu_clock_id(pid).context("find the agent's CPU clock")?;
        Ok(Self { clock })
    }

    /// Does `work` and tells how much of one CPU the process used meanwhile.
    fn cpu_percent(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let (used, started) = (self.cpu_time()?, Instant::now());
        work()?;
        let used = self.cpu_time()?.saturating_sub(used);
        Ok(100.0 * used.as_secs_f64() / started.elapsed().as_secs_f64())
    }

    fn cpu_time(&self) -> Result<Duration> {
        Ok(self.clock.now().context("read the agent's CPU clock")?.into())
    }
}
