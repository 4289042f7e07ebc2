//! How verdicts look in a terminal.

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};

/// A plain table that fits the terminal.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    table
}

/// What becomes of an attempt with this verdict and mode.
pub(super) fn outcome(verdict: &str, mode: &str) -> &'static str {
    match (verdict, mode) {
        ("allow", _) => "allowed",
        ("filter", "audit") => "would be filtered",
        ("filter", _) => "filtered",
        (_, "audit") => "would be denied",
        _ => "denied",
    }
}

/// The outcome in its colour: green for allowed, yellow for what would be denied, red for denied.
pub(super) fn outcome_cell(verdict: &str, mode: &str) -> Cell {
    let outcome = outcome(verdict, mode);
    Cell::new(outcome).fg(match outcome {
        "allowed" => Color::Green,
        "denied" => Color::Red,
        _ => Color::Yellow,
    })
}
