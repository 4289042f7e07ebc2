//! `cargo xtask vm`: the privileged tests on other kernels, each in a virtual machine of its own.
//!
//! ```text
//!  apt ── kernel ──┐
//!      └─ root ────┼─ initramfs ── machine ── report
//!  programs ───────┘
//! ```
//!
//! [`MATRIX`] says which kernels there are and what runs on each. A machine has cgroup v2 alone, as nodes have.

mod apt;
mod arch;
mod cross;
mod initramfs;
mod kernel;
mod machine;
mod programs;
mod report;
mod root;

use std::{
    collections::{BTreeSet, HashMap, hash_map},
    env, fs,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{run::target, setup};
use arch::Arch;
use kernel::{Kernel, Wanted};
use machine::Course;
use programs::Programs;
use report::Report;

/// One kernel and what is run on it.
pub(crate) struct Entry {
    name: &'static str,
    kernel: Wanted,
    orders: &'static [Order],
    /// Whether CI fails when it can't be fetched.
    required: bool,
    /// What its tests may skip, because this kernel has it not.
    lacks: &'static [&'static str],
}

/// A test program, and the arguments with which it runs.
struct Order {
    test: &'static str,
    arguments: &'static str,
}

const fn all_of(test: &'static str) -> Order {
    Order { test, arguments: "" }
}

const fn some_of(test: &'static str, arguments: &'static str) -> Order {
    Order { test, arguments }
}

/// On the oldest kernel that is supported in full. Of each program it is what depends on the kernel; an emulated processor
/// takes its time, and all kernels together should take no more than five minutes on two processors.
const FULL: &[Order] = &[
    all_of("smoke"),
    some_of("attack_suite", "enforced_nobody"),
    some_of("attacks", "of_task_and_creator"),
    some_of("counts", "the_counts_of_a_deleted_pod"),
    some_of("gate", "a_sandbox_that_is_made_again"),
];

/// On those after it, which lack nothing that it has.
const LATER: &[Order] = &[all_of("smoke"), some_of("attack_suite", "enforced_nobody")];

/// On another processor: that what the programs and the agent share lies in memory as it should.
const OTHER_PROCESSOR: &[Order] = &[
    all_of("smoke"),
    some_of("attacks", "of_task_and_creator"),
    some_of("counts", "the_counts_of_a_deleted_pod"),
    some_of("gate", "a_sandbox_that_is_made_again"),
];

/// On the oldest: that the programs load, deny and count.
const SMOKE: &[Order] = &[all_of("smoke")];

/// Fast open of MPTCP came with Linux 6.2.
const BEFORE_6_2: &[&str] = &["MptcpFastOpen"];

/// The kernels. All come from Debian's archive for the release that is named; the series are those of Amazon Linux and
/// Bottlerocket.
const MATRIX: [Entry; 6] = [
    entry("6.1", Arch::X86_64, "bookworm-security", Some("6.1"), FULL, true).lacking(BEFORE_6_2),
    entry("6.12", Arch::X86_64, "bookworm-security", Some("6.12"), LATER, true),
    entry("6.18", Arch::X86_64, "trixie-backports", Some("6.18"), LATER, false),
    entry("newest", Arch::X86_64, "trixie-backports", None, LATER, false),
    entry("aarch64", Arch::Aarch64, "bookworm-security", Some("6.1"), OTHER_PROCESSOR, false)
        .lacking(BEFORE_6_2),
    entry("5.10", Arch::X86_64, "bullseye-security", Some("5.10"), SMOKE, false),
];

const fn entry(
    name: &'static str,
    arch: Arch,
    suite: &'static str,
    series: Option<&'static str>,
    orders: &'static [Order],
    required: bool,
) -> Entry {
    Entry { name, kernel: Wanted { arch, suite, series }, orders, required, lacks: &[] }
}

impl Entry {
    /// The same kernel, whose tests may skip some things.
    const fn lacking(self, lacks: &'static [&'static str]) -> Self {
        Self { lacks, ..self }
    }
}

/// Which part of the matrix is wanted.
#[derive(clap::Args)]
pub(crate) struct Choice {
    /// Only these kernels: 6.1, 6.12, 6.18, newest, aarch64, 5.10
    kernels: Vec<String>,
    /// Only this test program, and of it only the tests whose names have the second word in them
    #[arg(long, num_args = 1..=2, value_names = ["PROGRAM", "FILTER"])]
    test: Vec<String>,
}

/// Runs the matrix and prints what came of it.
pub(crate) fn run(choice: &Choice) -> Result<()> {
    let started = Instant::now();
    let chosen = choice.entries()?;
    setup::virtual_machines()?;
    let (ready, skipped) = fetch(&chosen)?;
    let machines = choice.build(ready)?;
    println!("built  everything in {:.0} s", started.elapsed().as_secs_f64());
    let began = Instant::now();
    let mut report = Report::of_skipped(skipped);
    for (machine, course) in run_all(&machines) {
        let release = machine.kernel.release.clone();
        let mut course = course.with_context(|| format!("run {release}"))?;
        for skipped in course.suites.iter().flat_map(|suite| &suite.skipped) {
            if !machine.entry.lacks.iter().any(|lack| skipped.starts_with(lack)) {
                course.complaints.push(format!("a test skipped what this kernel should have: {skipped}"));
            }
        }
        report.add(machine.entry.name, &release, course);
    }
    report.print();
    println!("{} machines in {:.0} s", machines.len(), began.elapsed().as_secs_f64());
    if report.is_good() { Ok(()) } else { bail!("not every kernel passed") }
}

impl Choice {
    fn entries(&self) -> Result<Vec<&'static Entry>> {
        for name in &self.kernels {
            if !MATRIX.iter().any(|entry| entry.name == name) {
                bail!("no kernel of the matrix is called `{name}`");
            }
        }
        let chosen =
            |entry: &&Entry| self.kernels.is_empty() || self.kernels.iter().any(|name| name == entry.name);
        Ok(MATRIX.iter().filter(chosen).collect())
    }

    /// The tests that run on a kernel: a line for each, with its arguments.
    fn orders(&self, entry: &Entry) -> Vec<(String, String)> {
        match &self.test[..] {
            [] => {
                entry.orders.iter().map(|order| (order.test.to_owned(), order.arguments.to_owned())).collect()
            }
            [test] => vec![(test.clone(), String::new())],
            [test, filter, ..] => vec![(test.clone(), filter.clone())],
        }
    }

    /// What all machines of an architecture have: the tools, the agent and the tests.
    fn shared(&self, arch: Arch) -> Result<Vec<u8>> {
        let entries = MATRIX.iter().filter(|entry| entry.kernel.arch == arch);
        let tests: BTreeSet<String> =
            entries.flat_map(|entry| self.orders(entry)).map(|(test, _)| test).collect();
        println!("build  the agent and its tests for {}", arch.target());
        let programs = Programs::build(arch, &Vec::from_iter(tests))?;
        root::shared(&root::tools(arch)?, &programs)
    }

    /// Makes every machine's files.
    fn build(&self, kernels: Vec<Ready>) -> Result<Vec<Machine>> {
        let folder = target().join("vm");
        fs::create_dir_all(&folder).with_context(|| format!("make the folder {}", folder.display()))?;
        let mut shared = HashMap::new();
        let mut machines = Vec::new();
        for (entry, kernel) in kernels {
            let arch = entry.kernel.arch;
            let shared = match shared.entry(arch) {
                hash_map::Entry::Occupied(made) => made.into_mut(),
                hash_map::Entry::Vacant(place) => place.insert(self.shared(arch)?),
            };
            let orders =
                self.orders(entry).into_iter().map(|(test, arguments)| format!("{test} {arguments}\n"));
            let own = root::own(&kernel, &orders.collect::<String>())?;
            let initramfs = folder.join(format!("{}.cpio", entry.name));
            machine::join(&[shared, &own], &initramfs)?;
            machines.push(Machine {
                entry,
                kernel,
                initramfs,
                log: folder.join(format!("{}.log", entry.name)),
            });
        }
        Ok(machines)
    }
}

/// A machine that is ready to boot.
struct Machine {
    entry: &'static Entry,
    kernel: Kernel,
    initramfs: PathBuf,
    log: PathBuf,
}

/// A kernel that is there, and what is to be run on it.
type Ready = (&'static Entry, Kernel);

/// Finds or fetches every kernel. Those that can't be had are skipped by name; CI does not do without the required ones.
fn fetch(entries: &[&'static Entry]) -> Result<(Vec<Ready>, Vec<String>)> {
    let (mut ready, mut skipped) = (Vec::new(), Vec::new());
    for &entry in entries {
        match Kernel::find_or_fetch(entry.kernel) {
            Ok(kernel) => {
                setup::step("kernel", &kernel.release);
                ready.push((entry, kernel));
            }
            Err(error) if entry.required && env::var_os("CI").is_some() => {
                return Err(
                    error.context(format!("fetch the kernel {}, which CI does not do without", entry.name))
                );
            }
            Err(error) => skipped.push(format!("{}: {error:#}", entry.name)),
        }
    }
    Ok((ready, skipped))
}

/// Runs all machines, as many at a time as there are processors, and returns what they did in their order.
fn run_all(machines: &[Machine]) -> Vec<(&Machine, Result<Course>)> {
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let courses: Mutex<Vec<(usize, Result<Course>)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..at_once.min(machines.len()) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(machine) = machines.get(place) else { break };
                    let course = machine.run();
                    courses.lock().unwrap_or_else(PoisonError::into_inner).push((place, course));
                }
            });
        }
    });
    let mut courses = courses.into_inner().unwrap_or_else(PoisonError::into_inner);
    courses.sort_by_key(|(place, _)| *place);
    courses.into_iter().map(|(place, course)| (&machines[place], course)).collect()
}

impl Machine {
    fn run(&self) -> Result<Course> {
        println!("boot   {}", self.kernel.release);
        let course = machine::run(self.entry.kernel.arch, &self.kernel, &self.initramfs, &self.log)?;
        machine::discard(&self.initramfs)?;
        Ok(course)
    }
}
