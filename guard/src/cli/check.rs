use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use clap::Args;
use jiff::{Timestamp, tz::TimeZone};

use crate::{
    endpoints::Endpoints,
    policy::{self, Severity},
};

/// Check policies without touching anything.
///
/// Every problem is shown, each with its place and a remedy. Warnings stand beside a policy that is accepted.
/// Exit code: 0 accepted, 1 refused.
#[derive(Args, Debug)]
pub(super) struct Check {
    /// Policy files; or a folder, of which every *.yaml counts in name order. All of them together are one policy
    #[arg(required = true, value_name = "FILE")]
    paths: Vec<PathBuf>,

    /// A further endpoint, as `run` is given it
    #[arg(long, value_name = "ENDPOINT")]
    endpoint: Vec<String>,

    /// Refuse what has warnings, too
    #[arg(long)]
    deny_warnings: bool,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let endpoints = Endpoints::with(&self.endpoint)?;
        let mut files = Vec::new();
        for path in &self.paths {
            files.extend(policy::read(path)?);
        }
        let parsed = policy::parse(&files, &endpoints, Timestamp::now().to_zoned(TimeZone::UTC).date());
        if !parsed.problems.is_empty() {
            eprintln!("{}", policy::render(&parsed.problems, &files, std::io::stderr().is_terminal()));
        }
        let warnings = parsed.problems.iter().filter(|problem| problem.severity == Severity::Warning).count();
        let errors = parsed.problems.len() - warnings;
        Ok(match parsed.policy {
            Some(policy) if warnings == 0 || !self.deny_warnings => {
                println!(
                    "accepted: {} in {}, {} (sha256 {})",
                    counted(policy.rules().len(), "rule"),
                    counted(files.len(), "file"),
                    counted(warnings, "warning"),
                    policy.sha256()
                );
                ExitCode::SUCCESS
            }
            _ => {
                println!("refused: {}, {}", counted(errors, "error"), counted(warnings, "warning"));
                ExitCode::FAILURE
            }
        })
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
