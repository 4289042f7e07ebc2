//! The agent's HTTP API. Over TCP: `/metrics`, `/healthz`, `/readyz`. Over the Unix socket, which root alone can open,
//! also `/status`, `/explain/NAMESPACE/POD` and `/events` for `imds-guard status`, `explain` and `watch`, and `POST
//! /hand-over` for the agent that is to follow.

use std::{
    convert::Infallible,
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{Either, Full, channel::Channel};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::stat::{Mode, umask};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, broadcast, mpsc, oneshot},
    time::timeout,
};

/// What the API asks of the agent's one task.
pub enum Query {
    Metrics(oneshot::Sender<Vec<u8>>),
    Status(oneshot::Sender<String>),
    Ready(oneshot::Sender<Result<(), String>>),
    /// About the pod `namespace/name`; the answer is none if it is not on this node.
    Explain {
        pod: String,
        reply: oneshot::Sender<Option<String>>,
    },
    /// From another agent, which guards from now on.
    HandOver(oneshot::Sender<()>),
}

/// The API's way to the agent.
#[derive(Clone)]
pub struct Agent {
    pub queries: mpsc::Sender<Query>,
    pub events: broadcast::Sender<Arc<str>>,
}

/// Who may ask what.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    Tcp,
    Unix,
}

/// What stands before `namespace/name` of the pod that is asked about.
pub const EXPLAIN: &str = "/explain/";

/// Where an agent is asked to leave the guard to another.
pub const HAND_OVER: &str = "/hand-over";

/// How long the agent may take to answer before it counts as unwell.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a client may take for the head of a request.
const HEADER_PATIENCE: Duration = Duration::from_secs(10);

/// How many connections there may be over TCP, and how long one may last. Prometheus makes a new one when it is over.
const TCP_CONNECTIONS: usize = 64;
const TCP_PATIENCE: Duration = Duration::from_mins(5);

/// How many lines may wait for one reader of `/events`.
const EVENT_QUEUE: usize = 256;

type Body = Either<Full<Bytes>, Channel<Bytes>>;

/// Serves on a TCP listener until the agent ends. Whoever can reach it can't use up the agent's descriptors: what comes
/// past the limit waits in the listener's queue.
pub async fn serve_tcp(listener: TcpListener, agent: Agent) {
    let places = Arc::new(Semaphore::new(TCP_CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = serve(stream, agent.clone(), Door::Tcp);
                tokio::task::spawn_local(async move {
                    // However slowly it reads, the place is free again after a while.
                    let _ = timeout(TCP_PATIENCE, connection).await;
                    drop(place);
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

/// Serves on a Unix socket until the agent ends.
pub async fn serve_unix(listener: UnixListener, agent: Agent) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::task::spawn_local(serve(stream, agent.clone(), Door::Unix))),
            Err(error) => pause(&error).await,
        }
    }
}

/// Opens the Unix socket for root alone, in place of one that a former agent left.
pub fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // Only a socket is removed; binding fails on anything else that lies there.
    if path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let mask = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(mask);
    listener
}

/// Accepting fails when descriptors run out; the next try must not come at once.
async fn pause(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(stream: S, agent: Agent, door: Door) {
    let service = service_fn(move |request| answer(request, agent.clone(), door));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a client of the API went away");
    }
}

async fn answer(request: Request<Incoming>, agent: Agent, door: Door) -> Result<Response<Body>, Infallible> {
    if request.method() == Method::POST && request.uri().path() == HAND_OVER && door == Door::Unix {
        return Ok(match ask(&agent, Query::HandOver).await {
            Some(()) => text(StatusCode::OK, "handed over\n"),
            None => unwell(),
        });
    }
    if request.method() != Method::GET {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"));
    }
    Ok(match (request.uri().path(), door) {
        ("/metrics", _) => match ask(&agent, Query::Metrics).await {
            Some(metrics) => typed("text/plain; version=0.0.4", metrics),
            None => unwell(),
        },
        ("/healthz", _) => match ask(&agent, Query::Ready).await {
            Some(_) => text(StatusCode::OK, "ok\n"),
            None => unwell(),
        },
        ("/readyz", _) => match ask(&agent, Query::Ready).await {
            Some(Ok(())) => text(StatusCode::OK, "ok\n"),
            Some(Err(why)) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            None => unwell(),
        },
        ("/status", Door::Unix) => match ask(&agent, Query::Status).await {
            Some(status) => typed("application/json", status),
            None => unwell(),
        },
        (path, Door::Unix) if path.starts_with(EXPLAIN) => {
            let pod = path[EXPLAIN.len()..].to_owned();
            match ask(&agent, |reply| Query::Explain { pod, reply }).await {
                Some(Some(explained)) => typed("application/json", explained),
                Some(None) => text(StatusCode::NOT_FOUND, "no pod of this name is known on this node\n"),
                None => unwell(),
            }
        }
        ("/events", Door::Unix) => stream(agent.events.subscribe()),
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    })
}

async fn ask<T>(agent: &Agent, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Option<T> {
    let (sender, answer) = oneshot::channel();
    let ask = async {
        agent.queries.send(query(sender)).await.ok()?;
        answer.await.ok()
    };
    timeout(PATIENCE, ask).await.ok().flatten()
}

/// Streams event lines. A reader that is too slow misses lines and is told how many.
fn stream(mut events: broadcast::Receiver<Arc<str>>) -> Response<Body> {
    let (mut sender, body) = Channel::new(EVENT_QUEUE);
    tokio::task::spawn_local(async move {
        loop {
            let line = match events.recv().await {
                Ok(line) => format!("{line}\n"),
                Err(broadcast::error::RecvError::Lagged(missed)) => format!("{{\"missed\":{missed}}}\n"),
                Err(broadcast::error::RecvError::Closed) => return,
            };
            if sender.send_data(Bytes::from(line)).await.is_err() {
                return;
            }
        }
    });
    with_type(StatusCode::OK, "application/x-ndjson", Either::Right(body))
}

fn unwell() -> Response<Body> {
    text(StatusCode::SERVICE_UNAVAILABLE, "the agent does not answer\n")
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    with_type(status, "text/plain; charset=utf-8", Either::Left(Full::new(text.into())))
}

fn typed(kind: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    with_type(StatusCode::OK, kind, Either::Left(Full::new(content.into())))
}

fn with_type(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
