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

    /// Something quoted, set in; what is too long goes on in the next line, set in further.
    pub(super) fn quote(&mut self, text: &str) -> Result<()> {
        for line in text.lines() {
            let mut indent = "    ";
            for piece in wrap(line, WIDTH - 2 * indent.len()) {
                writeln!(self.out, "{}", format!("{indent}{piece}").trim_end())?;
                indent = "        ";
            }
        }
        Ok(())
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

    /// Says what is being done now, for good where nothing can be taken back.
    pub(super) fn progress(&mut self, what: &str) -> Result<Progress> {
        let progress = self.spinner(what)?;
        if progress.0.is_none() {
            writeln!(self.out, "  … {what}")?;
        }
        Ok(progress)
    }

    /// Says what is being done now, on a terminal only.
    pub(super) fn spinner(&self, what: &str) -> Result<Progress> {
        if !(self.out.is_terminal() && io::stderr().is_terminal()) {
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
    /// Says what is being done next.
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

/// A line in pieces of at most `width` characters, broken at spaces, if there are any. Always one piece at least.
fn wrap(line: &str, width: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = line;
    while let Some((end, _)) = rest.char_indices().nth(width) {
        let spaces = rest.char_indices().take(width + 1).filter(|(_, character)| *character == ' ');
        let broken = spaces.map(|(at, _)| at).last().filter(|at| !rest[..*at].trim().is_empty());
        let (piece, more) = rest.split_at(broken.unwrap_or(end));
        pieces.push(piece);
        rest = more.trim_start();
    }
    pieces.push(rest);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_at_spaces() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[""]),
            ("über 6", &["über 6"]),
            ("one two three", &["one", "two", "three"]),
            ("  unbroken", &["  unbr", "oken"]),
            ("exact fit", &["exact", "fit"]),
        ];
        for (line, expected) in cases {
            assert_eq!(wrap(line, 6), *expected, "{line:?}");
        }
    }
}
