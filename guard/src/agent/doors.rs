//! The gates of this node as the agent keeps them: open before a pod is sent there, and closed after it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use guard_common::{CgroupId, GateKey, HTTP_PORT};
use tokio::{sync::mpsc, time::Instant};

use super::{chain, state::State, status::GateStatus};
use crate::{
    endpoints::Endpoints,
    gate::{Exchange, Gates, News, Terms, Wanted},
    reconcile::Entries,
};

/// How soon, and how seldom at most, a pod whose sandbox was not ready is looked at again.
const SOON: Duration = Duration::from_millis(2);
const SELDOM: Duration = Duration::from_secs(1);

/// What the gates tell. Where there are none, or none any more, it is nothing.
pub(super) struct GateNews(Option<mpsc::Receiver<News>>);

impl GateNews {
    /// Waits for news; none, once, if the gates have ended.
    pub(super) async fn next(&mut self) -> Option<News> {
        match &mut self.0 {
            Some(news) => {
                let news = news.recv().await;
                if news.is_none() {
                    self.0 = None;
                }
                news
            }
            None => std::future::pending().await,
        }
    }
}

/// The gates, where this host can have any, and which pods wait for theirs.
#[derive(Default)]
pub(super) struct Doors {
    gates: Option<Gates>,
    missing: usize,
    /// When to look again, and how long after the last time that is.
    again: Option<(Instant, Duration)>,
}

impl Doors {
    /// How many gates are open, and how many pods wait for theirs; none where there are no gates.
    pub(super) fn counts(&self) -> Option<GateStatus> {
        self.gates.as_ref().map(|gates| GateStatus { open: gates.len(), missing: self.missing })
    }

    /// The gates; none where there are none.
    pub(super) fn gates(&self) -> Option<&Gates> {
        self.gates.as_ref()
    }

    /// Whether a gate is one of these.
    pub(super) fn has(&self, gate: GateKey) -> bool {
        self.gates.as_ref().is_some_and(|gates| gates.has(gate))
    }

    /// Has the gates end each connection with its next answer: another agent's take the new ones.
    pub(super) fn drain(&mut self) {
        if let Some(gates) = &self.gates {
            gates.drain();
        }
    }

    /// When to look again for the sandboxes that were not ready.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.again.map(|(when, _)| when)
    }

    /// Looks again soon if pods wait for their gates, and later each time unless there is news of pods.
    fn plan(&mut self, missing: usize) {
        let news = missing > self.missing;
        self.missing = missing;
        self.again = (missing > 0).then(|| {
            let pause = match self.again {
                Some((_, pause)) if !news => (pause * 2).min(SELDOM),
                _ => SOON,
            };
            (Instant::now() + pause, pause)
        });
    }
}

impl State {
    /// Starts the gates. On a host that can have none, what must be filtered is refused, and who is allowed goes straight.
    pub(super) fn start_gates(&mut self) -> GateNews {
        GateNews(self.try_start_gates())
    }

    fn try_start_gates(&mut self) -> Option<mpsc::Receiver<News>> {
        // What is lacking was said at the start.
        let imds = imds(&self.settings.endpoints).filter(|_| !self.degraded.contains("gate"))?;
        let started = Gates::start(&self.settings.gate, imds, self.metrics.gate());
        self.degrade("gate", started.is_err());
        match started {
            Ok((gates, news)) => {
                self.doors.gates = Some(gates);
                Some(news)
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, "no gates: denied and filtered pods get an errno, not an answer");
                None
            }
        }
    }

    /// Opens the gates that are missing, says what holds at the others, and has the entries lead there. Returns the
    /// pods whose gates are to be closed.
    pub(super) fn open_gates(
        &mut self,
        entries: &mut Entries,
        wanted: BTreeMap<CgroupId, Terms>,
    ) -> Vec<CgroupId> {
        let (Some(gates), Some(imds)) =
            (self.doors.gates.as_mut(), self.settings.endpoints.id(Endpoints::IMDS))
        else {
            return Vec::new();
        };
        let stale = gates.stale(|pod| wanted.contains_key(&pod) && self.index.folder(pod).is_some());
        let mut missing = 0;
        for (pod, terms) in wanted {
            let gate = if stale.contains(&pod) {
                None
            } else if let Some(gate) = gates.gate(pod) {
                gates.set_terms(pod, terms);
                Some(gate)
            } else if let Some(folder) = self.index.folder(pod) {
                let folder = self.kernel.root().path.join(folder);
                let opened = gates.open(pod, Wanted { folder, terms }).unwrap_or_else(|error| {
                    tracing::warn!(error = chain(&error), "a gate is not opened");
                    None
                });
                let opened = opened.filter(|gate| match self.kernel.set_gate(*gate) {
                    Ok(()) => true,
                    Err(error) => {
                        tracing::error!(error = chain(&error), "a gate is closed again");
                        gates.close(pod);
                        false
                    }
                });
                missing += usize::from(opened.is_none());
                opened
            } else {
                None
            };
            if let Some(entry) = entries.get_mut(&pod) {
                *entry = entry.through_gate(imds, gate);
            }
        }
        self.doors.plan(missing + stale.iter().filter(|pod| self.index.folder(**pod).is_some()).count());
        stale
    }

    /// Closes the gates to which nobody is sent any more.
    pub(super) fn close_gates(&mut self, stale: &[CgroupId]) {
        let Some(gates) = &mut self.doors.gates else { return };
        // Its port stays guarded until it is heard that nobody listens there any more.
        for pod in stale {
            gates.close(*pod);
        }
        self.metrics.set_gates(gates.len(), self.doors.missing);
    }

    /// Takes what the gates tell; a request makes a line of the event log.
    pub(super) fn hear_gates(&mut self, news: Option<News>) -> Option<Arc<str>> {
        match news {
            Some(News::Exchange(exchange)) => Some(self.hear_exchange(&exchange)),
            Some(News::Closed { pod, gate }) => {
                self.gate_closed(pod, gate);
                None
            }
            None => {
                tracing::error!("the gates have ended: who needs one is refused");
                self.degrade("gate", true);
                None
            }
        }
    }

    fn hear_exchange(&mut self, exchange: &Exchange) -> Arc<str> {
        let imds = self.settings.endpoints.id(Endpoints::IMDS);
        if let (Some(_), Some(imds)) = (&exchange.denial_id, imds) {
            let rule = self.rules.id(&exchange.request.rule);
            self.voice.note_requests(exchange.pod, imds, exchange.denials, rule);
        }
        self.request_line(&exchange.request, exchange.denial_id.as_deref())
    }

    /// Takes note that a gate has closed by itself: its sandbox is gone. A new one may be there already.
    fn gate_closed(&mut self, pod: CgroupId, gate: guard_common::Gate) {
        let Some(gates) = &mut self.doors.gates else { return };
        if gates.is_closed(pod, gate) {
            self.apply();
        }
        if self.doors.gates.as_ref().is_some_and(|gates| !gates.has(gate.into()))
            && let Err(error) = self.kernel.remove_gate(gate.into())
        {
            tracing::error!(error = chain(&error), "a port stays taken");
        }
    }
}

/// Where IMDS is, seen from the host. Every instance has it at its IPv4 address; the other may be switched off.
fn imds(endpoints: &Endpoints) -> Option<SocketAddr> {
    let id = endpoints.id(Endpoints::IMDS)?;
    let (_, endpoint) = endpoints.iter().find(|(found, _)| *found == id)?;
    let v4 = endpoint.addresses.iter().find(|address| IpAddr::is_ipv4(address));
    Some(SocketAddr::new(*v4.or(endpoint.addresses.first())?, HTTP_PORT))
}
