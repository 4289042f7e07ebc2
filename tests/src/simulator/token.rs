use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use crate::random;

/// The shortest and the longest lifetime, in seconds, that a token may be asked for.
const LIFETIME: std::ops::RangeInclusive<u32> = 1..=21_600;

/// The session tokens of version 2 that are valid, each with the time at which it expires.
#[derive(Debug, Default)]
pub(super) struct Tokens(HashMap<String, Instant>);

impl Tokens {
    /// Makes a token that expires `seconds` after `now`.
    pub(super) fn issue(&mut self, seconds: u32, now: Instant) -> io::Result<String> {
        self.0.retain(|_, expiry| *expiry > now);
        let token = random::hex(28)?;
        self.0.insert(token.clone(), now + Duration::from_secs(seconds.into()));
        Ok(token)
    }

    /// Whether `token` was issued here and has not expired.
    pub(super) fn accepts(&self, token: &str, now: Instant) -> bool {
        self.0.get(token).is_some_and(|expiry| *expiry > now)
    }
}

/// The lifetime that a client asks for; `None` for anything that AWS answers with 400.
pub(super) fn parse_lifetime(header: &str) -> Option<u32> {
    // `u32::from_str` takes a leading plus sign, IMDS does not.
    let digits = header.bytes().all(|byte| byte.is_ascii_digit());
    header.parse().ok().filter(|seconds| digits && LIFETIME.contains(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_expires_after_its_lifetime() {
        let start = Instant::now();
        let mut tokens = Tokens::default();
        let token = tokens.issue(2, start).expect("/dev/urandom is readable");
        assert!(tokens.accepts(&token, start + Duration::from_millis(1999)));
        assert!(!tokens.accepts(&token, start + Duration::from_secs(2)));
        assert!(!tokens.accepts("another", start));
    }

    #[test]
    fn lifetimes_are_strict() {
        let cases = [
            ("1", Some(1)),
            ("21600", Some(21_600)),
            ("0", None),
            ("21601", None),
            ("", None),
            ("-1", None),
            ("+5", None),
            ("5 ", None),
            ("sixty", None),
        ];
        for (header, expected) in cases {
            assert_eq!(parse_lifetime(header), expected, "{header:?}");
        }
    }
}
