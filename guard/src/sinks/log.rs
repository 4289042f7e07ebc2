//! The event log: one JSON object a line, to the standard output or a file.
//!
//! A thread of its own writes it, so that a full pipe or a slow disk never holds up the agent. What it can't keep up
//! with is dropped and counted.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

/// How many lines may wait for the writer.
const QUEUE: usize = 4096;

/// The event log.
pub struct EventLog(SyncSender<Arc<str>>);

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
        let (sender, lines) = sync_channel(QUEUE);
        thread::Builder::new().name("event-log".to_owned()).spawn(move || write(output, &lines))?;
        Ok(Self(sender))
    }

    /// Hands over one line.
    pub fn line(&self, line: Arc<str>) -> Result<(), Full> {
        self.0.try_send(line).map_err(|_| Full)
    }
}

/// Writes lines until the log is closed. A failed write (a full disk, say) is reported once, and writing goes on with
/// the next line: space may come back.
fn write(output: Box<dyn Write + Send>, lines: &Receiver<Arc<str>>) {
    let mut output = BufWriter::new(output);
    let mut failing = false;
    while let Ok(line) = lines.recv() {
        let mut write = || {
            writeln!(output, "{line}")?;
            for line in lines.try_iter() {
                writeln!(output, "{line}")?;
            }
            output.flush()
        };
        match write() {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::error!(%error, "cannot write the event log");
            }
            Err(_) => {}
        }
    }
}
