use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use comfy_table::{Cell, Color};

use self::finding::{Finding, State, judge};
use super::style;
use crate::{endpoints::Endpoints, kernel::probe::Facts};

pub(super) mod finding;

/// Show what this host can do, and what follows where it can't. It changes nothing.
///
/// The exit code is 1 when something is missing that the guard can't do without.
#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// The cgroup v2 mount. Left out: found in /proc/self/mountinfo
    #[arg(long, value_name = "PATH")]
    cgroup_mount: Option<PathBuf>,

    /// The cgroup under which all pods live, relative to the mount. Left out: `kubepods`, `kubepods.slice` or the like
    /// is looked for
    #[arg(long, value_name = "PATH")]
    guarded_root: Option<PathBuf>,

    /// A further endpoint to guard, or a further address of one: NAME=ADDRESS[,ADDRESS…]. Can be given again
    #[arg(long, value_name = "ENDPOINT")]
    endpoint: Vec<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let endpoints = Endpoints::with(&self.endpoint)?;
        let facts = Facts::probe(self.cgroup_mount.as_deref(), self.guarded_root.as_deref());
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
