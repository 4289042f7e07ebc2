use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long to leave the machine alone between two looks at a condition.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// Waits until `condition` holds; an error that says `what` was awaited when it does not hold `within` that time.
pub fn wait_until(within: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    wait_for(within, what, || condition().then_some(()))
}

/// Waits until `look` finds something, and returns it; an error that says `what` was awaited when nothing is found
/// `within` that time.
pub fn wait_for<T>(within: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        // The time is taken first, so that a look that was slow itself is never the reason to give up.
        let expired = Instant::now() >= deadline;
        if let Some(found) = look() {
            return Ok(found);
        }
        if expired {
            bail!("waited {within:?} in vain for {what}");
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
}
