//! The gate: how many requests it passes on, what it costs to have one, and how soon a new pod has its own.
//!
//! ```text
//! throughput  wrk on one CPU ── straight │ through nginx │ through the gate ──▶ a server on the other
//! density     250 pods, audited, then gated ── the agent's memory
//! birth       200 pods, one after the other ── from the sandbox to the first answer
//! ```

mod birth;
mod density;
mod knock;
mod nginx;
mod pin;
mod throughput;
mod wrk;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::host;
pub use knock::knock;

/// Lets one service account look up the region, and no more.
const POLICY: &str = "\
version: 1
enforce: all
default: { imds: deny }
rules:
  - name: region-only
    match: { namespaces: [gated] }
    imds: { filter: { allow: [region] } }
";
/// The namespace of the pods that it speaks of.
const NAMESPACE: &str = "gated";

/// As much as comes: what is measured is the gate, not its limits.
const ARGUMENTS: [&str; 2] = ["--imds-requests-per-second", "0"];

/// How long the agent may take to guard the node.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Measures the gate and prints it. `false`: a target is missed.
pub fn gate() -> Result<bool> {
    println!("imds-guard bench gate   {}", host::describe()?);
    let started = Instant::now();
    let parts = [throughput::measure(), density::measure(), birth::measure()];
    println!("\nin {:.0} s", started.elapsed().as_secs_f64());
    // Each part says something by itself: one that fails is no reason to keep silent about the others.
    let (mut met, mut failed) = (true, Vec::new());
    for part in parts {
        match part {
            Ok(reached) => met &= reached,
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(met)
}
