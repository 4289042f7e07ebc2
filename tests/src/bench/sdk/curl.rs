use std::process::{Command, Output};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::place::Place;
use crate::sdk::LookUp;
use crate::simulator::{IMDS_V4, NODE_ROLE};

/// In seconds. Left to itself, curl waits for as long as the kernel tries to connect: more than two minutes.
pub(super) const PATIENCE: u8 = 10;

/// Looks for credentials as a script does: a session token, then the role's credentials.
pub(super) fn look_up(place: &Place) -> Result<LookUp> {
    let started = Instant::now();
    let answer = credentials(place)?;
    let took = started.elapsed();
    if !answer.status.success() {
        let error = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
        return Ok(LookUp { found: None, error: Some(error), took });
    }
    let credentials: Value = serde_json::from_slice(&answer.stdout).context("read the credentials")?;
    let key = credentials["AccessKeyId"].as_str().context("credentials without a key")?;
    Ok(LookUp { found: Some(key.to_owned()), error: None, took })
}

/// The answer with the credentials, or the first one on the way that is none.
fn credentials(place: &Place) -> Result<Output> {
    let lifetime = ["-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60"];
    let token = request(place, "api/token", &lifetime)?;
    if !token.status.success() {
        return Ok(token);
    }
    let token = format!("X-aws-ec2-metadata-token: {}", String::from_utf8_lossy(&token.stdout));
    request(place, &format!("meta-data/iam/security-credentials/{NODE_ROLE}"), &["-H", &token])
}

fn request(place: &Place, path: &str, arguments: &[&str]) -> Result<Output> {
    let mut curl = Command::new("curl");
    // `--disable` keeps the machine's own curlrc out of it.
    curl.args(["--disable", "--silent", "--show-error", "--fail", "--noproxy", "*"])
        .args(["--max-time", &PATIENCE.to_string()])
        .args(arguments)
        .arg(format!("http://{IMDS_V4}/latest/{path}"));
    place.run(curl)
}
