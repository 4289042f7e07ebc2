//! What becomes of one request to IMDS, given why the policy decides as it does, for `imds-guard explain --path`.

use guard_common::Verdict;
use serde::Serialize;

use super::{Explanation, Outcome, RuleName};
use crate::{
    endpoints::Endpoints,
    imds::{Class, Filter, MetadataPath, Method, PathError},
};

/// One request, and what the policy says of it. The mode is the explanation's: in audit, every request is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestTrace {
    pub method: String,
    /// As it was asked for.
    pub target: String,
    /// The path that goes on to IMDS under a filter, if the target can be read.
    pub path: Option<String>,
    pub class: Option<Class>,
    pub allowed: bool,
    /// Whether it is allowed with a session token (`IMDSv2`) only.
    pub needs_token: bool,
    pub rule: RuleName,
    /// Why, as the end of a sentence about the rule.
    pub because: String,
}

impl Explanation {
    /// What becomes of a request to IMDS. None: the explanation is not about IMDS.
    pub fn request(&self, target: &str, method: &Method) -> Option<RequestTrace> {
        let outcome = self.outcomes.iter().find(|outcome| outcome.endpoint == Endpoints::IMDS)?;
        let path = MetadataPath::parse(target);
        let (allowed, because) = judge(outcome, &path, method);
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        let requires_token = outcome.filter.as_ref().is_some_and(Filter::requires_token);
        Some(RequestTrace {
            method: method.to_string(),
            target: target.to_owned(),
            path: path.as_ref().ok().map(|path| path.canonical().to_owned()),
            class: path.as_ref().ok().map(MetadataPath::class),
            allowed,
            needs_token: allowed && is_read && requires_token,
            rule: outcome.rule.clone(),
            because,
        })
    }
}

fn judge(outcome: &Outcome, path: &Result<MetadataPath, PathError>, method: &Method) -> (bool, String) {
    let because = |allowed, because: &str| (allowed, because.to_owned());
    match (outcome.verdict, &outcome.filter, path) {
        (Verdict::Allow, ..) => because(true, "allows every request"),
        (Verdict::Filter, Some(_), Err(error)) => {
            (false, format!("has a filter, which denies what it can't read: {error}"))
        }
        (Verdict::Filter, Some(filter), Ok(path)) => match *method {
            _ if filter.allows(path, method) => because(true, "has a filter that lets it through"),
            Method::GET | Method::HEAD => because(false, "has a filter that does not let it through"),
            Method::PUT => because(false, "has a filter, under which PUT is for /latest/api/token alone"),
            _ => because(false, "has a filter, which lets only GET and HEAD through, and PUT for the token"),
        },
        (Verdict::Deny | Verdict::Filter, ..) => because(false, "denies every request"),
    }
}
