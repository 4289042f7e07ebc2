use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

/// The name of the node's IAM role.
pub const NODE_ROLE: &str = "node-role";

/// What stands in the answers that only credentials, identity or user-data have.
pub const SECRETS: [&str; 5] = [
    "ASIANODEROLE",
    "simulated-node-secret",
    "InstanceProfileArn",
    "simulated-proof",
    "/etc/eks/bootstrap.sh",
];

const ACCOUNT: &str = "123456789012";
const REGION: &str = "eu-west-1";
const ZONE: &str = "eu-west-1a";
const INSTANCE: &str = "i-0123456789abcdef0";
const INSTANCE_TYPE: &str = "m5.large";
const IMAGE: &str = "ami-0123456789abcdef0";
const MAC: &str = "02:00:00:00:00:01";
const ADDRESS: &str = "10.214.0.0";

/// What stands at a path: a text, or something that is made anew for every answer because it holds times.
#[derive(Clone, Copy)]
enum Leaf {
    Text(&'static str),
    Credentials,
    IamInfo,
    IdentityDocument,
}

/// Every document below a version, by path, in order. The listings of folders follow from it.
const LEAVES: &[(&str, Leaf)] = &[
    ("dynamic/instance-identity/document", Leaf::IdentityDocument),
    ("dynamic/instance-identity/pkcs7", Leaf::Text("simulated-proof-pkcs7")),
    ("dynamic/instance-identity/rsa2048", Leaf::Text("simulated-proof-rsa2048")),
    ("dynamic/instance-identity/signature", Leaf::Text("simulated-proof-signature")),
    ("meta-data/ami-id", Leaf::Text(IMAGE)),
    ("meta-data/iam/info", Leaf::IamInfo),
    ("meta-data/iam/security-credentials/node-role", Leaf::Credentials),
    ("meta-data/identity-credentials/ec2/security-credentials/ec2-instance", Leaf::Credentials),
    ("meta-data/instance-id", Leaf::Text(INSTANCE)),
    ("meta-data/instance-type", Leaf::Text(INSTANCE_TYPE)),
    ("meta-data/local-ipv4", Leaf::Text(ADDRESS)),
    ("meta-data/mac", Leaf::Text(MAC)),
    ("meta-data/network/interfaces/macs/02:00:00:00:00:01/device-number", Leaf::Text("0")),
    ("meta-data/network/interfaces/macs/02:00:00:00:00:01/vpc-id", Leaf::Text("vpc-0123456789abcdef0")),
    ("meta-data/placement/availability-zone", Leaf::Text(ZONE)),
    ("meta-data/placement/region", Leaf::Text(REGION)),
    ("user-data", Leaf::Text("#!/bin/sh\n/etc/eks/bootstrap.sh demo\n")),
];

/// The document or folder listing at a path below the version (`meta-data/mac`, `meta-data/`); `None` if there is
/// nothing. Both are found with and without a closing slash: boto3 asks for the availability zone with one.
pub(super) fn look_up(path: &str) -> Option<String> {
    let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
    if let Some((_, leaf)) = LEAVES.iter().find(|(name, _)| *name == path) {
        return Some(leaf.text());
    }
    list(path)
}

/// Which document or folder is at such a path: its own path, that of a folder with its closing slash.
pub(super) fn name(path: &str) -> Option<String> {
    if LEAVES.iter().any(|(name, _)| *name == path) {
        return Some(path.to_owned());
    }
    let folder = path.strip_suffix('/').unwrap_or(path);
    look_up(path).map(|_| format!("{folder}/"))
}

/// The names in a folder, one a line, folders with a closing slash; `None` if there is no such folder.
fn list(folder: &str) -> Option<String> {
    let mut names: Vec<&str> = LEAVES
        .iter()
        .filter_map(|(path, _)| {
            if folder.is_empty() { Some(*path) } else { path.strip_prefix(folder)?.strip_prefix('/') }
        })
        .map(|rest| rest.find('/').map_or(rest, |slash| &rest[..=slash]))
        .collect();
    names.dedup();
    (!names.is_empty()).then(|| names.join("\n"))
}

/// What the Pod Identity agent answers.
pub(super) fn pod_identity_credentials() -> String {
    json!({
        "AccessKeyId": "ASIAPODIDENTITY00000",
        "SecretAccessKey": "simulated-pod-secret",
        "Token": "simulated-pod-token",
        "AccountId": ACCOUNT,
        "Expiration": from_now(Duration::from_hours(6)),
    })
    .to_string()
}

impl Leaf {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text.to_owned(),
            Self::Credentials => json!({
                "Code": "Success",
                "LastUpdated": from_now(Duration::ZERO),
                "Type": "AWS-HMAC",
                "AccessKeyId": "ASIANODEROLE00000000",
                "SecretAccessKey": "simulated-node-secret",
                "Token": "simulated-node-token",
                "Expiration": from_now(Duration::from_hours(6)),
            })
            .to_string(),
            Self::IamInfo => json!({
                "Code": "Success",
                "LastUpdated": from_now(Duration::ZERO),
                "InstanceProfileArn": format!("arn:aws:iam::{ACCOUNT}:instance-profile/{NODE_ROLE}"),
                "InstanceProfileId": "AIPASIMULATED0000000",
            })
            .to_string(),
            Self::IdentityDocument => json!({
                "accountId": ACCOUNT,
                "architecture": "x86_64",
                "availabilityZone": ZONE,
                "imageId": IMAGE,
                "instanceId": INSTANCE,
                "instanceType": INSTANCE_TYPE,
                "pendingTime": "2026-01-01T00:00:00Z",
                "privateIp": ADDRESS,
                "region": REGION,
                "version": "2017-09-30",
            })
            .to_string(),
        }
    }
}

/// A time as AWS writes it: UTC, in whole seconds.
fn from_now(ahead: Duration) -> String {
    (Timestamp::now() + ahead).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_list_their_children_once_and_a_closing_slash_changes_nothing() {
        let cases = [
            ("", "dynamic/\nmeta-data/\nuser-data"),
            ("meta-data/iam/", "info\nsecurity-credentials/"),
            ("meta-data/iam", "info\nsecurity-credentials/"),
            ("meta-data/iam/security-credentials/", NODE_ROLE),
            ("meta-data/placement/", "availability-zone\nregion"),
            ("meta-data/placement/availability-zone/", ZONE),
        ];
        for (path, expected) in cases {
            assert_eq!(look_up(path).as_deref(), Some(expected), "{path:?}");
        }
    }

    #[test]
    fn what_is_absent_is_not_found() {
        for path in [
            "meta-data/nothing",
            "meta-data/mac//",
            "meta-data//mac",
            "meta-dat",
            "/",
            "meta-data/../user-data",
        ] {
            assert_eq!(look_up(path), None, "{path:?}");
        }
    }
}
