use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{LookUp, RUN_WITHIN};
use crate::place::Place;
use crate::process::piped;

/// In an address that the CLI signed, what stands before the id of its access key: in version 4, and in version 2.
const SIGNERS: [&str; 2] = ["X-Amz-Credential=", "AWSAccessKeyId="];

/// Signs an address: it takes credentials, and no network but for them.
pub(super) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["s3", "presign", "s3://bucket/object"]);
    command
}

/// Makes the CLI look for credentials. It tells no times: what the same command takes when it must not ask IMDS is its
/// start-up.
pub(super) fn look_up(command: impl Fn() -> Command, place: &Place) -> Result<LookUp> {
    let (output, whole) = run(command(), place)?;
    let mut without_imds = command();
    without_imds.env("AWS_EC2_METADATA_DISABLED", "true");
    let (_, start_up) = run(without_imds, place)?;
    let took = whole.saturating_sub(start_up);
    if !output.status.success() {
        return Ok(LookUp { found: None, error: Some(text(&output.stderr)), took });
    }
    let address = text(&output.stdout);
    let key = signer(&address).with_context(|| format!("nobody signed {address}"))?;
    Ok(LookUp { found: Some(key.to_owned()), error: None, took })
}

fn run(command: Command, place: &Place) -> Result<(Output, Duration)> {
    let started = Instant::now();
    let output = place.spawn(piped(command))?.output(RUN_WITHIN)?;
    Ok((output, started.elapsed()))
}

fn signer(address: &str) -> Option<&str> {
    let rest = SIGNERS.iter().find_map(|signer| Some(address.split_once(signer)?.1))?;
    rest.split(['&', '%', '/']).next()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signer_is_named_in_the_address() {
        let cases = [
            (
                "https://b/o?X-Amz-Algorithm=A&X-Amz-Credential=ASIA1%2F20260101%2Fr&X-Amz-Date=1",
                Some("ASIA1"),
            ),
            ("https://b/o?AWSAccessKeyId=ASIA2&Signature=s", Some("ASIA2")),
            ("https://b/o", None),
        ];
        for (address, expected) in cases {
            assert_eq!(signer(address), expected, "{address}");
        }
    }
}
