//! The policy: who may reach which endpoint, and on whom that is enforced.
//!
//! Text flows one way: files as read ([`read`]) → trees with places (`node`) → the format's keys (`decode`) → one
//! draft of all files with its warnings (`draft`, `lint`) → [`Policy`], which answers questions and never changes.
//! All problems are collected on the way, never only the first. Nothing here knows the kernel, a cluster or a clock:
//! the day is an argument.

mod decode;
mod diagnostics;
mod draft;
mod explain;
mod glob;
mod lint;
mod node;
mod request;
mod rule;
mod selector;
mod source;
mod spelling;
#[cfg(test)]
mod tests;

use std::fmt::Write;

use guard_common::{EndpointId, Mode, Verdict};
use jiff::civil::Date;
use sha2::{Digest, Sha256};

pub use self::{
    diagnostics::{Place, Problem, Related, Severity, render},
    explain::{EnforceTrace, Explanation, Fate, Outcome, RuleTrace, SelectorTrace},
    request::RequestTrace,
    rule::{Enforce, Permission, Rule, RuleName, Ruled, Verdicts},
    selector::{Mismatch, Selector},
    source::{ReadError, SourceFile, is_policy_name, read},
};
use crate::{endpoints::Endpoints, workload::Workload};

/// A policy without errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    endpoints: Endpoints,
    help: Option<String>,
    enforce: Enforce,
    unidentified: Verdict,
    default: Verdicts,
    rules: Vec<Rule>,
    sha256: String,
}

/// What became of a policy's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// There, unless one of the problems is an error.
    pub policy: Option<Policy>,
    /// In the order of the files and of the lines in them.
    pub problems: Vec<Problem>,
}

/// Makes one policy of all files, or says all that is wrong with them. `today` decides which rules are reported as
/// expired or about to expire.
pub fn parse(files: &[SourceFile], endpoints: &Endpoints, today: Date) -> Parsed {
    let mut problems = Vec::new();
    if files.is_empty() {
        let nowhere = Place { file: "policy".to_owned(), line: 1, column: 1, bytes: 0..0 };
        problems.push(Problem::error(
            nowhere,
            "there is no policy file",
            "add one that starts with `version: 1`",
        ));
    }
    let drafts = files.iter().filter_map(|file| {
        let root = node::read(file, &mut problems)?;
        Some(decode::file(&root, file, endpoints, &mut problems))
    });
    let drafts = drafts.collect();
    let draft = draft::Draft::merge(drafts, &mut problems);
    lint::check(&draft, endpoints, today, &mut problems);
    let refused = problems.iter().any(Problem::is_error);
    let policy = if refused { None } else { Some(draft.into_policy(endpoints.clone(), sha256(files))) };
    let order = |place: &Place| files.iter().position(|file| file.name == place.file);
    problems.sort_by_key(|problem| (order(&problem.place), problem.place.bytes.start));
    Parsed { policy, problems }
}

impl Policy {
    /// Whether this workload's verdicts are carried out, or only recorded.
    pub fn mode(&self, workload: &Workload) -> Mode {
        let enforced = match &self.enforce {
            Enforce::None => false,
            Enforce::All => true,
            Enforce::Selected(selectors) => selectors.iter().any(|selector| selector.matches(workload)),
        };
        if enforced { Mode::Enforce } else { Mode::Audit }
    }

    /// What this workload may do at an endpoint, and the rule that says so. The first rule that matches and names the
    /// endpoint decides; then the default; an endpoint that nothing names is allowed.
    pub fn ruling(&self, workload: &Workload, endpoint: EndpointId, today: Date) -> Ruled {
        let decided = self.rules.iter().filter(|rule| !rule.is_expired(today)).find_map(|rule| {
            let permission = rule.verdicts.of(endpoint)?;
            rule.selector.matches(workload).then(|| (permission, rule.name.clone()))
        });
        let default = || (self.default.of(endpoint).unwrap_or(&Permission::Allow), RuleName::DEFAULT);
        let (permission, rule) = decided.unwrap_or_else(default);
        Ruled { verdict: permission.verdict(), rule, filter: permission.filter().cloned() }
    }

    /// What a pod may do that the agent has not named yet. It can only be denied what the node guards by default:
    /// IMDS, and every endpoint whose default is to deny.
    pub fn unidentified(&self, endpoint: EndpointId) -> (Verdict, Mode, RuleName) {
        let guarded = self.endpoints.id(Endpoints::IMDS) == Some(endpoint)
            || self.default.of(endpoint) == Some(&Permission::Deny);
        let verdict = if guarded { self.unidentified } else { Verdict::Allow };
        let mode = if self.enforce == Enforce::None { Mode::Audit } else { Mode::Enforce };
        (verdict, mode, RuleName::UNIDENTIFIED)
    }

    /// The next day after which a rule no longer matches, so that rulings must be made anew on the day after.
    pub fn next_expiry(&self, today: Date) -> Option<Date> {
        self.rules.iter().filter_map(|rule| rule.until).filter(|&until| until >= today).min()
    }

    /// Where a person whose pod was denied can read what to do.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// On whom verdicts are carried out.
    pub fn enforce(&self) -> &Enforce {
        &self.enforce
    }

    /// The rules of all files, in their order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The digest of the files' names and contents, in hexadecimal: equal wherever the same files lie.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// The digest of the files' names and contents, in hexadecimal: equal wherever the same files lie.
pub fn sha256(files: &[SourceFile]) -> String {
    let mut digest = Sha256::new();
    for file in files {
        let name = file.name.rsplit('/').next().unwrap_or_default();
        // The lengths keep a name apart from its text and a file from the next.
        for part in [name, &file.text] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
    }
    digest.finalize().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a String takes everything");
        hex
    })
}
