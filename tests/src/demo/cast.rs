use std::collections::BTreeMap;
use std::ops::Deref;

use anyhow::{Context, Result};

use super::client::{Client, Got, REGION};
use super::policy::Act;
use crate::node::{Node, PodHandle, PodSpec};
use crate::simulator::POD_IDENTITY_V4;

/// One pod of the demo: who it is, what it does, and how the policy must treat it.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// A pod's spec; its name is always given.
    spec: PodSpec,
    pub(super) story: &'static str,
    pub(super) clients: &'static [Client],
    standing: Standing,
}

/// How the policy treats a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// A rule lets it use the node's role.
    NodeAgent,
    /// No rule does.
    Denied,
    /// A rule lets it read the region, and nothing else.
    RegionOnly,
    /// It never asks IMDS: it has a role of its own.
    OwnRole,
    /// The guard doesn't know who it is.
    Unidentified,
}

/// What a client must get, and what the agent must say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) got: Got,
    pub(super) outcome: &'static str,
    pub(super) rule: &'static str,
}

/// A part and the pod that plays it. Dropping it deletes the pod.
#[derive(Debug)]
pub(super) struct Player {
    part: Part,
    pub(super) pod: PodHandle,
}

impl Part {
    /// Everybody, in the order in which they are shown.
    pub(super) fn all() -> Vec<Self> {
        let named = |namespace: &str, service_account: &str| PodSpec {
            name: Some(format!("{service_account}-0")),
            ..PodSpec::new(namespace, service_account)
        };
        let with_sdk = |spec: PodSpec, more: &[(&str, String)]| {
            // An SDK that isn't told its region asks IMDS for it, which would be another story.
            let region = [("AWS_REGION", REGION.to_owned())];
            let environment = region.iter().chain(more);
            let environment = environment.map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            PodSpec { environment, ..spec }
        };
        let pod_identity = [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{POD_IDENTITY_V4}/v1/credentials")),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "simulated-service-account-token".to_owned()),
        ];
        vec![
            Self {
                spec: named("payments", "checkout"),
                story: "was given a role of its own, falls back to the node's",
                clients: &[Client::Curl, Client::CurlIpv6],
                standing: Standing::Denied,
            },
            Self {
                spec: with_sdk(named("shop", "catalog"), &[]),
                story: "an application with the AWS SDK, and with no role at all",
                clients: &[Client::SdkForRust, Client::SdkForGo],
                standing: Standing::Denied,
            },
            Self {
                spec: with_sdk(named("team-a", "orders"), &pod_identity),
                story: "does it right: gets its own role from EKS Pod Identity",
                clients: &[Client::SdkForRust],
                standing: Standing::OwnRole,
            },
            Self {
                spec: named("monitoring", "agent"),
                story: "a monitoring agent, which needs the region and no credentials",
                clients: &[Client::CurlRegion, Client::Curl],
                standing: Standing::RegionOnly,
            },
            Self {
                spec: named("kube-system", "aws-node").on_host_network(),
                story: "a node agent, which needs the node's role itself",
                clients: &[Client::Curl],
                standing: Standing::NodeAgent,
            },
            Self {
                spec: named("monitoring", "scraper").on_host_network(),
                story: "on the host's network, where no NetworkPolicy holds it",
                clients: &[Client::Curl],
                standing: Standing::Denied,
            },
            Self {
                spec: with_sdk(PodSpec { listed: false, ..named("unlisted", "newcomer") }, &[]),
                story: "so new that nobody has told the guard who it is",
                clients: &[Client::Curl, Client::SdkForGo],
                standing: Standing::Unidentified,
            },
        ]
    }

    /// The pod's name.
    pub(super) fn name(&self) -> &str {
        self.spec.name.as_deref().unwrap_or_default()
    }

    /// Namespace and service account, if Kubernetes lists the pod.
    pub(super) fn account(&self) -> Option<(&str, &str)> {
        self.spec.listed.then_some((&self.spec.namespace, &self.spec.service_account))
    }

    /// Namespace and service account in one, for people.
    pub(super) fn account_text(&self) -> String {
        self.account().map_or_else(|| "?".to_owned(), |(namespace, account)| format!("{namespace}/{account}"))
    }

    pub(super) fn network(&self) -> &'static str {
        if self.spec.host_network { "the node's" } else { "its own" }
    }

    pub(super) fn environment(&self) -> &BTreeMap<String, String> {
        &self.spec.environment
    }

    /// The endpoint that its clients ask.
    pub(super) fn endpoint(&self) -> &'static str {
        if self.standing == Standing::OwnRole { "pod-identity" } else { "imds" }
    }

    /// What must come of a client's attempts.
    pub(super) fn expected(&self, client: Client, act: Act) -> Expected {
        let (got, outcome, rule) = match (self.standing, act) {
            (Standing::NodeAgent, _) => (Got::NodeRole, "allowed", "node-agents"),
            (Standing::OwnRole, _) => (Got::PodIdentity, "allowed", "default"),
            (Standing::Denied, Act::Audit) => (Got::NodeRole, "would be denied", "default"),
            (Standing::Denied, Act::Enforce) => (Got::Forbidden, "denied", "default"),
            (Standing::RegionOnly, Act::Audit) => (Got::NodeRole, "would be filtered", "metadata-only"),
            (Standing::RegionOnly, Act::Enforce) => (Got::Forbidden, "filtered", "metadata-only"),
            (Standing::Unidentified, Act::Audit) => (Got::NodeRole, "allowed", "unidentified"),
            // Without a name it has no gate.
            (Standing::Unidentified, Act::Enforce) => (Got::Refused, "denied", "unidentified"),
        };
        // Nobody asks for it who may not.
        let got = if client == Client::CurlRegion { Got::Region } else { got };
        Expected { got, outcome, rule }
    }

    /// Makes the pod.
    pub(super) fn play_on(self, node: &Node) -> Result<Player> {
        let pod = node.pod(self.spec.clone()).with_context(|| format!("make the pod {}", self.name()))?;
        Ok(Player { part: self, pod })
    }
}

impl Deref for Player {
    type Target = Part;

    fn deref(&self) -> &Part {
        &self.part
    }
}
