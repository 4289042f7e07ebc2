//! What came of all machines, as tables.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::{Table, presets};
use serde_json::Value;

use super::machine::{Course, Suite};

/// How much of what a failed suite printed is shown.
const LINES_SHOWN: usize = 80;

/// Everything that is to be told at the end.
pub(super) struct Report {
    /// Kernels that could not be had, and why.
    skipped: Vec<String>,
    courses: Vec<(String, String, Course)>,
}

impl Report {
    pub(super) fn of_skipped(skipped: Vec<String>) -> Self {
        Self { skipped, courses: Vec::new() }
    }

    /// Adds what was seen of one machine.
    pub(super) fn add(&mut self, name: &str, release: &str, course: Course) {
        self.courses.push((name.to_owned(), release.to_owned(), course));
    }

    /// Whether every kernel that could be had did well.
    pub(super) fn is_good(&self) -> bool {
        self.courses.iter().all(|(_, _, course)| {
            course.ended && course.complaints.is_empty() && course.suites.iter().all(Suite::is_good)
        })
    }

    pub(super) fn print(&self) {
        for (name, release, course) in &self.courses {
            for suite in course.suites.iter().filter(|suite| !suite.is_good()) {
                println!("\n── {name} ({release}): {} ──", suite.name);
                let from = suite.printed.len().saturating_sub(LINES_SHOWN);
                suite.printed[from..].iter().for_each(|line| println!("{line}"));
            }
            course.complaints.iter().for_each(|complaint| println!("{name} ({release}): {complaint}"));
        }
        if let Some(table) = self.attacks() {
            println!("{table}");
        }
        println!("{}", self.suites());
        self.skipped.iter().for_each(|skipped| println!("SKIPPED {skipped}"));
    }

    fn suites(&self) -> Table {
        let mut table =
            table(["kernel", "", "suite", "passed", "failed", "skipped", "seconds"].map(ToOwned::to_owned));
        for (name, release, course) in &self.courses {
            table.add_row([
                name.clone(),
                release.clone(),
                "boot".to_owned(),
                String::new(),
                String::new(),
                String::new(),
                format!("{:.1}", course.boot.as_secs_f64()),
            ]);
            for suite in &course.suites {
                let failed = match suite.status {
                    Some(_) => suite.failed.to_string(),
                    None => "did not end".to_owned(),
                };
                table.add_row([
                    String::new(),
                    String::new(),
                    suite.name.clone(),
                    suite.passed.to_string(),
                    failed,
                    suite.skipped.iter().collect::<BTreeSet<_>>().len().to_string(),
                    format!("{:.1}", suite.took.as_secs_f64()),
                ]);
            }
        }
        table
    }

    /// Vector × pod by kernel; `None` if no suite told of attacks.
    fn attacks(&self) -> Option<Table> {
        let mut results: BTreeMap<(String, String), BTreeMap<&str, String>> = BTreeMap::new();
        for (name, _, course) in &self.courses {
            for attack in course.attacks.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
                let text = |key: &str| attack[key].as_str().unwrap_or_default().to_owned();
                results.entry((text("vector"), text("pod"))).or_default().insert(name, text("result"));
            }
        }
        let kernels: Vec<&str> = self.courses.iter().map(|(name, ..)| name.as_str()).collect();
        let mut attacks = table(["vector", "pod"].iter().chain(&kernels).map(|title| (*title).to_owned()));
        for ((vector, pod), by_kernel) in &results {
            let cells = kernels.iter().map(|kernel| by_kernel.get(kernel).cloned().unwrap_or_default());
            attacks.add_row([vector.clone(), pod.clone()].into_iter().chain(cells));
        }
        (!results.is_empty()).then_some(attacks)
    }
}

fn table(titles: impl IntoIterator<Item = String>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(titles.into_iter().collect::<Vec<_>>());
    table
}
