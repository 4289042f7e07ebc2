use std::net::IpAddr;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use super::shell::Shell;
use super::{Got, Tried};

/// How curl ends when it can't connect, and when the answer is an error.
const NO_CONNECTION: i32 = 7;
const ERROR_ANSWERED: i32 = 22;

/// Why curl got nothing.
struct Denial {
    got: Got,
    said: String,
}

/// Asks for the name of the node's role, and then for its credentials.
pub(super) fn look_for_credentials(shell: &Shell<'_>, address: IpAddr) -> Result<Tried> {
    look(|| {
        let root = root(address);
        let token = match token(shell, &root)? {
            Ok(token) => token,
            denied => return Ok(denied),
        };
        let roles = format!("{root}/meta-data/iam/security-credentials/");
        match request(shell, &roles, &["-H", &token])? {
            Ok(role) => request(shell, &format!("{roles}{role}"), &["-H", &token]),
            denied => Ok(denied),
        }
    })
}

pub(super) fn look_for_region(shell: &Shell<'_>, address: IpAddr) -> Result<Tried> {
    look(|| {
        let root = root(address);
        match token(shell, &root)? {
            Ok(token) => request(shell, &format!("{root}/meta-data/placement/region"), &["-H", &token]),
            denied => Ok(denied),
        }
    })
}

/// Looks, and takes the time; the inner error is the first denial on the way.
fn look(ask: impl FnOnce() -> Result<Result<String, Denial>>) -> Result<Tried> {
    let started = Instant::now();
    let (got, said) = match ask()? {
        Ok(text) => (Got::found_in(&text)?, None),
        Err(Denial { got, said }) => (got, Some(said)),
    };
    Ok(Tried { got, took: started.elapsed(), said })
}

fn root(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("http://{v4}/latest"),
        IpAddr::V6(v6) => format!("http://[{v6}]/latest"),
    }
}

/// A session token, as the header that shows it.
fn token(shell: &Shell<'_>, root: &str) -> Result<Result<String, Denial>> {
    let lifetime = ["-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60"];
    let token = request(shell, &format!("{root}/api/token"), &lifetime)?;
    Ok(token.map(|token| format!("X-aws-ec2-metadata-token: {token}")))
}

/// One request of curl's: the body of a good answer, or the denial.
fn request(shell: &Shell<'_>, url: &str, arguments: &[&str]) -> Result<Result<String, Denial>> {
    let mut curl = Command::new("curl");
    // `--disable` keeps the machine's own curlrc out of it.
    curl.args(["--disable", "--silent", "--show-error", "--fail-with-body", "--noproxy", "*"])
        .args(["--max-time", "5"])
        .args(arguments)
        .arg(url);
    let output = shell.run(curl)?;
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    match output.status.code() {
        Some(0) => Ok(Ok(stdout)),
        Some(NO_CONNECTION) => Ok(Err(Denial { got: Got::Refused, said: stderr })),
        // IMDS may say so too; the body tells whose answer it is.
        Some(ERROR_ANSWERED) if stderr.ends_with("403") && stdout.starts_with("imds-guard: ") => {
            Ok(Err(Denial { got: Got::Forbidden, said: stdout }))
        }
        _ => bail!("{}: {stderr} {stdout}", output.status),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}
