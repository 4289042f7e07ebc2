//! The chores of imds-guard. `cargo xtask --help` lists them.

mod cluster;
mod fuzz;
mod image;
mod run;
mod setup;
mod vm;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Find or install what building and testing need. The others call it themselves
    Setup,
    /// Guard a private node on this machine, first in audit, then in enforce, and show what its pods get
    Demo,
    /// Run all tests, those on the real kernel too
    Test {
        /// Only tests whose name has this in it
        filter: Option<String>,
    },
    /// Measure what the guard costs
    Bench { what: Bench },
    /// Keep a real Kubernetes cluster of one private node, and run the tests that need it
    #[command(subcommand)]
    Cluster(cluster::Task),
    /// Run the tests on other kernels and another processor, in virtual machines
    Vm(vm::Choice),
    /// Build the agent for its container image, and lay out the image's root file system in a folder
    Image { folder: PathBuf },
    /// Check format, lints and warnings, the kernel programs' too
    Lint,
    /// Look for a request that the agent reads in another way than the metadata service
    Fuzz {
        /// For how long, once it is built
        #[arg(default_value_t = 60)]
        seconds: u32,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Bench {
    /// What a connect and a send cost with the guard, without it, and with an empty program
    Connect,
    /// What the agent uses when nothing happens, with 250 pods
    Idle,
    /// How fast the gate is, beside nginx, what a gate takes of memory, and how soon it answers in a new pod
    Gate,
    /// How long the AWS SDKs look for credentials that they are denied, and what else can be done to them
    Sdk,
}

impl Bench {
    const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Idle => "idle",
            Self::Gate => "gate",
            Self::Sdk => "sdk",
        }
    }
}

fn main() -> ExitCode {
    match Cli::parse().chore.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ncargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Chore {
    fn run(self) -> Result<()> {
        match self {
            Self::Setup => {
                setup::run()?;
                setup::sdk::run()
            }
            Self::Demo => {
                run::need_root("demo")?;
                setup::run()?;
                run::demo(&setup::sdk::go_client()?)
            }
            Self::Test { filter } => {
                run::need_root("test")?;
                setup::run()?;
                setup::sdk::run()?;
                run::test(filter.as_deref())
            }
            Self::Bench { what } => {
                run::need_root(&format!("bench {}", what.name()))?;
                setup::run()?;
                match what {
                    Bench::Gate => setup::load_tools()?,
                    Bench::Sdk => setup::sdk::run()?,
                    Bench::Connect | Bench::Idle => {}
                }
                run::bench(what.name())
            }
            Self::Cluster(task) => task.run(),
            Self::Vm(choice) => {
                setup::run()?;
                vm::run(&choice)
            }
            Self::Image { folder } => {
                setup::compiler()?;
                image::lay_out(&folder)
            }
            Self::Lint => {
                setup::run()?;
                run::lint()
            }
            Self::Fuzz { seconds } => fuzz::fuzz(seconds),
        }
    }
}
