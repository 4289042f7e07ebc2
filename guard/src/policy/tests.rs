//! The behaviour of a policy, in tables of named cases.

mod explain;
mod fixtures;
mod reading;
mod rulings;

use jiff::civil::{Date, date};

use super::{Parsed, Policy, SourceFile, parse, render};
use crate::{endpoints::Endpoints, workload::Workload};

/// The day on which all these tests run.
const TODAY: Date = date(2026, 6, 15);

/// What `texts` parse to, as files of one policy.
fn parsed(texts: &[&str]) -> Parsed {
    parse(&files(texts), &Endpoints::aws(), TODAY)
}

fn files(texts: &[&str]) -> Vec<SourceFile> {
    let name = |place: usize| format!("policy/{place}.yaml");
    texts
        .iter()
        .enumerate()
        .map(|(place, &text)| SourceFile { name: name(place), text: text.to_owned() })
        .collect()
}

/// The policy of one file; its problems are shown if it has none.
fn policy(text: &str) -> Policy {
    let parsed = parsed(&[text]);
    let shown = render(&parsed.problems, &files(&[text]), false);
    parsed.policy.unwrap_or_else(|| panic!("{shown}"))
}

/// A policy with one rule, `probe`, that allows imds to whom `selector` matches; everybody else is denied.
fn policy_with_match(selector: &str) -> Policy {
    policy(&format!(
        "version: 1\ndefault: {{ imds: deny }}\nrules:\n  - {{ name: probe, match: {{ {selector} }}, imds: allow }}\n"
    ))
}

/// A pod of a deployment, with something in every field.
fn kcl() -> Workload {
    let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    Workload {
        namespace: "ingest".to_owned(),
        namespace_labels: labels(&[("team", "data"), ("stage", "prod")]),
        service_account: "kcl-worker".to_owned(),
        owners: vec!["replicaset/kcl-5d8f7c9b6d".to_owned(), "deployment/kcl".to_owned()],
        labels: labels(&[("app", "kcl"), ("track", "")]),
        host_network: false,
        node_labels: labels(&[("pool", "canary")]),
    }
}
