//! The `imds-guard` binary: parses the command line and prints an error once.

use std::process::ExitCode;

use clap::Parser;
use imds_guard::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("imds-guard: {error:#}");
            ExitCode::FAILURE
        }
    }
}
