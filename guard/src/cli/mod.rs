//! The command line. Each command is a struct of its arguments with a `run`.

mod boot;
mod canary;
mod check;
mod cleanup;
mod completions;
mod doctor;
mod explain;
mod host;
mod run;
mod status;
mod style;
mod uninstall;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// See which pods still use the node's IAM role, and stop them, without breaking the ones that must.
#[derive(Debug, Parser)]
#[command(name = "imds-guard", version, max_term_width = 110)]
#[command(after_help = "\
Start here:
  imds-guard doctor                  what this host can do
  imds-guard check policy.yaml       is the policy right, and if not, where
  imds-guard run --pods-from pods.json --policy policy/
  imds-guard watch                   who asks for what, as it happens")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Explain(explain::Explain),
    Watch(watch::Watch),
    Status(status::Status),
    Doctor(doctor::Doctor),
    Boot(boot::Boot),
    Cleanup(cleanup::Cleanup),
    Uninstall(uninstall::Uninstall),
    Completions(completions::Completions),
    #[command(hide = true)]
    Canary(canary::Canary),
}

impl Cli {
    /// Runs the command. An error is for `main` to print, once.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(run) => run.run(),
            Command::Check(check) => check.run(),
            Command::Explain(explain) => explain.run(),
            Command::Watch(watch) => watch.run(),
            Command::Status(status) => status.run(),
            Command::Doctor(doctor) => doctor.run(),
            Command::Boot(boot) => boot.run(),
            Command::Uninstall(uninstall) => uninstall.run(),
            Command::Cleanup(cleanup) => cleanup.run(),
            Command::Completions(completions) => completions.run(),
            Command::Canary(canary) => canary.run(),
        }
    }
}

/// Runs a client command to its end.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}
