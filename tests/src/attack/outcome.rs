use std::fmt;
use std::io::{self, ErrorKind};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::Vector;

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// So many bytes came back; none if the connection was closed without an answer.
    Bytes(u64),
    /// A system call failed, with the error of this name (`ECONNREFUSED`).
    Errno(String),
    /// The gate answered that the policy denies it.
    Denied,
    /// Nothing happened within the attack's patience.
    Timeout,
    /// This kernel lacks what the vector needs.
    Unsupported(String),
    /// The attack came to grief before it was one: it says nothing of whoever was attacked.
    Broken(String),
}

/// What `guard-attack` prints of one attack, as a line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub vector: Vector,
    pub outcome: Outcome,
    /// How long it took, its pause included.
    pub milliseconds: u64,
}

impl Outcome {
    /// Whether the attacker got anything at all.
    pub fn got_bytes(&self) -> bool {
        matches!(self, Self::Bytes(1..))
    }

    /// Whether an attempt was made at all, so that the outcome is the target's or a guard's doing.
    pub fn is_genuine(&self) -> bool {
        !matches!(self, Self::Unsupported(_) | Self::Broken(_))
    }
}

impl From<io::Result<usize>> for Outcome {
    fn from(result: io::Result<usize>) -> Self {
        match result {
            Ok(bytes) => Self::Bytes(bytes as u64),
            Err(error) if is_timeout(&error) => Self::Timeout,
            Err(error) => match error.raw_os_error() {
                Some(code) => Self::Errno(format!("{:?}", Errno::from_raw(code))),
                None if error.kind() == ErrorKind::PermissionDenied => Self::Denied,
                None if error.kind() == ErrorKind::Unsupported => Self::Unsupported(error.to_string()),
                None => Self::Broken(error.to_string()),
            },
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(count) => write!(f, "{count} bytes"),
            Self::Errno(name) => f.write_str(name),
            Self::Denied => f.write_str("denied"),
            Self::Timeout => f.write_str("timeout"),
            Self::Unsupported(why) => write!(f, "unsupported: {why}"),
            Self::Broken(why) => write!(f, "broken: {why}"),
        }
    }
}

/// A send or connect that `SO_SNDTIMEO` ended says EAGAIN or EINPROGRESS.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
        || error.raw_os_error() == Some(Errno::EINPROGRESS as i32)
}

/// The error that stands for a missing kernel feature.
pub(super) fn unsupported(what: &str, cause: &io::Error) -> io::Error {
    io::Error::new(ErrorKind::Unsupported, format!("{what}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_lines_of_json() {
        let cases = [
            (Outcome::Bytes(9), r#"{"vector":"io-uring-connect","outcome":{"bytes":9},"milliseconds":1}"#),
            (Outcome::Timeout, r#"{"vector":"io-uring-connect","outcome":"timeout","milliseconds":1}"#),
        ];
        for (outcome, line) in cases {
            let report = Report { vector: Vector::IoUringConnect, outcome, milliseconds: 1 };
            assert_eq!(serde_json::to_string(&report).expect("plain data"), line);
            assert_eq!(serde_json::from_str::<Report>(line).expect("its own output"), report);
        }
    }

    #[test]
    fn errors_become_outcomes() {
        let os = |errno: Errno| Outcome::from(Err(io::Error::from(errno)));
        assert_eq!(os(Errno::ECONNREFUSED), Outcome::Errno("ECONNREFUSED".to_owned()));
        assert_eq!(os(Errno::EINPROGRESS), Outcome::Timeout);
        assert_eq!(os(Errno::EAGAIN), Outcome::Timeout);
        let missing = Outcome::from(Err(unsupported("MPTCP", &Errno::EPROTONOSUPPORT.into())));
        assert!(matches!(missing, Outcome::Unsupported(_)));
        let wrapped = io::Error::other(io::Error::from(Errno::ENOENT));
        assert!(matches!(Outcome::from(Err(wrapped)), Outcome::Broken(_)));
    }

    #[test]
    fn names_are_the_same_in_json_and_on_the_command_line() {
        for vector in Vector::all() {
            let json = serde_json::to_value(vector).expect("plain data");
            assert_eq!(json, vector.name(), "{vector:?}");
        }
    }
}
