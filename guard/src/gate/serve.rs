//! Serves one gate: accepts its pod's connections, has every request judged, and passes on what may pass.

use std::{
    cell::Cell,
    convert::Infallible,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use guard_common::{CgroupId, Verdict};
use http_body_util::{Either, Empty, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::{TcpListener, TcpStream},
    select,
    sync::{Semaphore, SemaphorePermit, mpsc, watch},
    time::{sleep, timeout},
};

use super::{
    News,
    budget::{NodeBudget, PodBudget},
    door::Door,
    judge::{Fate, Judged, Terms, drop_hop_by_hop},
    peer::Peers,
    teller::{Answered, Teller},
    upstream::{Answer, Upstream, UpstreamError},
};
use crate::sinks::metrics::GateMetrics;

/// How many connections a pod may have.
const CONNECTIONS_OF_A_POD: usize = 64;

/// How many connections all gates together may have, and how many of each are left out of that count.
const CONNECTIONS: usize = 2048;
const ALWAYS: usize = 4;

/// How many requests of a pod may be on their way to IMDS, and how long another one waits for its place.
const UNDER_WAY: usize = 16;
const PLACE_WITHIN: Duration = Duration::from_secs(5);

/// How long a client may take for the head of a request, and for the next one on the same connection.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// How long a connection may last, and how long the request that is then under way.
const CONNECTION_LASTS: Duration = Duration::from_mins(5);
const LAST_REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// The most that a request's head may take up.
const HEAD_MAX_BYTES: usize = 16 * 1024;

/// How long a gate waits after an error of accepting, when descriptors run out say.
const PAUSE: Duration = Duration::from_millis(100);

/// The header that names the rule by which a request was denied.
const RULE: HeaderName = HeaderName::from_static("x-imds-guard-rule");

type Body = Either<Full<Bytes>, Answer>;

/// A gate that is to be served.
pub(super) struct NewGate {
    pub(super) pod: CgroupId,
    /// The pod's cgroup.
    pub(super) folder: PathBuf,
    pub(super) door: Door,
    /// The process that holds the sandbox, if one does: its end is the gate's.
    pub(super) process: Option<OwnedFd>,
    /// The gate closes when the sender is dropped.
    pub(super) terms: watch::Receiver<Arc<Terms>>,
}

/// What all gates share.
pub(super) struct Shared {
    pub(super) upstream: Upstream,
    pub(super) budget: NodeBudget,
    pub(super) metrics: GateMetrics,
    pub(super) news: mpsc::Sender<News>,
    /// Whether another agent's gates take the new connections.
    draining: Arc<AtomicBool>,
    connections: Cell<usize>,
}

impl Shared {
    pub(super) fn new(
        upstream: Upstream,
        budget: NodeBudget,
        metrics: GateMetrics,
        news: mpsc::Sender<News>,
        draining: Arc<AtomicBool>,
    ) -> Self {
        Self { upstream, budget, metrics, news, draining, connections: Cell::new(0) }
    }
}

/// What the connections of one gate share.
struct Gate {
    shared: Rc<Shared>,
    peers: Peers,
    diagnosis: netlink_sys::Socket,
    terms: watch::Receiver<Arc<Terms>>,
    budget: PodBudget,
    teller: Teller,
    places: Arc<Semaphore>,
    under_way: Semaphore,
}

/// Serves a gate until its pod's sandbox ends, or the agent wants it closed.
pub(super) async fn serve(new: NewGate, shared: Rc<Shared>) {
    let NewGate { pod, folder, door, process, terms } = new;
    let Door { gate: at, v4, v6, diagnosis } = door;
    let mut closing = terms.clone();
    let gate = Rc::new(Gate {
        budget: shared.budget.pod(Instant::now()),
        teller: Teller::new(shared.metrics.clone(), shared.news.clone()),
        peers: Peers::of(folder),
        places: Arc::new(Semaphore::new(CONNECTIONS_OF_A_POD)),
        under_way: Semaphore::new(UNDER_WAY),
        shared,
        diagnosis,
        terms,
    });
    let listening = async {
        let v6 = v6.map(|v6| TcpListener::from_std(v6.into())).transpose()?;
        let v4 = TcpListener::from_std(v4.into())?;
        io::Result::Ok((v4, v6, process.map(watch_process).transpose()?))
    };
    match listening.await {
        Ok((v4, v6, process)) => select! {
            () = accept(&v4, &gate) => {}
            () = accept_if_there(v6.as_ref(), &gate) => {}
            () = end_of(process.as_ref()) => {}
            () = async { while closing.changed().await.is_ok() {} } => {}
        },
        Err(error) => {
            tracing::error!(%error, "a gate can't be served");
            // The agent will open another one, which may fare no better.
            sleep(PAUSE).await;
        }
    }
    // The listeners are closed by now. The agent is gone, or takes this as it comes.
    let _ = gate.shared.news.send(News::Closed { pod, gate: at }).await;
}

async fn accept_if_there(listener: Option<&TcpListener>, gate: &Rc<Gate>) {
    match listener {
        Some(listener) => accept(listener, gate).await,
        None => std::future::pending().await,
    }
}

#[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
fn watch_process(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, and stays the same and open for as long as it is watched.
    unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }.map_err(Into::into)
}

/// Waits for the end of a process; of none, for ever.
async fn end_of(process: Option<&AsyncFd<OwnedFd>>) {
    match process {
        Some(process) => drop(process.readable().await),
        None => std::future::pending().await,
    }
}

async fn accept(listener: &TcpListener, gate: &Rc<Gate>) {
    loop {
        // What comes past the limits waits in the listener's queue.
        let place = Arc::clone(&gate.places).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, peer)) => {
                // One pod's crowd takes nothing of what every other always has.
                let is_one_of_few = CONNECTIONS_OF_A_POD - gate.places.available_permits() <= ALWAYS;
                let has_room = is_one_of_few || gate.shared.connections.get() < CONNECTIONS;
                if !has_room || !gate.is_from_pod(&stream, peer) {
                    continue;
                }
                let conversation = Rc::clone(gate);
                tokio::task::spawn_local(async move {
                    let connections = &conversation.shared.connections;
                    connections.set(connections.get() + 1);
                    conversation.converse(stream).await;
                    connections.set(connections.get() - 1);
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a gate can't accept a connection");
                sleep(PAUSE).await;
            }
        }
    }
}

impl Gate {
    fn is_from_pod(&self, stream: &TcpStream, peer: SocketAddr) -> bool {
        let own = stream.local_addr().and_then(|own| self.peers.is_own(&self.diagnosis, peer, own));
        match own {
            Ok(true) => true,
            Ok(false) => {
                self.shared.metrics.strangers.inc();
                false
            }
            Err(error) => {
                self.shared.metrics.strangers.inc();
                tracing::warn!(%error, "a connection is closed: the kernel does not tell whose it is");
                false
            }
        }
    }

    /// Answers the requests of one connection, each by the terms of its moment.
    async fn converse(self: &Rc<Self>, stream: TcpStream) {
        // Without it the answer's body would wait for the acknowledgement of its head.
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let service = service_fn(|request| {
            let gate = Rc::clone(self);
            async move { Ok::<_, Infallible>(gate.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(HEAD_MAX_BYTES)
            .auto_date_header(false)
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut closing = self.terms.clone();
        select! {
            // A client that breaks off is no error of ours.
            _ = connection.as_mut() => return,
            () = sleep(CONNECTION_LASTS) => {}
            // What the terms were last is not what holds when the gate is closed.
            () = async { while closing.changed().await.is_ok() {} } => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST_REQUEST_WITHIN, connection).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let started = Instant::now();
        let has_body = !request.body().is_end_stream();
        let (head, _) = request.into_parts();
        let mut terms = self.terms();
        let Judged { asked, mut fate } = terms.judge(&head, has_body);
        let turn = match fate {
            Fate::Pass(_) => self.turn(started).await,
            Fate::Answer { .. } => None,
        };
        if turn.is_some() && !Arc::ptr_eq(&terms, &self.terms()) {
            // The policy has changed while it waited.
            terms = self.terms();
            fate = terms.judge(&head, has_body).fate;
        }
        let (verdict, mut response) = match (fate, turn) {
            (Fate::Answer { status, text }, _) => (Verdict::Deny, refuse(status, text, &terms, has_body)),
            (Fate::Pass(_), None) => {
                (Verdict::Deny, refuse(StatusCode::TOO_MANY_REQUESTS, TOO_MANY.to_owned(), &terms, false))
            }
            (Fate::Pass(path), Some(_turn)) => {
                let mut request = Request::from_parts(head, Empty::new());
                *request.uri_mut() = path.into();
                *request.version_mut() = hyper::Version::HTTP_11;
                drop_hop_by_hop(request.headers_mut());
                request.headers_mut().remove(header::CONTENT_LENGTH);
                request.headers_mut().entry(header::HOST).or_insert(HOST);
                (terms.verdict, pass_on(self.shared.upstream.send(request).await))
            }
        };
        if self.shared.draining.load(Ordering::Relaxed) {
            response.headers_mut().insert(header::CONNECTION, CLOSE);
        }
        let (status, took) = (response.status(), started.elapsed());
        self.teller.tell(Answered { terms, asked, verdict, status, took });
        response
    }

    fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.terms.borrow())
    }

    /// Waits for a request's turn; none if too many of its pod, or of the node, wait already.
    async fn turn(&self, now: Instant) -> Option<SemaphorePermit<'_>> {
        let wait = self.budget.take(now)?;
        if !wait.is_zero() {
            sleep(wait).await;
        }
        match self.under_way.try_acquire() {
            Ok(place) => Some(place),
            Err(_) => timeout(PLACE_WITHIN, self.under_way.acquire()).await.ok()?.ok(),
        }
    }
}

const CLOSE: HeaderValue = HeaderValue::from_static("close");
const HOST: HeaderValue = HeaderValue::from_static("169.254.169.254");

const TOO_MANY: &str = "imds-guard: too many requests of this pod or node wait for IMDS; try again later\n";

/// Gives on what IMDS answered, as it is; or says why there is no answer.
fn pass_on(answer: Result<Response<Answer>, UpstreamError>) -> Response<Body> {
    match answer {
        Ok(mut answer) => {
            drop_hop_by_hop(answer.headers_mut());
            answer.map(Either::Right)
        }
        Err(error) => {
            let status = match error {
                UpstreamError::Late => StatusCode::GATEWAY_TIMEOUT,
                UpstreamError::Connect(_) | UpstreamError::Broken(_) => StatusCode::BAD_GATEWAY,
            };
            plain(status, format!("imds-guard: {error}\n"))
        }
    }
}

/// An answer of the gate's own. After a body that was announced and not read the connection can't go on.
fn refuse(status: StatusCode, text: String, terms: &Terms, closes: bool) -> Response<Body> {
    let mut response = plain(status, text);
    if let Ok(rule) = HeaderValue::from_str(terms.rule.as_str()) {
        response.headers_mut().insert(RULE, rule);
    }
    if closes {
        response.headers_mut().insert(header::CONNECTION, CLOSE);
    }
    response
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
