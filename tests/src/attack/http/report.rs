use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::case::Case;
use super::start;
use crate::simulator::{NODE_ROLE, SECRETS};

/// So much of a body is reported: enough for a region.
const SHOWN: usize = 100;

/// What `guard-attack http` prints of a case, as a line of JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpReport {
    pub name: String,
    /// The attacker's port, by which the simulator knows the connection if nobody is in between; 0: no connection.
    pub port: u16,
    /// How many bytes came back.
    pub bytes: usize,
    /// The first line that came back, if it is one of HTTP.
    pub first_line: Option<String>,
    /// What came back, as far as it can be told apart.
    pub answers: Vec<Answer>,
    /// Whether what came back has in it what only a denied path has.
    pub leaked: bool,
    /// Why the connection ended, if not in good order.
    pub error: Option<String>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub status: u16,
    /// Its beginning.
    pub body: String,
}

impl HttpReport {
    pub(super) fn new(
        case: &Case,
        local: Option<SocketAddr>,
        received: &[u8],
        error: Option<String>,
    ) -> Self {
        let text = String::from_utf8_lossy(received);
        let first_line = text.lines().next().filter(|line| line.starts_with("HTTP/"));
        let answers = answers(received);
        let leaked = SECRETS.iter().any(|secret| text.contains(secret))
            || answers.iter().any(|answer| answer.body == NODE_ROLE);
        Self {
            name: case.name.clone(),
            port: local.map_or(0, |address| address.port()),
            bytes: received.len(),
            first_line: first_line.map(|line| line.chars().take(SHOWN).collect()),
            leaked,
            answers,
            error,
        }
    }

    /// Whether nothing came back but refusals by HTTP.
    pub fn is_refused(&self) -> bool {
        let refusal = |answer: &Answer| (400..500).contains(&answer.status);
        self.bytes == 0 || (!self.answers.is_empty() && self.answers.iter().all(refusal))
    }
}

/// Cuts what came back into answers, by their lengths. An answer to HEAD has a length and no body.
fn answers(mut rest: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(start) = start::parse(rest) {
        let body = &rest[start.length..];
        let announced = start.content_length.unwrap_or(body.len()).min(body.len());
        let shown = String::from_utf8_lossy(&body[..announced.min(SHOWN)]).into_owned();
        answers.push(Answer { status: start.status, body: shown });
        rest = &body[announced..];
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let received = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 404 Not\r\n\
            content-length:0\r\n\r\nHTTP/1.0 403 Forbidden\r\n\r\nuntil the end";
        let found: Vec<_> =
            answers(received).into_iter().map(|answer| (answer.status, answer.body)).collect();
        let expected = [(100, ""), (200, "ab"), (404, ""), (403, "until the end")];
        assert_eq!(found, expected.map(|(status, body)| (status, body.to_owned())));
        assert_eq!(answers(b"no HTTP"), []);
    }
}
