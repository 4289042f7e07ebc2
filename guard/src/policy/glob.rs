//! Globs with one wildcard: `*` stands for any run of characters, an empty one too.

use std::fmt;

/// A pattern such as `team-*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob(String);

impl Glob {
    pub(super) fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// Whether it matches every text there is.
    pub(super) fn is_universal(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|byte| byte == b'*')
    }

    /// Whether it matches one text alone.
    pub(super) fn is_literal(&self) -> bool {
        !self.0.contains('*')
    }

    /// Whether it matches the whole of `text`, in at most `pattern × text` steps: only the last `*` is ever tried
    /// again, since whatever an earlier one could still take, the last one can take as well.
    pub(super) fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut at, mut read) = (0, 0);
        // Where the pattern goes on after its last `*`, and where the text goes on after what that `*` has taken.
        let mut retry: Option<(usize, usize)> = None;
        while read < text.len() {
            if pattern.get(at) == Some(&b'*') {
                at += 1;
                retry = Some((at, read));
            } else if pattern.get(at) == Some(&text[read]) {
                at += 1;
                read += 1;
            } else if let Some((after_star, taken)) = retry {
                at = after_star;
                read = taken + 1;
                retry = Some((after_star, read));
            } else {
                return false;
            }
        }
        pattern[at..].iter().all(|&byte| byte == b'*')
    }
}

/// Bare, as in `kube-system/aws-*`. A list or a mapping quotes it where YAML asks for it.
impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_matches_the_whole_text() {
        let cases = [
            ("payments", "payments", true),
            ("payments", "payments-eu", false),
            ("payments", "Payments", false),
            ("team-*", "team-", true),
            ("team-*", "team-a", true),
            ("team-*", "a-team-a", false),
            ("*-prod", "shop-prod", true),
            ("*-prod", "shop-prod-eu", false),
            ("*-prod", "a-prod-b-prod", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a**c", "abc", true),
            ("*", "", true),
            ("*", "anything", true),
            ("", "", true),
            ("", "a", false),
            ("a?", "ab", false),
            ("*é", "café", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn many_stars_cost_no_more_than_one_pass_each() {
        let glob = Glob::new("*a".repeat(2_000) + "b");
        assert!(!glob.matches(&"a".repeat(20_000)));
    }

    #[test]
    fn only_stars_are_universal() {
        let cases = [("*", true), ("**", true), ("", false), ("a*", false)];
        for (pattern, expected) in cases {
            assert_eq!(Glob::new(pattern).is_universal(), expected, "{pattern}");
        }
    }
}
