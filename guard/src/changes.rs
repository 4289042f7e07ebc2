//! Tells when a file or a folder may have changed: policy files, the list of pods.
//!
//! The folder that holds it is watched, so that a file replaced by renaming and a ConfigMap volume's symlink swap are
//! seen. A bell only: whoever hears it reads again and compares. It also rings by the clock, for folders that can't be
//! watched or were replaced themselves.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    select,
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// How long a change can go unseen when watching fails.
const FALLBACK: Duration = Duration::from_secs(30);

/// The bell of one file or folder.
pub struct Changes {
    folder: PathBuf,
    /// Changes in quick succession are one.
    settle: Duration,
    watcher: Option<RecommendedWatcher>,
    rings: mpsc::Receiver<()>,
    /// When to ring next.
    due: Instant,
}

impl Changes {
    /// Watches `path`: a folder for what is in it, a file by the folder that it lies in.
    /// Changes within `settle` are told of once.
    pub fn of(path: &Path, settle: Duration) -> Self {
        let folder = if path.is_dir() { path } else { parent(path) };
        let (ring, rings) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the files makes events of its own, which must not ring again.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = ring.try_send(());
            }
        });
        let watcher = watcher
            .inspect_err(
                |error| tracing::warn!(%error, path = %path.display(), "cannot watch; looking by the clock"),
            )
            .ok();
        let (folder, due) = (folder.to_owned(), Instant::now() + FALLBACK);
        let mut changes = Self { folder, settle, watcher, rings, due };
        changes.watch();
        changes
    }

    /// Waits until there may be a change. Whoever stops waiting half-way misses nothing: what rang is kept.
    pub async fn next(&mut self) {
        loop {
            select! {
                Some(()) = self.rings.recv() => self.due = self.due.min(Instant::now() + self.settle),
                () = sleep_until(self.due) => break,
            }
        }
        self.due = Instant::now() + FALLBACK;
        // A folder that was removed and made again has lost its watch; watching a second time does no harm.
        self.watch();
    }

    fn watch(&mut self) {
        if let Some(watcher) = &mut self.watcher
            && let Err(error) = watcher.watch(&self.folder, RecursiveMode::NonRecursive)
        {
            tracing::debug!(%error, folder = %self.folder.display(), "cannot watch; looking by the clock");
        }
    }
}

/// Tells versions of one file apart without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds of the last change of the file or of what is known of it.
    changed: (i64, i64),
}

impl Version {
    /// The version of a file as it is now; none if it can't be looked at.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = path.metadata().ok()?;
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Some(Self { inode: metadata.ino(), length: metadata.len(), changed })
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
