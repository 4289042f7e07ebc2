//! Why the policy decides as it does about one workload, step by step, for `imds-guard explain`.

use std::sync::Arc;

use guard_common::{Mode, Verdict};
use jiff::civil::Date;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{Enforce, Mismatch, Policy, Rule, RuleName, Ruled};
use crate::{imds::Filter, workload::Workload};

/// The whole way to the outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Every rule, in the policy's order.
    pub rules: Vec<RuleTrace>,
    /// One for each endpoint that the node guards.
    pub outcomes: Vec<Outcome>,
    #[serde(serialize_with = "mode_name", deserialize_with = "named_mode")]
    pub mode: Mode,
    pub enforce: EnforceTrace,
}

/// What one rule had to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleTrace {
    pub name: RuleName,
    pub fate: Fate,
}

/// How far a rule came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Its last day is over. Its selectors were not looked at.
    Expired { until: Date },
    /// At least one selector does not hold.
    NotMatched { mismatches: Vec<Mismatch> },
    /// It matched, and decided these endpoints: none, if earlier rules had decided all of its own.
    Matched { decides: Vec<String> },
}

/// What happens at one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub endpoint: String,
    #[serde(serialize_with = "verdict_name", deserialize_with = "named_verdict")]
    pub verdict: Verdict,
    /// The rule that decided; [`RuleName::DEFAULT`] if none did.
    pub rule: RuleName,
    /// There exactly if the verdict is to filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
}

/// What `enforce` says of the workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnforceTrace {
    None,
    All,
    /// Every selector, in the policy's order. One without a mismatch makes the mode `enforce`.
    Selected(Vec<SelectorTrace>),
}

/// How one selector of `enforce` compares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectorTrace {
    /// The selector, as it would be written in a policy.
    pub selector: String,
    /// Empty: it matches.
    pub mismatches: Vec<Mismatch>,
}

impl Policy {
    /// Why it decides as it does about this workload.
    pub fn explain(&self, workload: &Workload, today: Date) -> Explanation {
        let outcomes: Vec<_> = self
            .endpoints
            .iter()
            .map(|(id, endpoint)| {
                let Ruled { verdict, rule, filter } = self.ruling(workload, id, today);
                let filter = filter.map(Arc::unwrap_or_clone);
                Outcome { endpoint: endpoint.name.clone(), verdict, rule, filter }
            })
            .collect();
        let trace =
            |rule: &Rule| RuleTrace { name: rule.name.clone(), fate: fate(rule, workload, &outcomes, today) };
        Explanation {
            rules: self.rules.iter().map(trace).collect(),
            mode: self.mode(workload),
            enforce: enforce_trace(&self.enforce, workload),
            outcomes,
        }
    }
}

fn fate(rule: &Rule, workload: &Workload, outcomes: &[Outcome], today: Date) -> Fate {
    if let Some(until) = rule.until.filter(|_| rule.is_expired(today)) {
        return Fate::Expired { until };
    }
    let mismatches = rule.selector.mismatches(workload);
    if !mismatches.is_empty() {
        return Fate::NotMatched { mismatches };
    }
    let decided = outcomes.iter().filter(|outcome| outcome.rule == rule.name);
    Fate::Matched { decides: decided.map(|outcome| outcome.endpoint.clone()).collect() }
}

fn enforce_trace(enforce: &Enforce, workload: &Workload) -> EnforceTrace {
    match enforce {
        Enforce::None => EnforceTrace::None,
        Enforce::All => EnforceTrace::All,
        Enforce::Selected(selectors) => {
            let trace = selectors.iter().map(|selector| SelectorTrace {
                selector: selector.to_string(),
                mismatches: selector.mismatches(workload),
            });
            EnforceTrace::Selected(trace.collect())
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn verdict_name<S: Serializer>(verdict: &Verdict, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(verdict.as_str())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn mode_name<S: Serializer>(mode: &Mode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(mode.as_str())
}

fn named_verdict<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Verdict, D::Error> {
    named(Verdict::ALL, Verdict::as_str, deserializer)
}

fn named_mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mode, D::Error> {
    named(Mode::ALL, Mode::as_str, deserializer)
}

fn named<'de, D: Deserializer<'de>, T: Copy>(
    all: &[T],
    name: fn(T) -> &'static str,
    deserializer: D,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    let found = all.iter().copied().find(|&one| name(one) == text);
    found.ok_or_else(|| D::Error::custom(format!("`{text}` is not known")))
}
