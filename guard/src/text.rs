//! Text that others chose, made harmless for terminals and logs.

use std::fmt::Write;

/// The bytes as text in which nothing can move a cursor or start a line: control characters, and bytes that are no
/// UTF-8, become `\x..` or `\u{...}`, a backslash `\\`.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                // Format characters (bidirectional overrides, zero-width marks) are what `escape_debug` escapes too.
                c if c.is_control() || c.escape_debug().len() > 1 && !matches!(c, '"' | '\'') => {
                    text.extend(c.escape_default());
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a string takes everything");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_steer_a_terminal_is_escaped() {
        let cases: [(&[u8], &str); 6] = [
            (b"curl", "curl"),
            ("naïve-\"ü\"".as_bytes(), "naïve-\"ü\""),
            (b"\x1b[2Jevil", "\\u{1b}[2Jevil"),
            (b"a\nb\\n", "a\\nb\\\\n"),
            (b"\xff\xfe", "\\xff\\xfe"),
            ("\u{202e}gnp".as_bytes(), "\\u{202e}gnp"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(escape(bytes), expected);
        }
    }
}
