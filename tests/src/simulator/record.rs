use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::Service;
use super::lenient::Key;

/// Everything that reached the simulator.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Every request that could be parsed, in the order of its answer.
    pub requests: Vec<Request>,
    /// Every line, parsed or not, that a lenient server could take for a request of something that IMDS has.
    pub lines: Vec<Line>,
    /// What went on with every peer, parsed or not.
    pub peers: BTreeMap<IpAddr, Traffic>,
}

/// One request and the status it was answered with. Bodies and header values are not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub service: Service,
    pub peer: SocketAddr,
    pub method: String,
    pub path: String,
    /// The names of the headers, in lower case.
    pub headers: Vec<String>,
    pub status: u16,
    /// What a lenient server would have served, whatever the status.
    pub key: Key,
}

/// A line of what a peer sent, read as a request line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub service: Service,
    pub peer: SocketAddr,
    /// The target, cut short where it is long.
    pub target: String,
    pub key: Key,
}

/// What went on with one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// TCP connections accepted.
    pub connections: u64,
    /// UDP datagrams that came in.
    pub datagrams: u64,
    /// Bytes of payload sent to the peer, TCP and UDP together.
    pub bytes_sent: u64,
}

impl Seen {
    /// What went on with one peer; all zero for one that was never heard of.
    pub fn of(&self, peer: IpAddr) -> Traffic {
        self.peers.get(&peer).copied().unwrap_or_default()
    }

    /// What reached IMDS and can be read to ask for a secret, however it is spelled and whatever it was answered.
    pub fn secrets_reached(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.service == Service::Imds && line.key.is_secret())
    }

    /// Bytes of payload sent to anybody.
    pub fn bytes_sent(&self) -> u64 {
        self.peers.values().map(|traffic| traffic.bytes_sent).sum()
    }
}

/// Where the tasks of the simulator write down what they see.
#[derive(Debug, Default)]
pub(super) struct Record {
    seen: Mutex<Seen>,
    lines: Mutex<Option<File>>,
}

impl Record {
    pub(super) fn request(&self, request: Request) {
        self.write_line(&request);
        self.seen().requests.push(request);
    }

    pub(super) fn line(&self, line: Line) {
        self.seen().lines.push(line);
    }

    /// Writes every request from now on into a file too.
    pub(super) fn write_to(&self, file: File) {
        *self.lines.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }

    fn write_line(&self, request: &Request) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut file) = lines.as_ref() else { return };
        let line = serde_json::to_string(request).expect("a request is plain data") + "\n";
        // In one write, so that nobody reads half a line. A full disk costs the line; the record has the request.
        let _ = file.write_all(line.as_bytes());
    }

    pub(super) fn connection(&self, peer: IpAddr) {
        self.seen().peers.entry(peer).or_default().connections += 1;
    }

    pub(super) fn datagram(&self, peer: IpAddr) {
        self.seen().peers.entry(peer).or_default().datagrams += 1;
    }

    /// Does `send`, which says how many bytes it sent, and counts them. Nobody reads the record in between: what a
    /// client has received is always counted already.
    pub(super) fn sending<T>(
        &self,
        peer: IpAddr,
        send: impl FnOnce() -> T,
        bytes: impl FnOnce(&T) -> usize,
    ) -> T {
        let mut seen = self.seen();
        let outcome = send();
        seen.peers.entry(peer).or_default().bytes_sent += bytes(&outcome) as u64;
        outcome
    }

    pub(super) fn copy(&self) -> Seen {
        self.seen().clone()
    }

    pub(super) fn forget(&self) {
        *self.seen() = Seen::default();
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // A panic elsewhere leaves the counts as true as they were.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
