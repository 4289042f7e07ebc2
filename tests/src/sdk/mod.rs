//! The AWS SDKs as applications use them: real clients of IMDS, each run inside a pod.
//!
//! It owns how each is started and how its answer is read. What the SDK finds, IMDS told it: there is no other source
//! in its environment. The programs are in `tests/sdk` and `tests/aws-client`; `cargo xtask setup` installs the SDKs.

mod aws_cli;
mod parts;
mod tools;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::place::Place;
use crate::process::{piped, successful};
pub use tools::Tools;

/// How long a client may run: longer than any SDK's own patience.
const RUN_WITHIN: Duration = Duration::from_secs(30);

/// For look-ups of credentials only, as most pods have it: without it some SDKs ask IMDS for the region first.
const REGION: &str = "us-west-2";

/// An SDK, ready to be used.
#[derive(Clone, Debug)]
pub struct Sdk {
    name: &'static str,
    client: Client,
}

/// How an SDK is made to look something up.
#[derive(Clone, Debug)]
enum Client {
    /// A program of ours, which prints a [`Printed`].
    Own { program: PathBuf, arguments: Vec<PathBuf>, environment: Vec<(&'static str, PathBuf)> },
    /// The AWS CLI itself.
    AwsCli(PathBuf),
}

/// What an SDK looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Credentials,
    Region,
}

/// At which of its addresses IMDS is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// How a look-up went.
#[derive(Clone, Debug, PartialEq)]
pub struct LookUp {
    /// The id of the access key, or the region.
    pub found: Option<String>,
    /// How the SDK put it, when it found nothing.
    pub error: Option<String>,
    /// How long the SDK looked, without its start-up.
    pub took: Duration,
}

/// The line that a program of ours prints.
#[derive(Deserialize)]
struct Printed {
    found: Option<String>,
    error: Option<String>,
    milliseconds: f64,
}

impl Sdk {
    /// Every SDK.
    pub fn all(tools: &Tools) -> [Self; 5] {
        let own = |name, program: &PathBuf, arguments: &[PathBuf], environment: &[_]| Self {
            name,
            client: Client::Own {
                program: program.clone(),
                arguments: arguments.to_vec(),
                environment: environment.to_vec(),
            },
        };
        let node_path = [("NODE_PATH", tools.node_modules.clone())];
        [
            own("boto3", &tools.python, &[tools::script("python/main.py")], &[]),
            Self { name: "aws-cli", client: Client::AwsCli(tools.aws_cli.clone()) },
            own("JavaScript v3", &tools.node, &[tools::script("js/main.cjs")], &node_path),
            own("Rust", &tools.rust_client, &["--json".into()], &[]),
            own("Go v2", &tools.go_client, &[], &[]),
        ]
    }

    /// Its name, for people.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it has such a look-up. The AWS CLI (version 1) never tells a region that it has from IMDS.
    pub fn looks_for(&self, what: What) -> bool {
        !matches!((&self.client, what), (Client::AwsCli(_), What::Region))
    }

    /// Looks for something from inside `place`. It is an error when the client itself fails or takes too long, and
    /// none when it finds nothing.
    pub fn look_up(&self, what: What, family: Family, place: &Place) -> Result<LookUp> {
        ensure!(self.looks_for(what), "{} has no look-up of this kind", self.name);
        let home = tempfile::tempdir().context("make a home for a client")?;
        let looked_up = match &self.client {
            Client::Own { program, arguments, environment } => {
                let mut command = Command::new(program);
                command.args(arguments).arg(what.argument());
                confine(&mut command, what, family, home.path());
                command.envs(environment.iter().cloned());
                look_up_with_own(command, place)
            }
            Client::AwsCli(program) => {
                let mut command = aws_cli::command(program);
                confine(&mut command, what, family, home.path());
                aws_cli::look_up(command, place)
            }
        };
        looked_up.with_context(|| format!("look for {} with {}", what.argument(), self.name))
    }
}

impl What {
    /// How it is called on the command lines of our programs.
    fn argument(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::Region => "region",
        }
    }
}

fn look_up_with_own(command: Command, place: &Place) -> Result<LookUp> {
    let line = successful(place.spawn(piped(command))?.output(RUN_WITHIN)?)?;
    let Printed { found, error, milliseconds } =
        serde_json::from_str(&line).with_context(|| format!("not what it should print: {line}"))?;
    let took = Duration::try_from_secs_f64(milliseconds / 1e3).context("read the time that it took")?;
    Ok(LookUp { found, error, took })
}

/// Leaves a client nothing but IMDS, at one of its addresses.
fn confine(command: &mut Command, what: What, family: Family, home: &Path) {
    let endpoint_mode = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    command
        .env_clear()
        .env("HOME", home)
        .env("AWS_CONFIG_FILE", home.join("no-config"))
        .env("AWS_SHARED_CREDENTIALS_FILE", home.join("no-credentials"))
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", endpoint_mode);
    if what == What::Credentials {
        command.env("AWS_REGION", REGION).env("AWS_DEFAULT_REGION", REGION);
    }
}
