//! How one agent follows another: there is one that writes to the kernel, and whoever starts takes that over, from one
//! that is gone or from one that still runs.
//!
//! ```text
//!  old ── guards ─────────────────────▶ leaves off, writes its account ─▶ answers at its gates until it is ended
//!                                          ▲  │ lock
//!  new ── loads, names pods, opens gates ──┘  └▶ reads PODS, account ─▶ writes PODS ─▶ updates the links ─▶ guards
//! ```
//!
//! The kernel decides all the while. An old agent that is gone has left the lock, and everything in the kernel as it was:
//! then the gates alone are missing until the new ones are open.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use guard_common::{CANARY_RULE, CgroupId, PodEntry};
use hyper::Method;
use jiff::Timestamp;
use tokio::{
    net::UnixStream,
    time::{Instant, sleep, timeout},
};

use super::{AgentError, chain, doors::Doors, state::State};
use crate::{
    account::{Account, Checkpoint},
    client,
    kernel::{self, Books, Reading},
    memory::Memory,
    reconcile::{self, RuleNames},
    sinks::{api, metrics::Names},
};

/// How long an agent that runs may take to leave off.
const LEAVES_OFF_WITHIN: Duration = Duration::from_secs(5);

/// How long the lock of one that has left off, or has just ended, is waited for, and how often it is tried.
const OWNED_WITHIN: Duration = Duration::from_secs(10);
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// How long gates of former agents keep their ports: what is on its way there arrives by then.
const GATES_PASS: Duration = Duration::from_secs(30);

/// The agent that guards this node already, if one does, by its socket. Ours takes that one's place once we guard.
pub(super) struct Predecessor {
    socket: PathBuf,
    is_there: bool,
}

impl Predecessor {
    pub(super) async fn find(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), is_there: UnixStream::connect(socket).await.is_ok() }
    }

    /// Asks it to leave off. One that does not answer may be ending: its lock tells.
    pub(super) async fn leave_off(&self) {
        // Without one the socket is our own by now.
        if !self.is_there {
            return;
        }
        let Ok(stream) = UnixStream::connect(&self.socket).await else { return };
        match timeout(LEAVES_OFF_WITHIN, client::send(stream, Method::POST, api::HAND_OVER)).await {
            Ok(Ok(_)) => tracing::info!("the agent that guarded this node has handed over"),
            Ok(Err(error)) => tracing::debug!(error = format!("{error:#}"), "nobody hands over"),
            Err(_) => tracing::warn!("the agent that guards this node does not answer"),
        }
    }
}

/// Where the agent's socket is. While another agent guards, that one's stays where people, and a next try, find it.
pub(super) struct SocketPlace {
    bound: PathBuf,
    place: PathBuf,
}

impl SocketPlace {
    pub(super) fn beside(place: &Path, predecessor: &Predecessor) -> Self {
        let taken = predecessor.is_there;
        let bound = if taken { place.with_added_extension("next") } else { place.to_owned() };
        Self { bound, place: place.to_owned() }
    }

    /// Where it is bound.
    pub(super) fn bound(&self) -> &Path {
        &self.bound
    }

    /// Takes its place, now that this agent guards.
    pub(super) fn take(self) -> io::Result<()> {
        if self.bound == self.place { Ok(()) } else { fs::rename(self.bound, self.place) }
    }
}

/// Where an agent is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It changes nothing yet: another may guard.
    Preparing,
    /// It is the one that writes.
    Guarding,
    /// Another one does.
    HandedOver,
}

impl State {
    pub(super) fn is_guarding(&self) -> bool {
        self.stage == Stage::Guarding
    }

    pub(super) fn has_handed_over(&self) -> bool {
        self.stage == Stage::HandedOver
    }

    /// Opens the gates of the pods that are known, before anybody is sent there.
    pub(super) fn prepare_gates(&mut self) {
        let reconcile::Desired { mut entries, gated } = self.desired(&mut self.rules.clone());
        self.open_gates(&mut entries, gated);
    }

    /// Becomes the agent that guards: goes on with what the kernel holds, writes what differs, and puts its programs in the
    /// place of those that are there.
    pub(super) async fn take_over(&mut self) -> Result<(), AgentError> {
        let deadline = Instant::now() + OWNED_WITHIN;
        while !self.kernel.try_own()? {
            if Instant::now() > deadline {
                return Err(AgentError::Guarded);
            }
            sleep(TRY_AGAIN).await;
        }
        self.stage = Stage::Guarding;
        let failed = |what| move |source| AgentError::Adopt { what, source: Box::new(source) };
        self.rules = RuleNames::recalled(&self.kernel.rule_names().map_err(failed("the names of rules"))?);
        self.rules_written = self.rules.count();
        self.applied = self.kernel.rulings().map_err(failed("the rulings"))?;
        self.unidentified = self.applied.remove(&CgroupId::UNIDENTIFIED);
        self.find_former_agents();
        self.know_canary();
        let checkpoint = self.recall_account();
        self.recall_issued();
        self.carries_over = true;
        let stood = self.kernel.check_pinned();
        // Looked at again: what happened since the gates were prepared.
        self.walk()?;
        self.apply();
        if self.unidentified.is_none() {
            self.kernel
                .set_pod(CgroupId::UNIDENTIFIED, &PodEntry::CLOSED)
                .map_err(AgentError::Unidentified)?;
        }
        self.kernel.attach()?;
        self.denied.attached();
        self.carry_over(checkpoint.as_ref());
        self.carries_over = false;
        self.save_account();
        self.remove_other_generations();
        self.walk()?;
        // Where the programs stood all the while, whoever is new was guarded from the start.
        let now = self.kernel.counters_id();
        let is_of_now = |known: &Checkpoint| {
            known.counters.as_ref().zip(now.as_ref()).is_some_and(|(known, now)| known.is_same_boot(now))
        };
        let known = checkpoint.filter(is_of_now);
        self.unguarded = if stood {
            known.into_iter().flat_map(|known| known.unguarded).map(CgroupId).collect()
        } else {
            self.issued.attached(Timestamp::now());
            self.index.pods().map(|(pod, _)| pod).filter(|pod| !self.is_agent(*pod)).collect()
        };
        self.former_gates = Some((Instant::now() + GATES_PASS * 2, self.kernel.gates().unwrap_or_default()));
        self.remember_root();
        self.show_pods();
        // Whoever follows must know which pods ran before the guard, and since when it stands.
        self.save_account();
        Ok(())
    }

    /// Writes down where the pods live, for the node's next start.
    fn remember_root(&mut self) {
        let Some(memory) = &self.memory else { return };
        let mount = self.settings.cgroup_mount.canonicalize();
        let root = mount.ok().and_then(|mount| Some(self.root().strip_prefix(mount).ok()?.to_owned()));
        if let Some(root) = root
            && let Err(error) = memory.save_root(&root)
        {
            tracing::warn!(
                error = chain(&error),
                "where the pods live is not remembered for the node's start"
            );
        }
    }

    /// Goes on with the totals of the former agent, and with its account if the counters are the same.
    fn recall_account(&mut self) -> Option<Checkpoint> {
        let checkpoint = match self.memory.as_ref().map(Memory::account)? {
            Ok(checkpoint) => checkpoint?,
            Err(error) => {
                tracing::warn!(error = chain(&error), "the totals of the former agent are not recalled");
                return None;
            }
        };
        self.metrics.restore(&checkpoint.totals);
        if checkpoint.counters.is_some() && checkpoint.counters == self.kernel.counters_id() {
            match self.counters.read() {
                Ok(now) => self.account = Account::resume(&checkpoint, &now),
                Err(error) => tracing::error!(error = chain(&error), "cannot read the counters"),
            }
        }
        Some(checkpoint)
    }

    /// Adds what other generations have counted since the account was written. They go once that is written down.
    fn carry_over(&mut self, checkpoint: Option<&Checkpoint>) {
        let others = match self.kernel.other_generations() {
            Ok(others) => others,
            Err(error) => {
                tracing::error!(error = chain(&error), "what another version had counted last is not found");
                return;
            }
        };
        for (folder, books) in others {
            match books {
                Ok(books) => self.add_books(books, checkpoint),
                Err(error) => {
                    tracing::error!(error = chain(&error), "what another version had counted last is lost");
                }
            }
            self.other_generations.push(folder);
        }
    }

    /// Removes other generations, whose counts are carried over.
    fn remove_other_generations(&mut self) {
        for folder in std::mem::take(&mut self.other_generations) {
            if let Err(error) = kernel::remove_generation(&folder) {
                tracing::error!(error = chain(&error), "pins of another version stay behind");
            }
        }
    }

    fn add_books(&mut self, mut books: Books, checkpoint: Option<&Checkpoint>) {
        if checkpoint.is_some_and(|known| known.closed.contains(&books.counters)) {
            return;
        }
        self.account.closed.push(books.counters.clone());
        let same = checkpoint.filter(|checkpoint| checkpoint.counters.as_ref() == Some(&books.counters));
        let mut reading = std::mem::take(&mut books.reading);
        reading.decisions.retain(|(key, _)| key.rule != CANARY_RULE);
        let mut account = same.map_or_else(Account::default, |known| Account::resume(known, &reading));
        let added = account.added(reading);
        let endpoints = &self.settings.endpoints;
        let decisions = added.decisions.into_iter().map(|(key, count)| {
            let rule = self.rules.id(books.rule(key.rule).unwrap_or(RuleNames::NONE));
            let endpoint = books.endpoint(key.endpoint, endpoints).unwrap_or(key.endpoint);
            (key.translated(endpoint, rule), count)
        });
        let added = Reading { decisions: decisions.collect(), lost: added.lost };
        let names = Names { index: &self.index, owners: &account.owners, endpoints, rules: &self.rules };
        self.metrics.add(&added, names);
        self.write_rules();
    }

    /// Writes down what the ids of rules mean, before the kernel bears them.
    pub(super) fn write_rules(&mut self) {
        for (id, name) in self.rules.since(self.rules_written) {
            if let Err(error) = self.kernel.set_rule(id, name) {
                tracing::error!(error = chain(&error), "the next agent will not know this rule's name");
            }
        }
        self.rules_written = self.rules.count();
    }

    /// Writes down what was counted so far, and then what was issued.
    /// Says whether it is down; where nothing is remembered it need not be.
    pub(super) fn save_account(&mut self) -> bool {
        if !self.is_guarding() || self.carries_over {
            return false;
        }
        let saved = self.write_account();
        self.note_issued();
        self.save_issued();
        saved
    }

    fn write_account(&mut self) -> bool {
        let Some(memory) = self.memory.as_ref() else { return true };
        let now = self.account.checkpoint(self.kernel.counters_id(), &self.unguarded, self.metrics.totals());
        if self.saved_account.as_ref() == Some(&now) {
            return true;
        }
        let saved = memory.save_account(&now);
        if saved.is_ok() {
            self.saved_account = Some(now);
        }
        let is_saved = saved.is_ok();
        if self.degrade("state_folder", !is_saved)
            && let Err(error) = saved
        {
            tracing::warn!(error = chain(&error), "what was counted is not remembered for the next agent");
        }
        is_saved
    }

    /// Leaves off, for another agent to take over: nothing is written from now on. The gates go on answering.
    pub(super) fn hand_over(&mut self) {
        if !self.is_guarding() {
            return;
        }
        self.collect();
        self.save_pods();
        self.save_account();
        self.remove_canary();
        self.stage = Stage::HandedOver;
        self.handed_over = Some(Instant::now());
        self.doors.drain();
        self.kernel.disown();
        tracing::info!("handed over to another agent: the gates answer until this one is ended");
    }

    /// Whether the agent that took over is gone, and with it the one that guards.
    pub(super) fn successor_is_gone(&mut self) -> bool {
        self.has_handed_over() && !matches!(self.kernel.try_own(), Ok(false))
    }

    /// Ends the gates of an agent that handed over a while ago: what they had begun is answered, and their terms are old.
    pub(super) fn end_drained_gates(&mut self) {
        if self.handed_over.is_some_and(|since| since.elapsed() > GATES_PASS) {
            self.doors = Doors::default();
        }
    }

    /// Gives back the ports of gates of former agents.
    pub(super) fn forget_former_gates(&mut self) {
        let is_time = |(when, _): &(Instant, _)| *when <= Instant::now();
        let Some((_, former)) = self.former_gates.take_if(|former| is_time(former)) else { return };
        for gate in former {
            if !self.doors.has(gate)
                && let Err(error) = self.kernel.remove_gate(gate)
            {
                tracing::error!(error = chain(&error), "a port stays taken");
            }
        }
    }
}
