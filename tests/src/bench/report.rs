use comfy_table::{Cell, CellAlignment, Color, Table, presets};

/// A table of measurements, each with its verdict.
#[derive(Debug)]
pub(super) struct Report {
    table: Table,
    missed: bool,
}

/// Whether a measurement is as good as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Met,
    Missed,
}

impl Verdict {
    /// Judges by the most that is allowed. What is no number misses every target.
    pub(super) fn at_most(target: f64, measured: f64) -> Self {
        if measured <= target { Self::Met } else { Self::Missed }
    }

    fn cell(self) -> Cell {
        match self {
            Self::Met => Cell::new("ok").fg(Color::Green),
            Self::Missed => Cell::new("MISSED").fg(Color::Red),
        }
    }
}

impl Report {
    /// An empty report. The columns are those before the verdict's; the first is text, the others numbers.
    pub(super) fn new(columns: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(columns.iter().enumerate().map(|(index, name)| aligned(index, name)));
        Self { table, missed: false }
    }

    pub(super) fn row(&mut self, cells: &[String], verdict: Verdict) {
        self.missed |= verdict == Verdict::Missed;
        let cells = cells.iter().enumerate().map(|(index, cell)| aligned(index, cell));
        self.table.add_row(cells.chain([verdict.cell()]));
    }

    /// Prints it, and tells whether every target is met.
    pub(super) fn print(&self) -> bool {
        println!("\n{}", self.table);
        !self.missed
    }
}

fn aligned(column: usize, text: &str) -> Cell {
    Cell::new(text).set_alignment(if column == 0 { CellAlignment::Left } else { CellAlignment::Right })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_the_most_that_is_allowed() {
        let cases =
            [(1.05, 1.05, Verdict::Met), (1.05, 1.0501, Verdict::Missed), (1.05, f64::NAN, Verdict::Missed)];
        for (target, measured, expected) in cases {
            assert_eq!(Verdict::at_most(target, measured), expected, "{target:?} {measured}");
        }
    }

    #[test]
    fn one_missed_row_is_enough() {
        let mut report = Report::new(&["what", "measured"]);
        report.row(&["a".to_owned(), "1".to_owned()], Verdict::Met);
        assert!(report.print());
        report.row(&["b".to_owned(), "2".to_owned()], Verdict::Missed);
        report.row(&["c".to_owned(), "3".to_owned()], Verdict::Met);
        assert!(!report.print());
    }
}
