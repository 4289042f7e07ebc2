//! The lines of the event log, on their way to the log itself and to whoever watches.

use std::{path::Path, sync::Arc};

use tokio::sync::broadcast;

use super::{AgentError, state::State};
use crate::sinks::{log::EventLog, metrics::EventLoss};

/// How many lines may wait for a reader of the API.
const QUEUE: usize = 1024;

pub(super) struct Lines {
    log: EventLog,
    watchers: broadcast::Sender<Arc<str>>,
}

impl Lines {
    pub(super) fn open(path: &Path) -> Result<Self, AgentError> {
        let log =
            EventLog::open(path).map_err(|source| AgentError::EventLog { path: path.to_owned(), source })?;
        let (watchers, _) = broadcast::channel(QUEUE);
        Ok(Self { log, watchers })
    }

    /// For whoever wants to watch.
    pub(super) fn watchers(&self) -> broadcast::Sender<Arc<str>> {
        self.watchers.clone()
    }

    /// Hands over one line; counts it as lost if the log has no room.
    pub(super) fn write(&self, line: Arc<str>, state: &State) {
        // No one may be listening.
        let _ = self.watchers.send(Arc::clone(&line));
        if self.log.line(line).is_err() {
            state.lose_events(EventLoss::LogFull, 1);
        }
    }

    /// Counts the lines that could not be written since this was last asked.
    pub(super) fn count_failed(&self, state: &State) {
        state.lose_events(EventLoss::LogFailed, self.log.failed());
    }

    /// Waits until what was handed over is written, but not for ever.
    pub(super) fn close(self) {
        self.log.close();
    }
}
