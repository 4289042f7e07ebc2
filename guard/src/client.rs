//! The client side of an agent's socket: for the command line, and for the agent that follows another.

use std::path::Path;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// Where a running agent listens.
pub(crate) const SOCKET: &str = "/run/imds-guard/agent.sock";

/// Asks the agent behind `socket`; the answer's body may go on for ever.
pub(crate) async fn get(socket: &Path, path: &str) -> anyhow::Result<Incoming> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!("no agent answers at {}: is `imds-guard run` running, and are you root?", socket.display())
    })?;
    send(stream, Method::GET, path).await
}

/// Sends one request over a connection.
pub(crate) async fn send(stream: UnixStream, method: Method, path: &str) -> anyhow::Result<Incoming> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header(header::HOST, "imds-guard");
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    if response.status() != StatusCode::OK {
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        bail!("the agent answers {status}: {}", String::from_utf8_lossy(&body).trim());
    }
    Ok(response.into_body())
}
