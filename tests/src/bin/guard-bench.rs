//! Measures what the guard costs, and fails when a target is missed.
//!
//! It only reads the command line; the benches are in [`guard_tests::bench`].

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use guard_tests::bench;

/// Measures what the guard costs
#[derive(Parser)]
#[command(version)]
enum Arguments {
    /// What a connect and a send cost with the guard, without it, and with an empty program
    Connect,
    /// What the agent uses when nothing happens, with 250 pods
    Idle,
    /// How fast the gate is, beside nginx, what a gate takes of memory, and how soon it answers in a new pod
    Gate,
    /// Ask IMDS until somebody answers, wherever this was started
    #[command(hide = true)]
    Knock,
    /// How long the AWS SDKs look for credentials that they are denied, and what else can be done to them
    Sdk,
    /// Make the calls that are measured, wherever this was started
    #[command(hide = true)]
    Worker,
}

fn main() -> Result<ExitCode> {
    let met = match Arguments::parse() {
        Arguments::Connect => bench::connect()?,
        Arguments::Idle => bench::idle()?,
        Arguments::Gate => bench::gate()?,
        Arguments::Knock => {
            bench::knock()?;
            true
        }
        Arguments::Sdk => bench::sdk()?,
        Arguments::Worker => {
            bench::serve()?;
            true
        }
    };
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
