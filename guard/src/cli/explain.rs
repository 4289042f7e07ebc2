use std::{
    fmt::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Args;
use guard_common::{Mode, Verdict};
use http_body_util::BodyExt;
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use super::{block_on, style};
use crate::{
    agent::Explained,
    client,
    endpoints::Endpoints,
    imds::Method,
    policy::{
        self, EnforceTrace, Explanation, Fate, Mismatch, Outcome, RequestTrace, RuleTrace, SelectorTrace,
    },
    sinks::api::EXPLAIN,
    text::escape,
    workload::{Labels, Workload},
};

/// The arguments that describe a workload.
const WORKLOAD: [&str; 8] = [
    "namespace",
    "service_account",
    "labels",
    "namespace_labels",
    "node_labels",
    "workload",
    "host_network",
    "endpoint",
];

/// Say what a policy decides about a workload, and why.
///
/// The workload is a pod of this node (--pod), or described by its namespace, service account and labels.
#[derive(Args, Debug)]
pub(super) struct Explain {
    /// The policy: a folder or a file
    #[arg(long, value_name = "PATH", default_value = "/etc/imds-guard/policy", env = "IMDS_GUARD_POLICY")]
    policy: PathBuf,

    /// A pod of this node: the running agent says what the policy in force decides about it. Nothing else is needed then
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with_all = WORKLOAD)]
    pod: Option<String>,

    /// The running agent's socket
    #[arg(long, value_name = "PATH", default_value = client::SOCKET, requires = "pod")]
    socket: PathBuf,

    /// The workload's namespace
    #[arg(long, value_name = "NAME", required_unless_present = "pod", default_value = "")]
    namespace: String,

    /// The workload's service account
    #[arg(long, value_name = "NAME", required_unless_present = "pod", default_value = "")]
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

    /// Also say whether a request for this path of the metadata service would be answered
    #[arg(long, value_name = "PATH")]
    path: Option<String>,

    /// The method of that request
    #[arg(long, value_name = "METHOD", default_value = "GET", requires = "path", value_parser = method)]
    method: Method,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` is not of the form KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn method(text: &str) -> Result<Method, String> {
    text.to_uppercase().parse().map_err(|_| format!("`{text}` is not a method of HTTP"))
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    explanation: &'a Explanation,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<RequestTrace>,
}

impl Explain {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let explained = match &self.pod {
            Some(pod) => ask(&self.socket, pod)?,
            None => self.explain()?,
        };
        let explanation = &explained.explanation;
        let request = self.path.as_ref().and_then(|path| explanation.request(path, &self.method));
        if self.json {
            println!("{}", serde_json::to_string_pretty(&Answer { explanation, request })?);
        } else {
            print!("{}", readable(&explained, request.as_ref())?);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn explain(&self) -> anyhow::Result<Explained> {
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        let endpoints = Endpoints::with(&self.endpoint)?;
        let files = policy::read(&self.policy)?;
        let parsed = policy::parse(&files, &endpoints, today);
        let Some(policy) = parsed.policy else {
            bail!("the policy is not accepted:\n\n{}", policy::render(&parsed.problems, &files, false));
        };
        let workload = self.workload()?;
        let explanation = policy.explain(&workload, today);
        Ok(Explained { workload, explanation, help: policy.help().map(ToOwned::to_owned) })
    }

    fn workload(&self) -> anyhow::Result<Workload> {
        let collect = |labels: &[(String, String)]| labels.iter().cloned().collect::<Labels>();
        let mut namespace_labels = collect(&self.namespace_labels);
        // The API server gives every namespace this label.
        namespace_labels
            .entry("kubernetes.io/metadata.name".to_owned())
            .or_insert_with(|| self.namespace.clone());
        let owners = self.workload.iter().map(|owner| {
            let (kind, name) =
                owner.split_once('/').with_context(|| format!("`{owner}` is not of the form KIND/NAME"))?;
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

/// Asks the running agent.
fn ask(socket: &Path, pod: &str) -> anyhow::Result<Explained> {
    let path = format!("{EXPLAIN}{pod}");
    let body = block_on(async { Ok(client::get(socket, &path).await?.collect().await?.to_bytes()) })?;
    serde_json::from_slice(&body).context("read what the agent answers")
}

fn readable(explained: &Explained, request: Option<&RequestTrace>) -> Result<String, fmt::Error> {
    let Explained { workload, explanation, help } = explained;
    let mut text = String::new();
    writeln!(text, "{}/{}\n", workload.namespace, workload.service_account)?;
    for Outcome { endpoint, verdict, rule, filter } in &explanation.outcomes {
        let outcome = style::outcome(verdict.as_str(), explanation.mode.as_str());
        let filter = filter.as_ref().map_or(String::new(), |filter| format!(": {filter}"));
        writeln!(text, "  {endpoint:13} {outcome} by the rule `{rule}`{filter}")?;
    }
    if let Some(request) = request {
        write_request(&mut text, request, explanation.mode)?;
    }
    write_mode(&mut text, explanation)?;
    write_rules(&mut text, explanation)?;
    let denied = explanation.outcomes.iter().any(|outcome| outcome.verdict != Verdict::Allow);
    if let (true, Some(help)) = (denied, help) {
        writeln!(text, "\nHelp for those who are denied: {help}")?;
    }
    Ok(text)
}

fn write_request(text: &mut String, request: &RequestTrace, mode: Mode) -> fmt::Result {
    let RequestTrace { method, target, path, class, allowed, needs_token, rule, because } = request;
    writeln!(text, "\nRequest: {method} {}", escape(target.as_bytes()))?;
    if let (Some(path), Some(class)) = (path, class) {
        writeln!(text, "  {:13} {path}, of the class `{class}`", "asks for")?;
    }
    let verdict = if *allowed { Verdict::Allow } else { Verdict::Deny };
    let outcome = style::outcome(verdict.as_str(), mode.as_str());
    let token = if *needs_token { ", with a session token (IMDSv2) only" } else { "" };
    writeln!(text, "  {:13} {outcome}{token}: the rule `{rule}` {because}", "outcome")
}

fn write_mode(text: &mut String, explanation: &Explanation) -> fmt::Result {
    let because = match (&explanation.enforce, explanation.mode) {
        (EnforceTrace::None, _) => "`enforce` is none: what would be denied is recorded and let through",
        (EnforceTrace::All, _) => "`enforce` is all",
        (EnforceTrace::Selected(_), Mode::Enforce) => "a selector of `enforce` matches",
        (EnforceTrace::Selected(_), Mode::Audit) => "no selector of `enforce` matches",
    };
    writeln!(text, "\nMode: {}, because {because}", explanation.mode.as_str())?;
    let EnforceTrace::Selected(selectors) = &explanation.enforce else { return Ok(()) };
    for SelectorTrace { selector, mismatches } in selectors {
        writeln!(text, "  {:8} {selector}", if mismatches.is_empty() { "matches" } else { "no" })?;
        write_mismatches(text, mismatches)?;
    }
    Ok(())
}

fn write_rules(text: &mut String, explanation: &Explanation) -> fmt::Result {
    writeln!(text, "\nRules, in order; the first that matches decides:")?;
    for RuleTrace { name, fate } in &explanation.rules {
        match fate {
            Fate::Expired { until } => writeln!(text, "  expired  {name}: its last day was {until}")?,
            Fate::NotMatched { mismatches } => {
                writeln!(text, "  no       {name}")?;
                write_mismatches(text, mismatches)?;
            }
            Fate::Matched { decides } if decides.is_empty() => {
                writeln!(text, "  matches  {name}, but earlier rules had decided")?;
            }
            Fate::Matched { decides } => {
                writeln!(text, "  matches  {name}, and decides {}", decides.join(", "))?;
            }
        }
    }
    if explanation.rules.is_empty() {
        writeln!(text, "  there are none")?;
    }
    Ok(())
}

fn write_mismatches(text: &mut String, mismatches: &[Mismatch]) -> fmt::Result {
    for Mismatch { selector, wanted, has } in mismatches {
        writeln!(text, "             {selector} wants {wanted}, has {has}")?;
    }
    Ok(())
}
