mod curl;
mod sdk;
mod shell;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};

use super::interrupt::Interrupt;
use crate::place::Place;
use crate::simulator::{IMDS_V4, IMDS_V6};
pub(super) use shell::RUN_WITHIN;
use shell::Shell;

/// The beginning of the access keys of the node's role, and of those that the Pod Identity agent gives out.
const NODE_ROLE_KEY: &str = "ASIANODEROLE";
const POD_IDENTITY_KEY: &str = "ASIAPODIDENTITY";
/// The region that IMDS tells.
pub(super) const REGION: &str = "eu-west-1";

/// A real program that looks for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// What a script does: a session token, the role's name, the role's credentials.
    Curl,
    /// The same at the IPv6 address of IMDS.
    CurlIpv6,
    /// A session token, and the region.
    CurlRegion,
    /// The AWS SDK for Rust, which looks for credentials wherever an application's SDK does.
    SdkForRust,
    /// The AWS SDK for Go, which takes a refused connection for a fault that may pass.
    SdkForGo,
}

/// How a client fared.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    pub(super) got: Got,
    /// How long curl's processes ran, or how long the SDK says that it looked.
    pub(super) took: Duration,
    /// How the client put it, when it got nothing.
    pub(super) said: Option<String>,
}

/// What a client got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// Credentials of the node's role.
    NodeRole,
    /// Credentials of the pod's own role.
    PodIdentity,
    Region,
    /// An answer, and nothing in it but a no.
    Forbidden,
    /// No connection.
    Refused,
}

impl Client {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::CurlIpv6 => "curl, IPv6",
            Self::CurlRegion => "curl, region",
            Self::SdkForRust => "SDK for Rust",
            Self::SdkForGo => "SDK for Go",
        }
    }

    /// The name of its process, as the kernel tells it to the agent.
    pub(super) const fn executable(self) -> &'static str {
        match self {
            Self::Curl | Self::CurlIpv6 | Self::CurlRegion => "curl",
            Self::SdkForRust => "aws-client",
            Self::SdkForGo => "client",
        }
    }

    /// Looks from inside `pod`, with `environment` and nothing of ours.
    pub(super) fn run(
        self,
        pod: &Place,
        environment: &BTreeMap<String, String>,
        interrupt: &Interrupt,
    ) -> Result<Tried> {
        let shell = Shell { pod, environment, interrupt };
        match self {
            Self::Curl => curl::look_for_credentials(&shell, IMDS_V4.into()),
            Self::CurlIpv6 => curl::look_for_credentials(&shell, IMDS_V6.into()),
            Self::CurlRegion => curl::look_for_region(&shell, IMDS_V4.into()),
            Self::SdkForRust => sdk::look_for_credentials(&shell, "aws-client", &["--json"]),
            Self::SdkForGo => sdk::look_for_credentials(&shell, "aws-client-go", &[]),
        }
    }
}

impl Got {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::NodeRole => "the node's role",
            Self::PodIdentity => "the pod's own role",
            Self::Region => "the region",
            Self::Forbidden => "403 Forbidden",
            Self::Refused => "connection refused",
        }
    }

    /// Whether it is nothing that the client looked for.
    pub(super) const fn is_nothing(self) -> bool {
        matches!(self, Self::Forbidden | Self::Refused)
    }

    /// What a text has in it. A key itself goes no further.
    fn found_in(text: &str) -> Result<Self> {
        if text.contains(NODE_ROLE_KEY) {
            Ok(Self::NodeRole)
        } else if text.contains(POD_IDENTITY_KEY) {
            Ok(Self::PodIdentity)
        } else if text == REGION {
            Ok(Self::Region)
        } else {
            bail!("the client got an answer with nothing in it that it looked for")
        }
    }
}
