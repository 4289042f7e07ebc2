use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::civil::DateTime;

use super::{LookUp, RUN_WITHIN};
use crate::place::Place;
use crate::process::piped;

/// In an address that the CLI signed, what stands before the id of its access key: in version 4, and in version 2.
const SIGNERS: [&str; 2] = ["X-Amz-Credential=", "AWSAccessKeyId="];

/// Where it goes along its chain of sources.
const LOOKS: &str = " - botocore.credentials - DEBUG - Looking for credentials via: ";
/// What it does next, with credentials or without.
const GOES_ON: &str = " - botocore.loaders - DEBUG - ";

/// Signs an address, which takes credentials, and no network but for them; and logs what it does and when. (A look-up
/// is a fraction of the CLI's start-up, and less than its start-up differs from one time to the next.)
pub(super) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["s3", "presign", "s3://bucket/object", "--debug"]);
    command
}

pub(super) fn look_up(command: Command, place: &Place) -> Result<LookUp> {
    let output = place.spawn(piped(command))?.output(RUN_WITHIN)?;
    let (address, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let took = time_looked(&log).with_context(|| format!("it does not log how it looks:\n{log}"))?;
    if !output.status.success() {
        let error = log.trim_end().lines().last().map(ToOwned::to_owned);
        return Ok(LookUp { found: None, error, took });
    }
    let key = signer(&address).with_context(|| format!("nobody signed {address}"))?;
    Ok(LookUp { found: Some(key.to_owned()), error: None, took })
}

/// From the first source until all have been asked.
fn time_looked(log: &str) -> Option<Duration> {
    let mut lines = log.lines().skip_while(|line| !line.contains(LOOKS));
    let begin = time(lines.next()?)?;
    let end = time(lines.find(|line| line.contains(GOES_ON))?)?;
    end.duration_since(begin).try_into().ok()
}

/// When a line was logged.
fn time(line: &str) -> Option<DateTime> {
    line.split_once(" - ")?.0.replace(',', ".").parse().ok()
}

fn signer(address: &str) -> Option<&str> {
    let rest = SIGNERS.iter().find_map(|signer| Some(address.split_once(signer)?.1))?;
    rest.split(['&', '%', '/']).next()
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

    #[test]
    fn the_log_tells_how_long_it_looked() {
        let log = "\
2026-01-01 23:59:58,900 - MainThread - botocore.loaders - DEBUG - Loading JSON file: before.json
2026-01-01 23:59:59,900 - MainThread - botocore.credentials - DEBUG - Looking for credentials via: env
2026-01-01 23:59:59,901 - MainThread - botocore.credentials - DEBUG - Looking for credentials via: iam-role
Traceback (most recent call last):
2026-01-02 00:00:01,150 - MainThread - botocore.loaders - DEBUG - Loading JSON file: endpoints.json
2026-01-02 00:00:02,150 - MainThread - botocore.loaders - DEBUG - Loading JSON file: s3.json
";
        assert_eq!(time_looked(log), Some(Duration::from_millis(1250)));
        assert_eq!(time_looked("Unknown options: --debug\n"), None);
    }
}
