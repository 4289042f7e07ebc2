use std::time::Duration;

use anyhow::{Result, ensure};

use super::report::{Answer, HttpReport};

/// Bytes to send over one connection.
#[derive(Clone, Debug)]
pub struct Case {
    /// `folder/what-it-does`, unique.
    pub name: String,
    /// What it does, for people.
    pub what: &'static str,
    pub parts: Vec<Part>,
    /// What must come back where it must work; `None` for an attack.
    pub expected: Option<Vec<Expected>>,
}

/// Bytes that are sent with one call.
#[derive(Clone, Debug)]
pub struct Part {
    pub bytes: Vec<u8>,
    pub then: Then,
}

/// What happens after a part.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    GoOn,
    Pause(Duration),
    /// Waits for bytes to come back, within the patience.
    AwaitAnswer,
}

/// An answer that must come back: its status, and its body where that matters.
pub type Expected = (u16, Option<&'static str>);

impl Case {
    /// An attack whose bytes go out at once.
    pub(super) fn new(name: impl Into<String>, what: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        let parts = vec![Part { bytes: bytes.into(), then: Then::GoOn }];
        Self { name: name.into(), what, parts, expected: None }
    }

    /// The same bytes in pieces of `size`.
    pub(super) fn in_pieces(self, size: usize, then: Then) -> Self {
        let bytes: Vec<u8> = self.parts.into_iter().flat_map(|part| part.bytes).collect();
        let parts = bytes.chunks(size).map(|piece| Part { bytes: piece.to_vec(), then }).collect();
        Self { parts, ..self }
    }

    /// Further bytes, `then` after the last.
    pub(super) fn and(mut self, then: Then, bytes: impl Into<Vec<u8>>) -> Self {
        if let Some(last) = self.parts.last_mut() {
            last.then = then;
        }
        self.parts.push(Part { bytes: bytes.into(), then: Then::GoOn });
        self
    }

    /// One that must work, with these answers.
    pub(super) fn answered(self, expected: impl Into<Vec<Expected>>) -> Self {
        Self { expected: Some(expected.into()), ..self }
    }

    /// Whether it must work through a filter that allows the region.
    pub fn works(&self) -> bool {
        self.expected.is_some()
    }

    /// Judges what came back: the right answers in the right order, or, of an attack, no secret.
    pub fn check(&self, report: &HttpReport) -> Result<()> {
        ensure!(!report.leaked, "{}: a secret came back ({})", self.name, self.what);
        let Some(expected) = &self.expected else { return Ok(()) };
        let same = |((status, body), answer): (&Expected, &Answer)| {
            *status == answer.status && body.is_none_or(|body| body == answer.body)
        };
        let right = expected.len() == report.answers.len() && expected.iter().zip(&report.answers).all(same);
        ensure!(right, "{} ({}): expected {expected:?}, got {report:?}", self.name, self.what);
        Ok(())
    }
}
