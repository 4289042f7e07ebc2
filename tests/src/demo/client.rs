use std::collections::BTreeMap;
use std::env;
use std::net::IpAddr;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::interrupt::Interrupt;
use crate::binary::binary;
use crate::place::Place;
use crate::process::piped;
use crate::simulator::{IMDS_V4, IMDS_V6};
use crate::wait::wait_until;

/// How long one process of a client may take: longer than any client's own patience.
const RUN_WITHIN: Duration = Duration::from_secs(30);

/// The beginning of the access keys of the node's role, and of those that the Pod Identity agent gives out.
const NODE_ROLE_KEY: &str = "ASIANODEROLE";
const POD_IDENTITY_KEY: &str = "ASIAPODIDENTITY";

/// A real program that looks for credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// What a script does: a session token, the role's name, the role's credentials.
    Curl,
    /// The same at the IPv6 address of IMDS.
    CurlIpv6,
    /// The AWS SDK for Rust, which looks wherever an application's SDK does.
    AwsSdk,
}

/// How a client fared.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    pub(super) got: Got,
    /// How long curl's processes ran, or how long the SDK says that it looked.
    pub(super) milliseconds: u128,
    /// How the client put it, when it got nothing.
    pub(super) said: Option<String>,
}

/// Whose credentials a client got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Got {
    NodeRole,
    PodIdentity,
    Refused,
}

impl Client {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::CurlIpv6 => "curl, IPv6",
            Self::AwsSdk => "AWS SDK",
        }
    }

    /// The name of its process, as the kernel tells it to the agent.
    pub(super) const fn executable(self) -> &'static str {
        match self {
            Self::Curl | Self::CurlIpv6 => "curl",
            Self::AwsSdk => "aws-client",
        }
    }

    /// Looks for credentials inside `pod`, with `environment` and nothing of ours.
    pub(super) fn run(
        self,
        pod: &Place,
        environment: &BTreeMap<String, String>,
        interrupt: &Interrupt,
    ) -> Result<Tried> {
        let shell = Shell { pod, environment, interrupt };
        match self {
            Self::Curl => shell.curl(IMDS_V4.into()),
            Self::CurlIpv6 => shell.curl(IMDS_V6.into()),
            Self::AwsSdk => shell.aws_sdk(),
        }
    }
}

impl Got {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::NodeRole => "node role credentials",
            Self::PodIdentity => "own, by Pod Identity",
            Self::Refused => "refused",
        }
    }

    /// Whose key the text speaks of. The key itself goes no further.
    fn from_key_in(text: &str) -> Result<Self> {
        if text.contains(NODE_ROLE_KEY) {
            Ok(Self::NodeRole)
        } else if text.contains(POD_IDENTITY_KEY) {
            Ok(Self::PodIdentity)
        } else {
            bail!("the client got an answer without credentials in it")
        }
    }
}

/// Where a client's processes run.
struct Shell<'a> {
    pod: &'a Place,
    environment: &'a BTreeMap<String, String>,
    interrupt: &'a Interrupt,
}

impl Shell<'_> {
    fn curl(&self, address: IpAddr) -> Result<Tried> {
        let started = Instant::now();
        let tried = |got, said| Tried { got, milliseconds: started.elapsed().as_millis(), said };
        match self.credentials(address)? {
            Ok(credentials) => Ok(tried(Got::from_key_in(&credentials)?, None)),
            Err(refusal) => Ok(tried(Got::Refused, Some(refusal))),
        }
    }

    /// What IMDS answers with credentials to version 2; the inner error is the first refusal on the way.
    fn credentials(&self, address: IpAddr) -> Result<Result<String, String>> {
        let root = match address {
            IpAddr::V4(v4) => format!("http://{v4}/latest"),
            IpAddr::V6(v6) => format!("http://[{v6}]/latest"),
        };
        let lifetime = ["-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60"];
        let token = match self.request(&format!("{root}/api/token"), &lifetime)? {
            Ok(token) => format!("X-aws-ec2-metadata-token: {token}"),
            refused => return Ok(refused),
        };
        let roles = format!("{root}/meta-data/iam/security-credentials/");
        match self.request(&roles, &["-H", &token])? {
            Ok(role) => self.request(&format!("{roles}{role}"), &["-H", &token]),
            refused => Ok(refused),
        }
    }

    /// One request of curl's: the body of a good answer, or the refusal.
    fn request(&self, url: &str, arguments: &[&str]) -> Result<Result<String, String>> {
        let mut curl = Command::new("curl");
        // `--disable` keeps the machine's own curlrc out of it.
        curl.args(["--disable", "--silent", "--show-error", "--fail-with-body", "--noproxy", "*"])
            .args(["--max-time", "5"])
            .args(arguments)
            .arg(url);
        let output = self.run(curl)?;
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        match output.status.code() {
            Some(0) => Ok(Ok(stdout)),
            // Could not connect.
            Some(7) => Ok(Err(stderr)),
            // An HTTP error; its text is the answer's body.
            Some(22) if stderr.ends_with("403") => Ok(Err(stdout)),
            _ => bail!("{}: {stderr}", output.status),
        }
    }

    fn aws_sdk(&self) -> Result<Tried> {
        let output = self.run(Command::new(binary("aws-client")?))?;
        let said = text(&output.stdout);
        let milliseconds = said
            .split_once(" in ")
            .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
            .with_context(|| format!("the AWS SDK ended with {}: {}", output.status, text(&output.stderr)))?;
        Ok(match said.strip_prefix("error in ") {
            None => Tried { got: Got::from_key_in(&said)?, milliseconds, said: None },
            Some(error) => {
                // It tells of its whole chain, a line for each link; the last link is IMDS.
                let last = error.lines().last().unwrap_or_default().trim_start();
                Tried { got: Got::Refused, milliseconds, said: Some(last.to_owned()) }
            }
        })
    }

    /// Runs a program to its end, or until somebody asks the demo to end: then it is killed.
    fn run(&self, mut command: Command) -> Result<Output> {
        command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default()).envs(self.environment);
        let program = command.get_program().to_string_lossy().into_owned();
        let mut process = self.pod.spawn(piped(command))?;
        wait_until(RUN_WITHIN, &format!("{program} to end"), || {
            self.interrupt.is_set() || !process.is_running()
        })?;
        self.interrupt.check()?;
        process.output(RUN_WITHIN)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}
