use std::process::ExitCode;

use clap::Args;
use comfy_table::{Cell, Color};

use self::finding::{Finding, State, judge};
use super::{host::Host, style};
use crate::{endpoints::Endpoints, kernel::probe::Facts};

pub(super) mod finding;

/// Show what this host can do, and what follows where it can't. It changes nothing.
///
/// The exit code is 1 when something is missing that the guard can't do without.
#[derive(Args, Debug)]
pub(super) struct Doctor {
    #[command(flatten)]
    host: Host,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let endpoints = Endpoints::with(&self.host.endpoint)?;
        let facts = Facts::probe(self.host.cgroup_mount.as_deref(), self.host.guarded_root.as_deref());
        let findings = judge(&facts, &endpoints);
        if self.json {
            println!("{}", serde_json::to_string_pretty(&findings)?);
        } else {
            print(&findings);
        }
        let missing = findings.iter().any(|finding| finding.state == State::Missing);
        Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn print(findings: &[Finding]) {
    let mut table = style::table(&["ITEM", "STATE", "FOUND", "WHAT FOLLOWS"]);
    for Finding { item, state, found, follows, .. } in findings {
        table.add_row([
            Cell::new(item),
            Cell::new(state.as_str()).fg(colour(*state)),
            Cell::new(found),
            Cell::new(follows.as_deref().unwrap_or_default()),
        ]);
    }
    println!("{}", table.trim_fmt());
}

fn colour(state: State) -> Color {
    match state {
        State::Ok => Color::Green,
        State::Degraded => Color::Yellow,
        State::Missing => Color::Red,
    }
}
