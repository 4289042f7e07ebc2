//! The parts of a policy: its rules, the verdicts that they give, and whom they are enforced on.

use std::{borrow::Cow, fmt, sync::Arc};

use guard_common::{EndpointId, Verdict};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::selector::Selector;
use crate::imds::Filter;

/// The name of a rule, as metrics, logs and denials give it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleName(Cow<'static, str>);

impl RuleName {
    /// Stands for the policy's `default`: no rule decided.
    pub const DEFAULT: Self = Self(Cow::Borrowed("default"));
    /// Stands for the policy's `unidentified`: the pod is not named yet.
    pub const UNIDENTIFIED: Self = Self(Cow::Borrowed("unidentified"));
    /// Stands for the agent's own pod, which needs what it guards.
    pub const SELF: Self = Self(Cow::Borrowed("self"));

    /// The longest name: that of a label's value.
    const MAX_LEN: usize = 63;

    /// A name that a user may give: 1 to 63 of `a-z`, `0-9` and `-`, and none of the three above.
    pub(super) fn new(name: &str) -> Result<Self, NameError> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > Self::MAX_LEN || !name.bytes().all(letter) {
            return Err(NameError::Form);
        }
        let name = Self(Cow::Owned(name.to_owned()));
        let reserved = [Self::DEFAULT, Self::UNIDENTIFIED, Self::SELF];
        if reserved.contains(&name) { Err(NameError::Reserved) } else { Ok(name) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a rule can't have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameError {
    Form,
    Reserved,
}

/// Who gets which verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub name: RuleName,
    pub selector: Selector,
    pub verdicts: Verdicts,
    /// The last day, in UTC, on which it matches.
    pub until: Option<Date>,
    /// Why it is there; always given with `until`.
    pub reason: Option<String>,
}

impl Rule {
    /// Whether its last day is over.
    pub fn is_expired(&self, today: Date) -> bool {
        self.until.is_some_and(|until| until < today)
    }
}

/// What a rule, or the default, says of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    Allow,
    Deny,
    /// What this filter lets through. Shared, because every pod that the rule matches has it.
    Filter(Arc<Filter>),
}

impl Permission {
    /// The verdict, without the filter.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Allow => Verdict::Allow,
            Self::Deny => Verdict::Deny,
            Self::Filter(_) => Verdict::Filter,
        }
    }

    /// The filter, if the verdict is to filter.
    pub fn filter(&self) -> Option<&Arc<Filter>> {
        match self {
            Self::Allow | Self::Deny => None,
            Self::Filter(filter) => Some(filter),
        }
    }
}

/// What a workload may do at an endpoint, and what says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruled {
    pub verdict: Verdict,
    /// The rule that decided; [`RuleName::DEFAULT`] if none did.
    pub rule: RuleName,
    /// There exactly if the verdict is to filter.
    pub filter: Option<Arc<Filter>>,
}

/// The endpoints that a rule, or the default, decides. It leaves the others to what comes after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts(Vec<(EndpointId, Permission)>);

impl Verdicts {
    pub(super) fn new(verdicts: Vec<(EndpointId, Permission)>) -> Self {
        Self(verdicts)
    }

    /// What it says of this endpoint, if anything.
    pub fn of(&self, endpoint: EndpointId) -> Option<&Permission> {
        self.iter().find(|&(decided, _)| decided == endpoint).map(|(_, permission)| permission)
    }

    /// All that it decides.
    pub fn iter(&self) -> impl Iterator<Item = (EndpointId, &Permission)> {
        self.0.iter().map(|(endpoint, permission)| (*endpoint, permission))
    }
}

/// On whom the verdicts are carried out. Everybody else is audited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Enforce {
    #[default]
    None,
    All,
    /// On whoever matches one of these; there is at least one.
    Selected(Vec<Selector>),
}
