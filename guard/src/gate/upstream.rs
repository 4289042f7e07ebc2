//! The way from a gate to IMDS: kept connections in the host's network, one request on each at a time.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

/// How long connecting may take. IMDS is one hop away.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// How long IMDS may take to begin its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long a connection is kept without a request.
const KEEP: Duration = Duration::from_secs(5);

/// How many requests may be under way at once. One pod has no more than 16 of them.
const AT_ONCE: usize = 128;

/// Why there is no answer from IMDS.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    #[error("IMDS can't be reached: {0}")]
    Connect(#[source] io::Error),
    #[error("IMDS ended the connection without an answer")]
    Broken(#[source] hyper::Error),
    #[error("IMDS does not answer")]
    Late,
}

/// IMDS, as the gates ask it. Clones are the same.
#[derive(Clone)]
pub(super) struct Upstream(Rc<Inner>);

struct Inner {
    address: SocketAddr,
    idle: RefCell<Vec<Idle>>,
    places: Semaphore,
}

type Connection = SendRequest<Empty<Bytes>>;

struct Idle {
    connection: Connection,
    since: Instant,
}

/// The body of an answer as it comes in. At its end the connection is kept for the next request.
pub(super) struct Answer {
    body: Incoming,
    connection: Option<Connection>,
    upstream: Upstream,
}

impl Upstream {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self(Rc::new(Inner { address, idle: RefCell::default(), places: Semaphore::new(AT_ONCE) }))
    }

    /// Sends a request. One that a kept connection did not take, because IMDS had just closed it, is sent again on a
    /// new one: all that are sent can be repeated.
    pub(super) async fn send(
        &self,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Answer>, UpstreamError> {
        let _place = self.place().await?;
        if let Some(connection) = self.kept() {
            match self.exchange(connection, request.clone()).await {
                Err(UpstreamError::Broken(_)) => {}
                answered => return answered,
            }
        }
        let connection = self.connect().await?;
        self.exchange(connection, request).await
    }

    async fn place(&self) -> Result<SemaphorePermit<'_>, UpstreamError> {
        if let Ok(place) = self.0.places.try_acquire() {
            return Ok(place);
        }
        let place = timeout(ANSWER_WITHIN, self.0.places.acquire()).await.map_err(|_| UpstreamError::Late)?;
        Ok(place.expect("the semaphore is never closed"))
    }

    fn kept(&self) -> Option<Connection> {
        let mut idle = self.0.idle.borrow_mut();
        let now = Instant::now();
        idle.retain(|kept| !kept.connection.is_closed() && now.duration_since(kept.since) < KEEP);
        let place = idle.iter().rposition(|kept| kept.connection.is_ready())?;
        Some(idle.swap_remove(place).connection)
    }

    async fn connect(&self) -> Result<Connection, UpstreamError> {
        let stream = timeout(CONNECT_WITHIN, TcpStream::connect(self.0.address))
            .await
            .map_err(|_| UpstreamError::Late)?
            .map_err(UpstreamError::Connect)?;
        stream.set_nodelay(true).map_err(UpstreamError::Connect)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(UpstreamError::Broken)?;
        tokio::task::spawn_local(async move {
            // Whoever waits for an answer learns of an error.
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Answer>, UpstreamError> {
        let answer = timeout(ANSWER_WITHIN, connection.send_request(request))
            .await
            .map_err(|_| UpstreamError::Late)?
            .map_err(UpstreamError::Broken)?;
        Ok(answer.map(|body| Answer { body, connection: Some(connection), upstream: self.clone() }))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // A body that was not read to its end would stand in the way of the next answer.
        if let Some(connection) = self.connection.take().filter(|_| self.body.is_end_stream()) {
            self.upstream.0.idle.borrow_mut().push(Idle { connection, since: Instant::now() });
        }
    }
}
