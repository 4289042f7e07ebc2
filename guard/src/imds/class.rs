//! What a path of IMDS gives away: the words in which a policy speaks of paths.

use std::{fmt, str::FromStr};

use serde::Serialize;

use super::MetadataPath;

/// What a path gives away. docs/policy.md has the table of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The session token of `IMDSv2`.
    Token,
    /// Credentials of the node's role, of the instance itself, and where they lie.
    Credentials,
    /// Documents that are signed by AWS, and the ARN of the node's role.
    Identity,
    /// What the instance was started with: often a script with secrets in it.
    UserData,
    /// Region and zone; also the identity document, where the SDKs look for the region.
    Region,
    /// The rest of where the instance runs: host, group, partition.
    Placement,
    /// What the instance is, and the listings of the upper folders.
    Instance,
    /// Its addresses, names and interfaces.
    Network,
    /// Notices that a spot instance will end.
    Spot,
    /// Maintenance and advice to rebalance.
    Events,
    /// The state that its group wants it in.
    Autoscaling,
    /// The domain and partition of AWS.
    Services,
    /// The instance's tags.
    Tags,
    /// None of these. No policy can name it.
    Other,
}

/// A word that is no class.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a class of metadata paths")]
pub struct UnknownClass(pub String);

/// The keys directly below `meta-data` whose class does not depend on what follows.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html#instancedata-data-categories>
const METADATA: &[(&str, Class)] = &[
    ("ami-id", Class::Instance),
    ("ami-launch-index", Class::Instance),
    ("ami-manifest-path", Class::Instance),
    ("ancestor-ami-ids", Class::Instance),
    ("autoscaling", Class::Autoscaling),
    ("block-device-mapping", Class::Instance),
    ("elastic-gpus", Class::Instance),
    ("elastic-inference", Class::Instance),
    ("events", Class::Events),
    ("hibernation", Class::Instance),
    ("hostname", Class::Network),
    ("identity-credentials", Class::Credentials),
    ("instance-action", Class::Instance),
    ("instance-id", Class::Instance),
    ("instance-life-cycle", Class::Instance),
    ("instance-type", Class::Instance),
    ("ipv6", Class::Network),
    ("kernel-id", Class::Instance),
    ("local-hostname", Class::Network),
    ("local-ipv4", Class::Network),
    ("mac", Class::Network),
    ("metrics", Class::Instance),
    ("network", Class::Network),
    ("product-codes", Class::Instance),
    ("profile", Class::Instance),
    ("public-hostname", Class::Network),
    ("public-ipv4", Class::Network),
    ("public-keys", Class::Instance),
    ("ramdisk-id", Class::Instance),
    ("reservation-id", Class::Instance),
    ("security-groups", Class::Instance),
    ("services", Class::Services),
    ("spot", Class::Spot),
    ("system", Class::Instance),
    ("tags", Class::Tags),
];

impl Class {
    /// Every class.
    pub const ALL: [Self; 14] = [
        Self::Token,
        Self::Credentials,
        Self::Identity,
        Self::UserData,
        Self::Region,
        Self::Placement,
        Self::Instance,
        Self::Network,
        Self::Spot,
        Self::Events,
        Self::Autoscaling,
        Self::Services,
        Self::Tags,
        Self::Other,
    ];

    /// Its name in policies, metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Credentials => "credentials",
            Self::Identity => "identity",
            Self::UserData => "user-data",
            Self::Region => "region",
            Self::Placement => "placement",
            Self::Instance => "instance",
            Self::Network => "network",
            Self::Spot => "spot",
            Self::Events => "events",
            Self::Autoscaling => "autoscaling",
            Self::Services => "services",
            Self::Tags => "tags",
            Self::Other => "other",
        }
    }

    /// The classes that a policy may name. The token is implied, and nobody can know what else there will be.
    pub fn nameable() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|class| !matches!(class, Self::Token | Self::Other))
    }

    pub(super) fn of(path: &MetadataPath) -> Self {
        let Some(version) = path.version().map(str::to_ascii_lowercase) else { return Self::Instance };
        let below: Vec<_> = path.below_version().map(str::to_ascii_lowercase).collect();
        let mut segments: Vec<_> = below.iter().map(String::as_str).collect();
        if version == "latest" || version.starts_with(|first: char| first.is_ascii_digit()) {
            return match segments.as_slice() {
                [] => Self::Instance,
                ["api", "token"] if version == "latest" => Self::Token,
                below => Self::below(below),
            };
        }
        // What is no version to AWS may be one, or none, to somebody: nothing is harmless there.
        let with_version = Self::below(&segments);
        segments.insert(0, &version);
        let secret = [with_version, Self::below(&segments)].into_iter().find(|class| class.is_secret());
        secret.unwrap_or(Self::Other)
    }

    fn below(segments: &[&str]) -> Self {
        match segments {
            ["meta-data" | "dynamic"] | ["dynamic", "fws", ..] => Self::Instance,
            ["meta-data", key, rest @ ..] => Self::of_metadata(key, rest),
            ["dynamic", "instance-identity", "document"] => Self::Region,
            ["dynamic", "instance-identity", ..] => Self::Identity,
            ["user-data", ..] => Self::UserData,
            _ => Self::Other,
        }
    }

    const fn is_secret(self) -> bool {
        matches!(self, Self::Credentials | Self::Identity | Self::UserData)
    }

    /// What must never be given away by mistake is a whole folder here, whatever AWS adds to it.
    fn of_metadata(key: &str, rest: &[&str]) -> Self {
        match (key, rest) {
            ("iam", ["info"]) => Self::Identity,
            ("iam", _) => Self::Credentials,
            ("placement", ["region"]) => Self::Region,
            ("placement", [zone]) if zone.starts_with("availability-zone") => Self::Region,
            ("placement", _) => Self::Placement,
            _ => METADATA.iter().find(|(known, _)| *known == key).map_or(Self::Other, |&(_, class)| class),
        }
    }

    /// The one folder or document that holds all of the class and nothing else, where there is one.
    pub(super) const fn folder(self) -> Option<&'static str> {
        match self {
            Self::UserData => Some("/latest/user-data"),
            Self::Placement => Some("/latest/meta-data/placement"),
            Self::Spot => Some("/latest/meta-data/spot"),
            Self::Events => Some("/latest/meta-data/events"),
            Self::Autoscaling => Some("/latest/meta-data/autoscaling"),
            Self::Services => Some("/latest/meta-data/services"),
            Self::Tags => Some("/latest/meta-data/tags"),
            _ => None,
        }
    }
}

impl FromStr for Class {
    type Err = UnknownClass;

    fn from_str(name: &str) -> Result<Self, UnknownClass> {
        let found = Self::ALL.into_iter().find(|class| class.as_str() == name);
        found.ok_or_else(|| UnknownClass(name.to_owned()))
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
