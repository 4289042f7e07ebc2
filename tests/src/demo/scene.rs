use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use comfy_table::{Cell, Color};

use super::cast::Part;
use super::client::{Client, Got, Tried};
use super::policy::Act;
use super::ruling::Ruling;
use super::screen::{news, number};
use crate::agent::Sample;

/// What a denied client may take at most, in milliseconds: an SDK waits as long for IMDS to take its first connection.
const AT_ONCE: u128 = 1000;

/// One client's look for credentials: what it got, what the agent says, and what IMDS saw.
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
    /// How often it gave out credentials of the node's role.
    pub(super) node_role: usize,
}

/// How often a pod was denied, by the agent's metrics.
#[derive(Clone, Debug)]
pub(super) struct Denied(pub(super) Sample);

impl Scene {
    /// How the client put its denial.
    pub(super) fn said(&self) -> Option<&str> {
        self.tried.said.as_deref()
    }

    /// The scene as a row of the table.
    pub(super) fn row(&self) -> Vec<Cell> {
        let got = match self.tried.got {
            Got::NodeRole | Got::PodIdentity => Cell::new(self.tried.got.text()),
            Got::Refused => news(self.tried.got.text(), Color::Red),
        };
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
            number(format!("{} ms", self.tried.milliseconds)),
            news(outcome, colour),
            Cell::new(&self.ruling.rule),
        ]
    }

    /// What is wrong with it, if anything is.
    fn fault(&self, act: Act) -> Option<String> {
        let expected = self.part.expected(act);
        let seen =
            (self.tried.got, self.ruling.outcome(), self.ruling.rule.as_str(), self.ruling.endpoint.as_str());
        let wanted = (expected.got, expected.outcome, expected.rule, self.part.endpoint());
        let reached = Reached {
            at_all: expected.got != Got::Refused,
            node_role: usize::from(expected.got == Got::NodeRole),
        };
        let who = format!("{} with {}", self.part.name(), self.client.name());
        if seen != wanted {
            Some(format!("{who}: {seen:?} instead of {wanted:?}"))
        } else if self.reached != reached {
            Some(format!("{who}: at IMDS {:?} instead of {reached:?}", self.reached))
        } else if self.tried.got == Got::Refused && self.tried.milliseconds > AT_ONCE {
            Some(format!("{who}: refused only after {} ms", self.tried.milliseconds))
        } else {
            None
        }
    }
}

impl Denied {
    /// The labels and the value, as Prometheus reads them.
    pub(super) fn text(&self) -> String {
        let Self(Sample { labels, value, .. }) = self;
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
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
pub(super) fn verify_counts(denied: &[Denied], scenes: &[Scene]) -> Result<()> {
    let refused = || scenes.iter().filter(|scene| scene.tried.got == Got::Refused);
    let label = |Denied(sample): &Denied, name: &str| sample.labels.get(name).cloned().unwrap_or_default();
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
            sample.text()
        );
    }
    let accounts: BTreeSet<_> = refused().map(|scene| scene.part.account()).collect();
    ensure!(accounts.len() == denied.len(), "{} are denied, {} are counted", accounts.len(), denied.len());
    Ok(())
}
