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
    /// Not as good as it should become; no failure.
    NotReached,
    /// Shown for comparison.
    Unjudged,
}

impl Verdict {
    /// Judges by the most that is allowed. What is no number misses every target.
    pub(super) fn at_most(target: f64, measured: f64) -> Self {
        if measured <= target { Self::Met } else { Self::Missed }
    }

    /// Judges by the least that is allowed. What is no number misses every target.
    pub(super) fn at_least(target: f64, measured: f64) -> Self {
        if measured >= target { Self::Met } else { Self::Missed }
    }

    /// The same for a target that is aimed at: to miss it is no failure.
    pub(super) fn aimed(self) -> Self {
        if self == Self::Missed { Self::NotReached } else { self }
    }

    fn cell(self) -> Cell {
        match self {
            Self::Met => Cell::new("ok").fg(Color::Green),
            Self::Missed => Cell::new("MISSED").fg(Color::Red),
            Self::NotReached => Cell::new("not reached").fg(Color::Yellow),
            Self::Unjudged => Cell::new(""),
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
    fn or_the_least_and_one_that_is_aimed_at_is_never_missed() {
        assert_eq!(Verdict::at_least(1.0, 1.0), Verdict::Met);
        for measured in [0.99, f64::NAN] {
            assert_eq!(Verdict::at_least(1.0, measured), Verdict::Missed);
            assert_eq!(Verdict::at_least(1.0, measured).aimed(), Verdict::NotReached);
        }
    }

    #[test]
    fn one_missed_row_is_enough() {
        let mut report = Report::new(&["what", "measured"]);
        report.row(&["a".to_owned(), "1".to_owned()], Verdict::Met);
        report.row(&["aimed".to_owned(), "0".to_owned()], Verdict::NotReached);
        report.row(&["compared".to_owned(), "0".to_owned()], Verdict::Unjudged);
        assert!(report.print());
        report.row(&["b".to_owned(), "2".to_owned()], Verdict::Missed);
        report.row(&["c".to_owned(), "3".to_owned()], Verdict::Met);
        assert!(!report.print());
    }
}
