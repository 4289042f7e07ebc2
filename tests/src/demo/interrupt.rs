use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether somebody asked the demo to end. Every wait and every step looks at it.
#[derive(Debug)]
pub struct Interrupt(Arc<AtomicBool>);

/// Why the demo ended early: somebody asked for it.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted;

impl Interrupt {
    /// Takes SIGINT, SIGTERM and SIGHUP for a request to end, from now on.
    pub fn on_signals() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register(signal, Arc::clone(&asked)).context("handle a signal")?;
        }
        Ok(Self(asked))
    }

    /// Whether a request has come.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once a request has come.
    pub(super) fn check(&self) -> Result<()> {
        if self.is_set() { Err(Interrupted.into()) } else { Ok(()) }
    }
}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted; the private node is removed")
    }
}

impl std::error::Error for Interrupted {}
