use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::shell::Shell;
use super::{Got, Tried};
use crate::binary::binary;
use crate::process::successful;

/// The line that a program made of an SDK prints.
#[derive(Deserialize)]
struct Printed {
    /// The id of the access key.
    found: Option<String>,
    error: Option<String>,
    milliseconds: f64,
}

/// Runs a program made of an SDK, which looks for credentials wherever an application does.
pub(super) fn look_for_credentials(shell: &Shell<'_>, program: &str, arguments: &[&str]) -> Result<Tried> {
    let program_path = binary(program).context("`cargo xtask demo` makes and names its clients")?;
    let mut command = Command::new(program_path);
    command.args(arguments).arg("credentials");
    let line = successful(shell.run(command)?)?;
    let Printed { found, error, milliseconds } =
        serde_json::from_str(&line).with_context(|| format!("not what {program} should print: {line}"))?;
    let took = Duration::try_from_secs_f64(milliseconds / 1e3).context("read the time that it took")?;
    match (found, error) {
        (Some(key), _) => Ok(Tried { got: Got::found_in(&key)?, took, said: None }),
        (None, Some(error)) => {
            // Some tell of their whole chain, a line for each link; the last link is IMDS.
            let last = error.lines().last().unwrap_or_default().trim_start();
            Ok(Tried { got: denial(last)?, took, said: Some(last.to_owned()) })
        }
        (None, None) => bail!("{program} found nothing and gives no reason"),
    }
}

/// What an SDK means with its error.
fn denial(error: &str) -> Result<Got> {
    let error = error.to_lowercase();
    if error.contains("connection refused") {
        Ok(Got::Refused)
    } else if error.contains("forbidden") || error.contains("statuscode: 403") {
        Ok(Got::Forbidden)
    } else {
        bail!("neither an answer nor a refused connection: {error}")
    }
}
