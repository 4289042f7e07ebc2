use super::lenient::Key;

/// No more of a line is looked at: a denied path behind so many bytes is no path.
const LONGEST: usize = 2 * 1024 * 1024;

/// What a peer sent that could be read as a request line, wherever it stood: in a body or a header too.
///
/// Whether a line is a request depends on who cuts the stream into requests; here every cut counts.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Takes what came in, and tells the target of every line that ends in it, with its key.
    pub(super) fn take(&mut self, bytes: &[u8], mut tell: impl FnMut(&[u8], Key)) {
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\r' | b'\n')) {
            let (text, ended) = match piece.split_last() {
                Some((b'\r' | b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let room = LONGEST - self.begun.len();
            self.begun.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                self.end(&mut tell);
            }
        }
    }

    /// Ends a line that the peer did not end.
    pub(super) fn end(&mut self, mut tell: impl FnMut(&[u8], Key)) {
        if let Some(target) = target(&self.begun) {
            match Key::of(target) {
                Key::Nothing => {}
                key => tell(target, key),
            }
        }
        self.begun.clear();
    }
}

/// The middle of `METHOD target VERSION`, or what follows the method where there is no version.
fn target(line: &[u8]) -> Option<&[u8]> {
    let line = line.trim_ascii();
    let space = line.iter().position(|byte| matches!(byte, b' ' | b'\t'))?;
    let (method, rest) = (&line[..space], line[space..].trim_ascii_start());
    let is_name = method.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if !is_name {
        return None;
    }
    let version = rest.iter().rposition(|byte| matches!(byte, b' ' | b'\t')).filter(|space| {
        rest[space + 1..].get(..5).is_some_and(|version| version.eq_ignore_ascii_case(b"HTTP/"))
    });
    Some(rest[..version.unwrap_or(rest.len())].trim_ascii_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_are_found_wherever_they_stand_and_however_they_are_cut() {
        let stream = b"GET /latest/user-data HTTP/1.1\r\nHost: GET\r\nX: GET /latest/user-data HTTP/1.1\r\n\r\n\
            5\r\nget\t/latest/meta-data/iam/info\n\nOPTIONS * HTTP/1.1\rGET /latest/meta-data/placement/region";
        let expected = [
            ("/latest/user-data".to_owned(), Key::UserData),
            ("/latest/meta-data/iam/info".to_owned(), Key::Identity),
            ("/latest/meta-data/placement/region".to_owned(), Key::Region),
        ];
        for size in [1, 2, 7, stream.len()] {
            let mut found = Vec::new();
            let mut tell =
                |target: &[u8], key| found.push((String::from_utf8_lossy(target).into_owned(), key));
            let mut lines = Lines::default();
            for piece in stream.chunks(size) {
                lines.take(piece, &mut tell);
            }
            lines.end(&mut tell);
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }
}
