//! What is wrong with a policy: where, why, and what to do about it; and how a person is shown it.

use std::{fmt, ops::Range};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use super::SourceFile;

/// Whether a policy with this problem can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It can't.
    Error,
    /// It can, but it may not do what was meant.
    Warning,
}

/// A stretch of one line of a policy file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The name of its [`SourceFile`].
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Where it is in the file's text, in bytes.
    pub bytes: Range<usize>,
}

/// Another place that a problem has to do with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Related {
    pub place: Place,
    pub label: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub severity: Severity,
    pub place: Place,
    /// What is wrong, in one line.
    pub message: String,
    /// What stands at the place; may be empty.
    pub label: String,
    pub related: Vec<Related>,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    pub(super) fn error(place: Place, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Severity::Error, place, message.into(), remedy.into())
    }

    pub(super) fn warning(place: Place, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Severity::Warning, place, message.into(), remedy.into())
    }

    pub(super) fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    fn new(severity: Severity, place: Place, message: String, remedy: String) -> Self {
        Self { severity, place, message, label: String::new(), related: Vec::new(), remedy }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(super) fn related(mut self, place: Place, label: impl Into<String>) -> Self {
        self.related.push(Related { place, label: label.into() });
        self
    }
}

/// One line for logs and events: `policy/10-rules.yaml:4:3: unknown key …`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { file, line, column, .. } = &self.place;
        write!(f, "{file}:{line}:{column}: {}", self.message)
    }
}

/// How many problems a person is shown at once; a file that is no policy at all can have one for every line.
const MAX_SHOWN: usize = 100;

/// Shows problems as a compiler would: the line they are in, a caret under it, and the remedy.
pub fn render(problems: &[Problem], files: &[SourceFile], colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let shown = problems.iter().take(MAX_SHOWN);
    let text: String = shown.map(|problem| renderer.render(&[group(problem, files)]) + "\n\n").collect();
    match problems.len().checked_sub(MAX_SHOWN) {
        None | Some(0) => text,
        Some(more) => format!("{text}and {more} more\n\n"),
    }
}

fn group<'a>(problem: &'a Problem, files: &'a [SourceFile]) -> Group<'a> {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let text_of = |place: &Place| {
        files.iter().find(|file| file.name == place.file).map_or("", |file| file.text.as_str())
    };
    let snippet = |place: &'a Place| Snippet::source(text_of(place)).path(place.file.as_str());
    let mark = |kind: AnnotationKind, place: &Place, label: &'a str| {
        let annotation = kind.span(place.bytes.clone());
        if label.is_empty() { annotation } else { annotation.label(label) }
    };
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        problem.related.iter().partition(|related| related.place.file == problem.place.file);
    let context = |related: &&'a Related| mark(AnnotationKind::Context, &related.place, &related.label);
    let primary = mark(AnnotationKind::Primary, &problem.place, &problem.label);
    level
        .primary_title(problem.message.as_str())
        .element(snippet(&problem.place).annotation(primary).annotations(here.iter().map(context)))
        .elements(elsewhere.iter().map(|related| snippet(&related.place).annotation(context(related))))
        .element(Level::HELP.message(problem.remedy.as_str()))
}
