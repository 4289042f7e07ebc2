//! The event log: one JSON object a line, to the standard output or a file.
//!
//! A thread of its own writes it, so that a full pipe or a slow disk never holds up the agent. What it can't keep up
//! with, or can't write, is dropped and counted.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How many lines may wait for the writer.
const QUEUE: usize = 4096;

/// How long the agent waits at its end for the lines that are still to be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// The event log.
pub struct EventLog {
    lines: SyncSender<Arc<str>>,
    writer: JoinHandle<()>,
    failed: Arc<AtomicU64>,
}

/// The log has no room for a line.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl EventLog {
    /// Opens the log: `-` is the standard output, anything else a file to append to.
    pub fn open(path: &Path) -> io::Result<Self> {
        let output: Box<dyn Write + Send> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            Box::new(OpenOptions::new().create(true).append(true).open(path)?)
        };
        let (lines, queue) = sync_channel(QUEUE);
        let failed = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&failed);
        let writer = thread::Builder::new()
            .name("event-log".to_owned())
            .spawn(move || write(output, &queue, &counter))?;
        Ok(Self { lines, writer, failed })
    }

    /// Hands over one line.
    pub fn line(&self, line: Arc<str>) -> Result<(), Full> {
        self.lines.try_send(line).map_err(|_| Full)
    }

    /// How many lines could not be written since this was last asked.
    pub fn failed(&self) -> u64 {
        self.failed.swap(0, Ordering::Relaxed)
    }

    /// Waits until what was handed over is written, but not for ever: a pipe may be full.
    pub fn close(self) {
        drop(self.lines);
        let deadline = Instant::now() + PATIENCE;
        while !self.writer.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Writes lines until the log is closed. A failed write (a full disk, say) is reported once, and writing goes on with
/// the next line: space may come back.
fn write(mut output: Box<dyn Write + Send>, lines: &Receiver<Arc<str>>, failed: &AtomicU64) {
    let mut failing = false;
    while let Ok(line) = lines.recv() {
        // A batch in one write: whole lines, each with its end.
        let mut batch = format!("{line}\n");
        let mut count = 1;
        for line in lines.try_iter().take(QUEUE) {
            batch.push_str(&line);
            batch.push('\n');
            count += 1;
        }
        match output.write_all(batch.as_bytes()).and_then(|()| output.flush()) {
            Ok(()) => failing = false,
            Err(error) => {
                failed.fetch_add(count, Ordering::Relaxed);
                if !failing {
                    tracing::error!(%error, "cannot write the event log");
                }
                failing = true;
            }
        }
    }
}
