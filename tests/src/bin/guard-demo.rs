//! Shows what imds-guard does, on a private node of its own: `cargo xtask demo`.
//!
//! It only turns signals and errors into an exit code; the demo is in [`guard_tests::demo`].

use std::process::ExitCode;

use clap::Parser;
use guard_tests::demo::{self, Interrupt, Interrupted};

/// Guards a private node on this machine, first in audit, then in enforce, and shows what its pods get
#[derive(Parser)]
#[command(version)]
struct Arguments {}

fn main() -> ExitCode {
    let Arguments {} = Arguments::parse();
    // An interrupt is a flag and not an end: what the demo made is removed on the way out, by the drops.
    let ended = Interrupt::on_signals().and_then(|interrupt| match demo::run(&interrupt) {
        // What an interrupt breaks is no finding.
        Err(_) if interrupt.is_set() => Err(Interrupted.into()),
        ended => ended,
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("\n{error}");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("\nguard-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
