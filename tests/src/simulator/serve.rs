use std::convert::Infallible;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;
use std::{future, io};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, SERVER};
use hyper::service::service_fn;
use hyper::{Request as HttpRequest, Response};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::answer::{Answer, Rules, TOKEN_LIFETIME};
use super::hop_limit::HopLimit;
use super::lenient::Key;
use super::lines::Lines;
use super::record::{Line, Record, Request};
use super::{Endpoint, Service};

/// How many connections may wait to be accepted: floods of attempts are part of the tests.
const BACKLOG: i32 = 4096;

/// So much of a target is kept in the record.
const SHOWN: usize = 200;

/// What all tasks of the simulator share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) rules: Rules,
    pub(super) record: Record,
    pub(super) hop_limit_of_tokens: HopLimit,
}

/// The sockets of one endpoint, open but not yet served.
pub(super) struct Opened {
    endpoint: Endpoint,
    stream: std::net::TcpListener,
    datagram: StdUdpSocket,
}

impl Opened {
    /// Opens TCP and UDP on the same address; port 0 takes a free one.
    pub(super) fn open(mut endpoint: Endpoint) -> Result<Self> {
        let stream = bind(endpoint.address, Type::STREAM)
            .with_context(|| format!("listen on {}", endpoint.address))?;
        stream.listen(BACKLOG)?;
        let stream = std::net::TcpListener::from(stream);
        endpoint.address = stream.local_addr()?;
        let datagram =
            bind(endpoint.address, Type::DGRAM).with_context(|| format!("bind UDP {}", endpoint.address))?;
        Ok(Self { endpoint, stream, datagram: datagram.into() })
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Starts the tasks that serve the sockets on the current runtime.
    pub(super) fn serve(self, shared: &Arc<Shared>) -> io::Result<()> {
        let (stream, datagram) = (TcpListener::from_std(self.stream)?, UdpSocket::from_std(self.datagram)?);
        tokio::spawn(accept(stream, self.endpoint.service, Arc::clone(shared)));
        tokio::spawn(echo(datagram, Arc::clone(shared)));
        Ok(())
    }
}

fn bind(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn accept(listener: TcpListener, service: Service, shared: Arc<Shared>) {
    loop {
        // A connection that was reset before it could be accepted is one of the attacks, not an error of ours.
        if let Ok((stream, peer)) = listener.accept().await {
            shared.record.connection(peer.ip());
            tokio::spawn(serve_connection(stream, peer, service, Arc::clone(&shared)));
        }
    }
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, service: Service, shared: Arc<Shared>) {
    let lines = Lines::default();
    let limited = shared.hop_limit_of_tokens.prepare(&stream, peer);
    let limited = limited.expect("a connection can have a second descriptor");
    let counted = Counted { stream, peer, service, lines, shared: Arc::clone(&shared) };
    let handler = service_fn(move |request| {
        let answer = handle(&shared, service, peer, &request);
        if let (Some(limited), Some(_)) = (&limited, answer.token_lifetime) {
            limited.impose().expect("a connection takes a hop limit");
        }
        future::ready(Ok::<_, Infallible>(response(answer)))
    });
    // A client that goes away in the middle is what a cut connection looks like; the record says how far it got.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(counted), handler).await;
}

fn handle(shared: &Shared, service: Service, peer: SocketAddr, request: &HttpRequest<Incoming>) -> Answer {
    let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
    let answer = shared.rules.answer(service, method, path, headers, Instant::now());
    shared.record.request(Request {
        service,
        peer,
        method: method.to_string(),
        path: path.to_owned(),
        headers: headers.keys().map(ToString::to_string).collect(),
        status: answer.status.as_u16(),
        key: Key::of(path.as_bytes()),
    });
    answer
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static("EC2ws"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if let Some(seconds) = answer.token_lifetime {
        headers.insert(TOKEN_LIFETIME, seconds.into());
    }
    response
}

/// Sends every datagram back, so that a UDP attack can get bytes.
async fn echo(socket: UdpSocket, shared: Arc<Shared>) {
    let mut buffer = vec![0; 2048];
    loop {
        // Errors here are late ICMP answers to earlier datagrams.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        shared.record.datagram(peer.ip());
        // A datagram that finds no room in the socket's buffer is lost, as on any network.
        let send = || socket.try_send_to(&buffer[..length], peer);
        let _ = shared.record.sending(peer.ip(), send, |sent| *sent.as_ref().unwrap_or(&0));
    }
}

/// A connection that writes down how many bytes it sent, also those of answers that hyper gives by itself, and what
/// came in that could be a request, also where hyper sees none.
struct Counted {
    stream: TcpStream,
    peer: SocketAddr,
    service: Service,
    lines: Lines,
    shared: Arc<Shared>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.look(|lines, tell| lines.take(&buffer.filled()[before..], tell));
        read
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.look(|lines, tell| lines.end(tell));
    }
}

impl Counted {
    /// Writes down the lines that `find` tells of.
    fn look(&mut self, find: impl FnOnce(&mut Lines, &mut dyn FnMut(&[u8], Key))) {
        let Self { service, peer, lines, shared, .. } = self;
        find(lines, &mut |target, key| {
            let target = String::from_utf8_lossy(&target[..target.len().min(SHOWN)]).into_owned();
            shared.record.line(Line { service: *service, peer: *peer, target, key });
        });
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, peer, shared, .. } = &mut *self;
        shared.record.sending(
            peer.ip(),
            || Pin::new(stream).poll_write(context, bytes),
            |written| match written {
                Poll::Ready(Ok(count)) => *count,
                _ => 0,
            },
        )
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
