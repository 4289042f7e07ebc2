use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::cast::Part;
use super::client::Client;
use crate::agent::Agent;
use crate::wait::wait_for;

/// How long an event may take from the kernel to the agent's log.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// What the agent says that it decided about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ruling {
    pub(super) endpoint: String,
    pub(super) rule: String,
    verdict: String,
    mode: String,
}

/// The agent's events after a moment, of one client in one pod.
#[derive(Clone, Copy)]
pub(super) struct Witness<'a> {
    agent: &'a Agent,
    /// How many events there were at that moment.
    before: usize,
}

impl<'a> Witness<'a> {
    /// From now on.
    pub(super) fn of(agent: &'a Agent) -> Result<Self> {
        Ok(Self { agent, before: agent.events()?.len() })
    }

    /// What the agent decided about the client; an error if it doesn't say, or doesn't always say the same.
    pub(super) fn ruling(self, part: &Part, client: Client) -> Result<Ruling> {
        let mut looked = Ok(Vec::new());
        let what = format!("an event about {} of {}", client.executable(), part.name());
        wait_for(TOLD_WITHIN, &what, || {
            looked = self.rulings(part, client);
            looked.as_ref().map_or(true, |rulings| !rulings.is_empty()).then_some(())
        })?;
        let mut rulings = looked?;
        rulings.dedup();
        match <[Ruling; 1]>::try_from(rulings) {
            Ok([ruling]) => Ok(ruling),
            Err(several) => bail!("the agent decided about {} in several ways: {several:?}", part.name()),
        }
    }

    /// One ruling for every event.
    fn rulings(self, part: &Part, client: Client) -> Result<Vec<Ruling>> {
        let events = self.agent.events()?;
        events.iter().skip(self.before).filter(|event| is_of(event, part, client)).map(Ruling::read).collect()
    }
}

impl Ruling {
    fn read(event: &Value) -> Result<Self> {
        let field = |name: &str| {
            event[name]
                .as_str()
                .map(ToOwned::to_owned)
                .with_context(|| format!("no {name} in the event {event}"))
        };
        Ok(Self {
            endpoint: field("imds_guard.endpoint")?,
            rule: field("imds_guard.rule")?,
            verdict: field("imds_guard.verdict")?,
            mode: field("imds_guard.mode")?,
        })
    }

    /// What becomes of an attempt, in the words of `imds-guard status`.
    pub(super) fn outcome(&self) -> &'static str {
        match (self.verdict.as_str(), self.mode.as_str()) {
            ("allow", _) => "allowed",
            ("filter", "audit") => "would be filtered",
            ("filter", _) => "filtered",
            (_, "audit") => "would be denied",
            _ => "denied",
        }
    }
}

/// Whether the agent ascribes an attempt to the client's process in the part's pod. A pod that it can't name has none of
/// the names. (Events of requests tell of no process.)
fn is_of(event: &Value, part: &Part, client: Client) -> bool {
    let (namespace, account) = part.account().unzip();
    let pod = part.account().map(|_| part.name());
    event["event.name"] == "imds_guard.attempt"
        && event["k8s.namespace.name"].as_str() == namespace
        && event["imds_guard.service_account"].as_str() == account
        && event["k8s.pod.name"].as_str() == pod
        && event["process.executable.name"] == client.executable()
}
