//! All files of a policy put together, with the places that their parts came from. It owns what must hold across
//! files: a key is set once, a rule's name is used once.

use std::collections::BTreeMap;

use guard_common::Verdict;
use jiff::civil::Date;

use super::{Enforce, Place, Policy, Problem, Rule, RuleName, Selector, Verdicts};
use crate::endpoints::Endpoints;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Sited<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// What could be made of one file, or of all.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) help: Option<Sited<String>>,
    pub(super) enforce: Option<Sited<Enforce>>,
    pub(super) unidentified: Option<Sited<Verdict>>,
    pub(super) default: Option<Sited<Verdicts>>,
    pub(super) rules: Vec<RuleDraft>,
}

/// What could be made of one rule. A part that is missing was refused, with an error of its own; `until` and `reason`
/// may simply not be there.
#[derive(Debug)]
pub(super) struct RuleDraft {
    pub(super) name: Option<Sited<RuleName>>,
    pub(super) selector: Option<Sited<Selector>>,
    pub(super) verdicts: Verdicts,
    pub(super) until: Option<Sited<Date>>,
    pub(super) reason: Option<String>,
    /// Whether nothing of it was refused.
    pub(super) is_whole: bool,
}

impl Draft {
    pub(super) fn merge(files: Vec<Self>, problems: &mut Vec<Problem>) -> Self {
        let mut draft = Self::default();
        for file in files {
            set_once(&mut draft.help, file.help, "help", problems);
            set_once(&mut draft.enforce, file.enforce, "enforce", problems);
            set_once(&mut draft.unidentified, file.unidentified, "unidentified", problems);
            set_once(&mut draft.default, file.default, "default", problems);
            draft.rules.extend(file.rules);
        }
        draft.refuse_shared_names(problems);
        draft
    }

    /// Metrics and denials tell rules apart by their name alone.
    fn refuse_shared_names(&self, problems: &mut Vec<Problem>) {
        let mut first: BTreeMap<&RuleName, &Place> = BTreeMap::new();
        for name in self.rules.iter().filter_map(|rule| rule.name.as_ref()) {
            match first.get(&name.value) {
                None => {
                    first.insert(&name.value, &name.place);
                }
                Some(&earlier) => problems.push(
                    Problem::error(
                        name.place.clone(),
                        format!("two rules are named `{}`", name.value),
                        "give each rule a name of its own, over all files of the policy",
                    )
                    .related(earlier.clone(), "the first one"),
                ),
            }
        }
    }

    /// The policy, of a draft that had no errors.
    pub(super) fn into_policy(self, endpoints: Endpoints, sha256: String) -> Policy {
        let enforce = self.enforce.map(|enforce| enforce.value).unwrap_or_default();
        // A node where everyone is enforced must not have a gap at pod start.
        let unnamed = if enforce == Enforce::All { Verdict::Deny } else { Verdict::Allow };
        Policy {
            endpoints,
            help: self.help.map(|help| help.value),
            unidentified: self.unidentified.map_or(unnamed, |unidentified| unidentified.value),
            enforce,
            default: self.default.map(|default| default.value).unwrap_or_default(),
            rules: self.rules.into_iter().filter_map(RuleDraft::into_rule).collect(),
            sha256,
        }
    }
}

impl RuleDraft {
    fn into_rule(self) -> Option<Rule> {
        Some(Rule {
            name: self.name?.value,
            selector: self.selector?.value,
            verdicts: self.verdicts,
            until: self.until.map(|until| until.value),
            reason: self.reason,
        })
    }
}

fn set_once<T>(slot: &mut Option<Sited<T>>, found: Option<Sited<T>>, key: &str, problems: &mut Vec<Problem>) {
    match (&slot, found) {
        (Some(first), Some(second)) => problems.push(
            Problem::error(
                second.place,
                format!("`{key}` is set by two files"),
                "keep it in one file: the order of files must not decide it",
            )
            .related(first.place.clone(), "the first one"),
        ),
        (None, found) => *slot = found,
        (Some(_), None) => {}
    }
}
