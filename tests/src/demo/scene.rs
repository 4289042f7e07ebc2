use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use comfy_table::{Cell, Color};

use super::cast::Part;
use super::client::{Client, Got, RUN_WITHIN, Tried};
use super::policy::Act;
use super::ruling::Ruling;
use super::screen::{news, number};
use crate::agent::Sample;

/// How long a client may look that gets nothing: an SDK waits as long for IMDS to take its first connection.
const AT_ONCE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(1);
/// The same where it takes a refused connection for a fault that may pass, and tries again.
const TRIES_AGAIN: RangeInclusive<Duration> = Duration::from_secs(3)..=RUN_WITHIN;

/// One client's look: what it got, what the agent says, and what IMDS saw.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) part: Part,
    pub(super) client: Client,
    pub(super) tried: Tried,
    pub(super) ruling: Ruling,
    pub(super) reached: Reached,
}

/// What the simulator saw of a client, whoever it thinks that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    /// Whether any request, connection or datagram arrived.
    pub(super) at_all: bool,
    /// Whether anything asked for credentials of the node's role, or for that role.
    pub(super) for_credentials: bool,
    /// How often it gave out credentials of the node's role.
    pub(super) node_role: usize,
}

/// How often something happened to a pod, by the agent's metrics.
#[derive(Clone, Debug)]
pub(super) struct Counted(pub(super) Sample);

impl Scene {
    /// The scene of a pod and its client.
    pub(super) fn of<'a>(scenes: &'a [Self], pod: &str, client: Client) -> Result<&'a Self> {
        let scene = scenes.iter().find(|scene| scene.part.name() == pod && scene.client == client);
        scene.with_context(|| format!("{pod} never looked with {}", client.name()))
    }

    /// How the client put its denial.
    pub(super) fn said(&self) -> Result<&str> {
        let said = self.tried.said.as_deref();
        said.with_context(|| format!("{} with {} was denied nothing", self.part.name(), self.client.name()))
    }

    /// The scene as a row of the table.
    pub(super) fn row(&self) -> Vec<Cell> {
        let got = self.tried.got;
        let got = if got.is_nothing() { news(got.text(), Color::Red) } else { Cell::new(got.text()) };
        let outcome = self.ruling.outcome();
        let colour = match outcome {
            "allowed" => Color::Green,
            "denied" => Color::Red,
            _ => Color::Yellow,
        };
        vec![
            Cell::new(self.part.name()),
            Cell::new(self.part.account_text()),
            Cell::new(self.client.name()),
            got,
            number(format!("{} ms", self.tried.took.as_millis())),
            news(outcome, colour),
            Cell::new(&self.ruling.rule),
        ]
    }

    /// What is wrong with it, if anything is.
    fn fault(&self, act: Act) -> Option<String> {
        let expected = self.part.expected(self.client, act);
        let seen =
            (self.tried.got, self.ruling.outcome(), self.ruling.rule.as_str(), self.ruling.endpoint.as_str());
        let wanted = (expected.got, expected.outcome, expected.rule, self.part.endpoint());
        let gets_node_role = expected.got == Got::NodeRole;
        // Who is filtered reaches it with the request for a session token.
        let reached = Reached {
            at_all: expected.outcome != "denied",
            for_credentials: gets_node_role,
            node_role: usize::from(gets_node_role),
        };
        let patience = match (self.client, expected.got) {
            (Client::SdkForGo, Got::Refused) => TRIES_AGAIN,
            _ => AT_ONCE,
        };
        let who = format!("{} with {}", self.part.name(), self.client.name());
        if seen != wanted {
            Some(format!("{who}: {seen:?} instead of {wanted:?}"))
        } else if self.reached != reached {
            Some(format!("{who}: at IMDS {:?} instead of {reached:?}", self.reached))
        } else if expected.got.is_nothing() && !patience.contains(&self.tried.took) {
            Some(format!("{who}: gave up after {:?} instead of {patience:?}", self.tried.took))
        } else {
            None
        }
    }
}

impl Counted {
    /// The labels and the value, as Prometheus reads them, but for those labels that are `known`.
    pub(super) fn text(&self, known: &[(&str, &str)]) -> String {
        let Self(Sample { labels, value, .. }) = self;
        let unknown = labels.iter().filter(|(name, _)| known.iter().all(|(known, _)| known != name));
        let labels: Vec<_> = unknown.map(|(name, value)| format!("{name}={value:?}")).collect();
        format!("{{{}}} {value}", labels.join(","))
    }
}

/// An error that names every scene that isn't what the policy says.
pub(super) fn verify(scenes: &[Scene], act: Act) -> Result<()> {
    let faults: Vec<String> = scenes.iter().filter_map(|scene| scene.fault(act)).collect();
    if !faults.is_empty() {
        bail!("this is not what the policy says:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// An error unless everybody who was denied is counted, and nobody else.
pub(super) fn verify_counts(denied: &[Counted], scenes: &[Scene]) -> Result<()> {
    let refused = || scenes.iter().filter(|scene| scene.ruling.outcome() == "denied");
    let label = |Counted(sample): &Counted, name: &str| sample.labels.get(name).cloned().unwrap_or_default();
    for sample in denied {
        let (namespace, account) = (label(sample, "namespace"), label(sample, "service_account"));
        let attempts = refused()
            .filter(|scene| {
                scene.part.account().unwrap_or_default() == (namespace.as_str(), account.as_str())
            })
            .count();
        ensure!(
            attempts > 0 && sample.0.value >= f64::from(u32::try_from(attempts)?),
            "{} is counted, of {attempts} denied clients",
            sample.text(&[])
        );
    }
    let accounts: BTreeSet<_> = refused().map(|scene| scene.part.account()).collect();
    ensure!(accounts.len() == denied.len(), "{} are denied, {} are counted", accounts.len(), denied.len());
    Ok(())
}
