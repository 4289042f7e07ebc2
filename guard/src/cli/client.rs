//! The client side of the agent's socket.

use std::path::Path;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// Where a running agent listens.
pub(super) const SOCKET: &str = "/run/imds-guard/agent.sock";

/// Asks the agent behind `socket`; the answer's body may go on for ever.
pub(super) async fn get(socket: &Path, path: &str) -> anyhow::Result<Incoming> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!("no agent answers at {}: is `imds-guard run` running, and are you root?", socket.display())
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, "imds-guard").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        bail!("the agent answers {status}: {}", String::from_utf8_lossy(&body).trim());
    }
    Ok(response.into_body())
}

/// Runs a client command to its end.
pub(super) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}
