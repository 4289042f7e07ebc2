//! Tells of the requests at one gate: counts every one, and hands a few a second to the agent, for its log and its Events.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
    time::Duration,
};

use guard_common::Verdict;
use hyper::StatusCode;
use jiff::Timestamp;
use prometheus::IntCounter;
use tokio::sync::mpsc;

use super::{Exchange, News, judge::Terms};
use crate::{
    request::{Asked, ImdsVersion, LineBudget, Request, Requester, UNPARSED},
    sinks::metrics::{CountedRequest, GateMetrics},
};

/// What tells one counter of a pod's requests from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    class: &'static str,
    version: ImdsVersion,
    verdict: Verdict,
    code: u16,
}

/// A request that was answered.
pub(super) struct Answered {
    /// What held when it was judged.
    pub(super) terms: Arc<Terms>,
    pub(super) asked: Option<Asked>,
    /// What became of it: deny, if the gate itself answered.
    pub(super) verdict: Verdict,
    pub(super) status: StatusCode,
    pub(super) took: Duration,
}

pub(super) struct Teller {
    metrics: GateMetrics,
    news: mpsc::Sender<News>,
    /// The counters that were used, of which a pod has a few: looking one up by its labels takes as long as judging.
    counters: RefCell<Vec<(Kind, IntCounter)>>,
    budget: RefCell<LineBudget>,
    /// Denials of which the agent has not been told.
    denials: Cell<u64>,
}

impl Teller {
    pub(super) fn new(metrics: GateMetrics, news: mpsc::Sender<News>) -> Self {
        Self {
            metrics,
            news,
            counters: RefCell::default(),
            budget: RefCell::default(),
            denials: Cell::new(0),
        }
    }

    /// Counts a request, and tells the agent of it if it is not too many.
    pub(super) fn tell(&self, answered: Answered) {
        let Answered { terms, asked, verdict, status, took } = answered;
        let code = status.as_u16();
        let version = ImdsVersion::of(asked.as_ref(), code);
        let class = asked.as_ref().map_or(UNPARSED, |asked| asked.path.class);
        self.count(&terms, Kind { class, version, verdict, code }, asked.as_ref());
        self.metrics.took(took);

        let denied = verdict == Verdict::Deny && status == StatusCode::FORBIDDEN;
        let denials = self.denials.get() + u64::from(denied);
        self.denials.set(denials);
        let time = Timestamp::now();
        if !self.budget.borrow_mut().take(terms.cgroup, time) {
            self.metrics.past_budget.inc();
            return;
        }
        let request = Request {
            time,
            requester: Requester::of(Some(&terms.pod)),
            asked,
            status: code,
            verdict,
            mode: terms.mode,
            rule: terms.rule.as_str().to_owned(),
        };
        let denial_id = denied.then(|| terms.denial_id.clone());
        let exchange = Exchange { pod: terms.cgroup, request, denial_id, denials };
        match self.news.try_send(News::Exchange(Box::new(exchange))) {
            Ok(()) if denied => self.denials.set(0),
            Ok(()) => {}
            Err(_) => self.metrics.untold.inc(),
        }
    }

    fn count(&self, terms: &Terms, kind: Kind, asked: Option<&Asked>) {
        let mut counters = self.counters.borrow_mut();
        let known = counters.iter().find(|(known, _)| *known == kind).map(|(_, counter)| counter);
        let role = asked.and_then(|asked| asked.path.role.as_deref());
        if let (Some(counter), None) = (known, role) {
            return counter.inc();
        }
        let requester = Requester::of(Some(&terms.pod));
        let (namespace, service_account) = requester.labels();
        let request = CountedRequest {
            namespace,
            service_account,
            path_class: kind.class,
            imds_version: kind.version,
            verdict: kind.verdict.as_str(),
            code: kind.code,
            role,
        };
        self.metrics.requests.count(&request);
        if known.is_none() {
            counters.push((kind, self.metrics.requests.counter(&request)));
        }
    }
}
