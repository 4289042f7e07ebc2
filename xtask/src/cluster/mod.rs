//! The cluster: its parts are found or made here; the package `guard-cluster` runs it and has its tests.

mod kubernetes;
mod parts;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

use crate::{
    image,
    run::{cargo, cargo_path, need_root, run, run_tests, shown, target},
    setup::{self, output},
};
use parts::Parts;

/// How long to leave the machine alone between two looks at a cluster that starts.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

#[derive(Subcommand)]
pub(crate) enum Task {
    /// Start a cluster in the background, or give the one that runs the agent's newest image
    Up,
    /// End the cluster that runs
    Down,
    /// Run the tests that need a cluster, in the one that runs or in one of their own
    Test {
        /// Only tests whose name has this in it
        filter: Option<String>,
    },
    /// Run kubectl against the cluster that runs
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

impl Task {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Up => {
                need_root("cluster up")?;
                up(&Interrupt::on_signals()?)
            }
            Self::Down => {
                need_root("cluster down")?;
                run(supervisor()?.arg("down"))
            }
            Self::Test { filter } => {
                need_root("cluster test")?;
                test(filter.as_deref())
            }
            Self::Kubectl { arguments } => {
                need_root("cluster kubectl")?;
                let mut kubectl = supervisor()?;
                kubectl.arg("kubectl").args(arguments);
                // It takes this process's place, so that an interrupt is kubectl's own.
                Err(kubectl.exec()).with_context(|| format!("start {}", shown(&kubectl)))
            }
        }
    }
}

fn test(filter: Option<&str>) -> Result<()> {
    // From now on an interrupt ends what runs in the foreground, and then the cluster goes down.
    let interrupt = Interrupt::on_signals()?;
    let was_up = supervisor().and_then(state)? == "ready";
    let outcome = up(&interrupt).and_then(|()| {
        interrupt.check()?;
        let mut test = Command::new(cargo_path());
        test.args(["test", "--no-fail-fast", "--lib", "--bins", "--tests", "--package", "guard-cluster"]);
        run_tests(test.args(filter))
    });
    if was_up {
        return outcome;
    }
    let down = supervisor().and_then(|mut supervisor| run(supervisor.arg("down")));
    outcome.and(down)
}

fn up(interrupt: &Interrupt) -> Result<()> {
    setup::run()?;
    let parts = Parts::find_or_make()?;
    println!("build  the agent's image (the first time takes some minutes)");
    let agent = target().join("cluster-image");
    image::lay_out(&agent)?;
    if state(supervisor()?)? == "ready" {
        println!("node   runs already, and gets the new image");
        return run(supervisor()?.arg("load").arg(agent));
    }
    interrupt.check()?;
    let log = target().join("cluster.log");
    let file = File::create(&log).with_context(|| format!("make {}", log.display()))?;
    let mut serve = supervisor()?;
    serve.arg("serve").arg("--kubernetes").arg(&parts.kubernetes).arg("--python").arg(&parts.python);
    serve.arg("--agent").arg(agent);
    // A group of its own: an interrupt here must not end a cluster that is ready.
    let child = serve.process_group(0).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
    let child = child.with_context(|| format!("start {}", shown(&serve)))?;
    watch_start(child, &log, interrupt)
}

/// Shows what the cluster prints until it is ready, or has ended.
fn watch_start(mut child: Child, log: &Path, interrupt: &Interrupt) -> Result<()> {
    let mut log = File::open(log).with_context(|| format!("open {}", log.display()))?;
    loop {
        // Both before the log is read, so that nothing is missed.
        let ready = state(supervisor_built())? == "ready";
        let ended = child.try_wait()?;
        let mut text = Vec::new();
        log.read_to_end(&mut text).context("read what the cluster prints")?;
        io::stdout().write_all(&text)?;
        if let Some(status) = ended {
            bail!("the cluster did not start ({status})");
        }
        if ready {
            return Ok(());
        }
        if interrupt.check().is_err() {
            run(supervisor_built().arg("down"))?;
            return interrupt.check();
        }
        thread::sleep(BETWEEN_LOOKS);
    }
}

/// What the cluster says it is: `ready`, `starting` or `none`.
fn state(mut supervisor: Command) -> Result<String> {
    output(supervisor.arg("status")).with_context(|| format!("{} failed", shown(&supervisor)))
}

/// The program that runs the cluster, built anew.
fn supervisor() -> Result<Command> {
    if !Path::new(supervisor_built().get_program()).exists() {
        println!("build  the cluster's programs (some minutes, once)");
    }
    cargo(["build", "--quiet", "--package", "guard-cluster", "--bins"])?;
    Ok(supervisor_built())
}

fn supervisor_built() -> Command {
    Command::new(target().join("debug/guard-cluster"))
}

/// Whether somebody asked for the end.
struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn on_signals() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register(signal, Arc::clone(&asked)).context("handle a signal")?;
        }
        Ok(Self(asked))
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}
