/// The status line and the headers of an answer.
pub(super) struct Start {
    pub(super) status: u16,
    /// How long the body is; `None`: until the connection ends.
    pub(super) content_length: Option<usize>,
    /// How many bytes these lines take.
    pub(super) length: usize,
}

/// Reads what is at the beginning of `received`; `None` if that is no whole start of an answer.
pub(super) fn parse(received: &[u8]) -> Option<Start> {
    let length = received.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&received[..length]);
    let mut lines = text.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let announced = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
    });
    let content_length = if (100..200).contains(&status) { Some(0) } else { announced };
    Some(Start { status, content_length, length })
}
