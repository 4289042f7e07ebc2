use std::env;
use std::io::{self, IsTerminal as _, Stdout, Write as _};
use std::time::Duration;

use anyhow::Result;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

/// The longest line, in characters.
const WIDTH: usize = 110;

/// Where the demo is shown. Every write can fail, for the reader may have gone.
#[derive(Debug)]
pub(super) struct Screen {
    out: Stdout,
    colour: bool,
}

/// A line about what is being done, gone when it is done.
#[derive(Debug)]
pub(super) struct Progress(Option<ProgressBar>);

impl Screen {
    pub(super) fn new() -> Self {
        let out = io::stdout();
        let colour = out.is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { out, colour }
    }

    /// The title of a part of the demo.
    pub(super) fn heading(&mut self, text: &str) -> Result<()> {
        if self.colour {
            writeln!(self.out, "\n\x1b[1m{text}\x1b[0m")?;
        } else {
            writeln!(self.out, "\n{text}\n{}", "=".repeat(text.chars().count()))?;
        }
        Ok(())
    }

    /// Lines as they are.
    pub(super) fn lines(&mut self, text: &str) -> Result<()> {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Something quoted, set in and cut where the line ends.
    pub(super) fn quote(&mut self, text: &str) -> Result<()> {
        text.lines().try_for_each(|line| {
            let line = format!("    {}", cut(line, WIDTH - 4));
            Ok(writeln!(self.out, "{}", line.trim_end())?)
        })
    }

    /// One line of a comparison, green where `mark` is a plus and red where it is a minus.
    pub(super) fn changed(&mut self, mark: char, line: &str) -> Result<()> {
        let colour = if mark == '+' { 32 } else { 31 };
        if self.colour {
            writeln!(self.out, "  \x1b[{colour}m{mark} {line}\x1b[0m")?;
        } else {
            writeln!(self.out, "  {mark} {line}")?;
        }
        Ok(())
    }

    pub(super) fn table(&mut self, header: &[&str], rows: impl IntoIterator<Item = Vec<Cell>>) -> Result<()> {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(header.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)))
            .add_rows(rows);
        if !self.colour {
            table.force_no_tty();
        }
        Ok(writeln!(self.out, "\n{}", table.trim_fmt())?)
    }

    /// Says what is being done now.
    pub(super) fn progress(&mut self, what: &str) -> Result<Progress> {
        if !(self.out.is_terminal() && io::stderr().is_terminal()) {
            writeln!(self.out, "  … {what}")?;
            return Ok(Progress(None));
        }
        let bar = ProgressBar::new_spinner()
            .with_style(ProgressStyle::with_template("  {spinner} {msg}")?)
            .with_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(80));
        Ok(Progress(Some(bar)))
    }
}

impl Progress {
    /// Says what is being done next. Without a terminal only the first line of a row of small steps is shown.
    pub(super) fn next(&self, what: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(what.to_owned());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// A cell in the colour of good or bad news.
pub(super) fn news(text: &str, colour: Color) -> Cell {
    Cell::new(text).fg(colour)
}

/// A cell with a number.
pub(super) fn number(value: impl std::fmt::Display) -> Cell {
    Cell::new(value).set_alignment(CellAlignment::Right)
}

fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_and_short_ones_left() {
        for (line, expected) in [("", ""), ("häuser", "häuser"), ("häusern", "häuse…")] {
            assert_eq!(cut(line, 6), expected);
        }
    }
}
