use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use guard_common::{Mode, Verdict};
use jiff::{Timestamp, tz::TimeZone};

use super::style;
use crate::{
    endpoints::Endpoints,
    policy::{self, EnforceTrace, Explanation, Fate, Mismatch, Policy},
    workload::{Labels, Workload},
};

/// Say what a policy decides about a workload, and why.
#[derive(Args, Debug)]
pub(super) struct Explain {
    /// The policy: a folder or a file
    #[arg(long, value_name = "PATH", default_value = "/etc/imds-guard/policy", env = "IMDS_GUARD_POLICY")]
    policy: PathBuf,

    /// The workload's namespace
    #[arg(long, value_name = "NAME")]
    namespace: String,

    /// The workload's service account
    #[arg(long, value_name = "NAME")]
    service_account: String,

    /// The pod's labels
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,

    /// The namespace's labels
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    namespace_labels: Vec<(String, String)>,

    /// The node's labels
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    node_labels: Vec<(String, String)>,

    /// The pod's owners, such as deployment/checkout
    #[arg(long, value_name = "KIND/NAME", value_delimiter = ',')]
    workload: Vec<String>,

    /// Whether the pod is in the host's network
    #[arg(long)]
    host_network: bool,

    /// A further endpoint, as `run` is given it
    #[arg(long, value_name = "ENDPOINT")]
    endpoint: Vec<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not of the form KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Explain {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        let endpoints = Endpoints::with(&self.endpoint)?;
        let files = policy::read(&self.policy)?;
        let parsed = policy::parse(&files, &endpoints, today);
        let Some(policy) = parsed.policy else {
            bail!("the policy is not accepted:\n\n{}", policy::render(&parsed.problems, &files, false));
        };
        let workload = self.workload()?;
        let explanation = policy.explain(&workload, today);
        if self.json {
            println!("{}", serde_json::to_string_pretty(&explanation)?);
        } else {
            print!("{}", readable(&policy, &workload, &explanation));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn workload(&self) -> anyhow::Result<Workload> {
        let collect = |labels: &[(String, String)]| labels.iter().cloned().collect::<Labels>();
        let mut namespace_labels = collect(&self.namespace_labels);
        // The API server gives every namespace this label.
        namespace_labels.entry("kubernetes.io/metadata.name".to_owned()).or_insert_with(|| self.namespace.clone());
        let owners = self.workload.iter().map(|owner| {
            let (kind, name) = owner.split_once('/').with_context(|| format!("`{owner}` is not of the form KIND/NAME"))?;
            Ok(format!("{}/{name}", kind.to_lowercase()))
        });
        Ok(Workload {
            namespace: self.namespace.clone(),
            namespace_labels,
            service_account: self.service_account.clone(),
            owners: owners.collect::<anyhow::Result<_>>()?,
            labels: collect(&self.labels),
            host_network: self.host_network,
            node_labels: collect(&self.node_labels),
        })
    }
}

fn readable(policy: &Policy, workload: &Workload, explanation: &Explanation) -> String {
    let mut text = format!("{}/{}\n\n", workload.namespace, workload.service_account);
    for outcome in &explanation.outcomes {
        text += &format!(
            "  {:13} {} by the rule `{}`\n",
            outcome.endpoint,
            style::outcome(outcome.verdict.as_str(), explanation.mode.as_str()),
            outcome.rule.as_str()
        );
    }
    text += &format!("\nMode: {}", explanation.mode.as_str());
    text += &match &explanation.enforce {
        EnforceTrace::None => ", because `enforce` is none: what would be denied is recorded and let through\n".to_owned(),
        EnforceTrace::All => ", because `enforce` is all\n".to_owned(),
        EnforceTrace::Selected(selectors) => {
            let mut text = match explanation.mode {
                Mode::Enforce => ", because a selector of `enforce` matches\n".to_owned(),
                Mode::Audit => ", because no selector of `enforce` matches\n".to_owned(),
            };
            for selector in selectors {
                text += &format!("  {:8} {}\n", matched(&selector.mismatches), selector.selector);
                text += &mismatches(&selector.mismatches);
            }
            text
        }
    };
    text += "\nRules, in order; the first that matches decides:\n";
    for rule in &explanation.rules {
        let name = rule.name.as_str();
        text += &match &rule.fate {
            Fate::Expired { until } => format!("  expired  {name}: its last day was {until}\n"),
            Fate::NotMatched { mismatches: found } => format!("  no       {name}\n{}", mismatches(found)),
            Fate::Matched { decides } if decides.is_empty() => {
                format!("  matches  {name}, but earlier rules had decided\n")
            }
            Fate::Matched { decides } => format!("  matches  {name}, and decides {}\n", decides.join(", ")),
        };
    }
    if explanation.rules.is_empty() {
        text += "  there are none\n";
    }
    text + &help(policy, explanation)
}

fn help(policy: &Policy, explanation: &Explanation) -> String {
    let denied = explanation.outcomes.iter().any(|outcome| outcome.verdict == Verdict::Deny);
    match policy.help() {
        Some(help) if denied => format!("\nHelp for those who are denied: {help}\n"),
        _ => String::new(),
    }
}

fn matched(mismatches: &[Mismatch]) -> &'static str {
    if mismatches.is_empty() { "matches" } else { "no" }
}

fn mismatches(mismatches: &[Mismatch]) -> String {
    let line = |mismatch: &Mismatch| {
        format!("             {} wants {}, has {}\n", mismatch.selector, mismatch.wanted, mismatch.has)
    };
    mismatches.iter().map(line).collect()
}
