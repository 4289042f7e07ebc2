use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// How long the agent may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The status and the body of a GET over a unix socket. HTTP/1.0 keeps the answer free of chunks.
pub(super) fn get(socket: &Path, path: &str) -> Result<(u16, String)> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: agent\r\n\r\n");
    stream.write_all(request.as_bytes()).with_context(|| format!("ask for {path}"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("read {path}"))?;
    parse(&answer).with_context(|| format!("no HTTP answer to {path}: {answer:?}"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
