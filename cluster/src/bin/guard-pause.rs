//! Does nothing until it is asked to end: what holds a pod's namespaces, and what a pod without work runs.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> Result<()> {
    // A first process gets only the signals that it handles.
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("handle signals")?;
    signals.forever().next();
    Ok(())
}
