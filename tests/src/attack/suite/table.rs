//! The table of docs/security.md, and what the suite prints of a run.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{BEYOND, Fate, Kind, Lock, fate};
use crate::attack::Vector;

/// Between these two lines the document has the table.
pub const BEGIN: &str = "<!-- attack suite: begin -->";
pub const END: &str = "<!-- attack suite: end -->";

/// What came of one vector from one kind of pod.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub kernel: String,
    pub vector: Vector,
    /// The kind of pod, by its account.
    pub pod: String,
    pub result: String,
}

/// The table as the document has it: every vector, and what closes it for each kind of pod. Reasons stand below.
pub fn expected() -> String {
    let mut notes: Vec<&'static str> = Vec::new();
    let mut lines: Vec<String> = Lock::ALL.map(|lock| format!("- `{lock}`: {}", lock.meaning())).to_vec();
    lines.extend([
        String::new(),
        format!("| vector | {} |", Kind::ALL.map(|kind| kind.to_string()).join(" | ")),
        format!("|---{}|", "|---".repeat(Kind::ALL.len())),
    ]);
    for &vector in Vector::all() {
        let cells = Kind::ALL.map(|kind| cell(fate(vector, kind), &mut notes));
        lines.push(format!("| `{}` | {} |", vector.name(), cells.join(" | ")));
    }
    lines.push(String::new());
    lines.extend(notes.iter().enumerate().map(|(number, note)| format!("{}. {note}", number + 1)));
    lines.extend([String::new(), "Whom the guard does not promise to stop:".to_owned(), String::new()]);
    lines.extend(BEYOND.iter().map(|(who, why)| format!("- {who}: {why}")));
    lines.join("\n") + "\n"
}

fn cell(fate: Fate, notes: &mut Vec<&'static str>) -> String {
    let mut note = |reason| {
        let place = notes.iter().position(|known| *known == reason).unwrap_or_else(|| {
            notes.push(reason);
            notes.len() - 1
        });
        place + 1
    };
    match fate {
        Fate::Closed(lock) => lock.to_string(),
        Fate::Needs(capability) => format!("needs `{capability}`"),
        Fate::Harmless(reason) => format!("reaches nothing ({})", note(reason)),
        Fate::None(reason) => format!("– ({})", note(reason)),
        Fate::Gap(reason) => format!("**open** ({})", note(reason)),
        Fate::OutOfScope(reason) => format!("**out of scope** ({})", note(reason)),
    }
}

/// The table that a document has; `None` without its two lines.
pub fn written(document: &str) -> Option<&str> {
    let (_, rest) = document.split_once(&format!("{BEGIN}\n"))?;
    rest.split_once(END).map(|(table, _)| table.trim_matches('\n'))
}

/// A run as a table for people.
pub fn print(rows: &[Row]) {
    let line = |vector: &str, cells: [String; Kind::ALL.len()]| {
        println!("{vector:24}{}", cells.map(|cell| format!("{cell:<24}")).concat().trim_end());
    };
    line("", Kind::ALL.map(Kind::account));
    for &vector in Vector::all() {
        let result = |kind: Kind| {
            let of_kind = rows.iter().find(|row| row.vector == vector && row.pod == kind.account());
            of_kind.map(|row| row.result.clone()).unwrap_or_default()
        };
        line(&vector.name(), Kind::ALL.map(result));
    }
}

/// Appends a run to a file, as lines of JSON.
pub fn append(rows: &[Row], path: &Path) -> Result<()> {
    let describe = || format!("append to {}", path.display());
    let mut file = OpenOptions::new().create(true).append(true).open(path).with_context(describe)?;
    let lines: Result<Vec<String>, _> = rows.iter().map(serde_json::to_string).collect();
    file.write_all((lines?.join("\n") + "\n").as_bytes()).with_context(describe)
}
