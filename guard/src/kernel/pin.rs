//! What stays in bpffs when the agent ends: the kernel goes on deciding, and the next agent goes on with what is there.
//!
//! ```text
//! PIN_PATH/               locked (flock) by the one agent that writes to what is below
//! └─ abi-3-5f2a91c0/      a generation: one ABI, one table of endpoints
//!    ├─ PODS, COUNTERS …  its maps
//!    └─ link_connect4 …   the links of its programs to the guarded root
//! ```
//!
//! An agent of the same generation takes its maps over. One of another makes its own beside them, fills them, and then
//! updates link after link to its own programs: at every hook there is one program at any time. What the other has
//! counted is carried over before its folder is removed. Whatever is left half done by an agent that dies is taken up by
//! the next one in the same way.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use guard_common::ABI_VERSION;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use sha2::{Digest, Sha256};

use super::{link::CgroupLink, raw::Object};
use crate::endpoints::Endpoints;

/// The maps that are pinned: all but those of the bell and of the programs' own log.
pub(super) const MAPS: [&str; 14] = [
    "PODS",
    "GATES",
    "FORWARDED",
    "ENDPOINTS",
    "COUNTERS",
    "OVERFLOW",
    "LOST",
    "RULES",
    "EVENTS",
    "REQUESTS",
    "BUDGETS",
    "SOCKETS",
    "REDIRECTED",
    "OPEN_REQUESTS",
];

/// What the name of every generation begins with.
const GENERATION: &str = "abi-";

/// Why nothing can be pinned, or taken over.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("{path} does not lie in a bpffs: mount one with `mount -t bpf bpf /sys/fs/bpf`")]
    NotBpffs { path: PathBuf },
    #[error("make the folder {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("lock {path}")]
    Lock {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("list {path}")]
    List {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("open the pin {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("pin {path}")]
    Pin {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("remove {path}")]
    Remove {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The pins of one guard.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    generation: PathBuf,
    lock: Option<Flock<File>>,
    /// The maps by their descriptors, to pin them again should the pins be lost.
    maps: Vec<(&'static str, Object)>,
}

impl Pins {
    /// Opens the folder of this agent's generation below `root`, and makes it if it is not there.
    pub fn open(root: &Path, endpoints: &Endpoints) -> Result<Self, PinError> {
        let generation = root.join(generation(endpoints));
        make(&generation)?;
        if !is_bpffs(&generation) {
            let _ = fs::remove_dir(&generation).and_then(|()| fs::remove_dir(root));
            return Err(PinError::NotBpffs { path: root.to_owned() });
        }
        Ok(Self { root: root.to_owned(), generation, lock: None, maps: Vec::new() })
    }

    /// Whether they are there: the file system may have been taken away.
    pub(super) fn stand(&self) -> bool {
        self.map(MAPS[0]).exists()
    }

    /// Where a map of this generation is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.generation.join(name)
    }

    /// Becomes the agent that writes, if no other is.
    pub(super) fn try_own(&mut self) -> Result<bool, PinError> {
        if self.lock.is_none() {
            self.lock = try_lock(&self.root)?;
        }
        Ok(self.lock.is_some())
    }

    /// Leaves the writing to another agent.
    pub(super) fn disown(&mut self) {
        self.lock = None;
    }

    /// Keeps the maps, now that they are pinned.
    pub(super) fn keep_maps(&mut self) -> Result<(), PinError> {
        for name in MAPS {
            let path = self.map(name);
            match Object::open(&path) {
                Ok(Some(map)) => self.maps.push((name, map)),
                Ok(None) => {}
                Err(source) => return Err(PinError::Open { path, source }),
            }
        }
        Ok(())
    }

    /// The link that is pinned for a hook, in this generation or in another.
    pub(super) fn link(&self, hook: &str) -> Result<Option<CgroupLink>, PinError> {
        let folders = [self.generation.clone()].into_iter().chain(self.others()?);
        for path in folders.map(|folder| folder.join(link_name(hook))) {
            let found = CgroupLink::open(&path).map_err(|source| PinError::Open { path, source })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Pins the link of a hook in this generation, in the place of whatever was there.
    pub(super) fn keep_link(&self, hook: &str, link: &CgroupLink) -> Result<(), PinError> {
        let path = self.generation.join(link_name(hook));
        let fresh = self.generation.join(format!("new_{}", link_name(hook)));
        // Beside it, and then in its place: the old pin may be the only one of a link that lives.
        remove_file(&fresh)?;
        link.pin(&fresh)
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|source| PinError::Pin { path, source })
    }

    /// Pins again what has lost its pin; says whether anything had.
    pub(super) fn mend(&mut self, links: &[(&'static str, CgroupLink)]) -> Result<bool, PinError> {
        make(&self.generation)?;
        self.lock_again()?;
        if !is_bpffs(&self.generation) {
            // The file system that was there is gone.
            let _ = fs::remove_dir(&self.generation).and_then(|()| fs::remove_dir(&self.root));
            return Err(PinError::NotBpffs { path: self.root.clone() });
        }
        let mut mended = false;
        for (name, map) in &self.maps {
            let path = self.map(name);
            if !path.exists() {
                map.pin(&path).map_err(|source| PinError::Pin { path, source })?;
                mended = true;
            }
        }
        for (hook, link) in links {
            if !self.generation.join(link_name(hook)).exists() {
                self.keep_link(hook, link)?;
                mended = true;
            }
        }
        Ok(mended)
    }

    /// Locks the folder that is there now, if it is another than the one that was locked.
    fn lock_again(&mut self) -> Result<(), PinError> {
        let is_same = |lock: &Flock<File>| {
            let ids = lock.metadata().and_then(|locked| Ok((locked.ino(), fs::metadata(&self.root)?.ino())));
            ids.is_ok_and(|(locked, now)| locked == now)
        };
        if self.lock.as_ref().is_some_and(|lock| !is_same(lock)) {
            self.lock = try_lock(&self.root)?;
        }
        Ok(())
    }

    /// The folders of other generations.
    pub(super) fn others(&self) -> Result<Vec<PathBuf>, PinError> {
        let all = generations(&self.root)?;
        Ok(all.into_iter().filter(|folder| *folder != self.generation).collect())
    }

    /// Removes everything, and with it the guard, once nobody holds it any more.
    pub(super) fn remove(&self) -> Result<(), PinError> {
        remove_all(&self.root)
    }
}

/// Removes the folder of a generation: links first, so that no program stays that has lost its maps' names.
pub fn remove_generation(folder: &Path) -> Result<(), PinError> {
    let failed = |source| PinError::List { path: folder.to_owned(), source };
    let mut pins: Vec<PathBuf> = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(failed)?;
    pins.sort_by_key(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LINK)));
    for pin in pins {
        remove_file(&pin)?;
    }
    fs::remove_dir(folder).map_err(|source| PinError::Remove { path: folder.to_owned(), source })
}

/// Removes all that was pinned below `root`. Says whether there was anything.
pub fn remove_all(root: &Path) -> Result<(), PinError> {
    for folder in generations(root)? {
        remove_generation(&folder)?;
    }
    match fs::remove_dir(root) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PinError::Remove { path: root.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Locks the folder of pins; none if an agent has it locked.
pub fn try_lock(root: &Path) -> Result<Option<Flock<File>>, PinError> {
    let failed = |source| PinError::Lock { path: root.to_owned(), source };
    let folder = File::open(root).map_err(failed)?;
    match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(failed(error.into())),
    }
}

const LINK: &str = "link_";

fn link_name(hook: &str) -> String {
    format!("{LINK}{hook}")
}

/// The name of a generation. The ids of endpoints are places in their table: another table is another generation.
fn generation(endpoints: &Endpoints) -> String {
    let mut table = Sha256::new();
    for (id, endpoint) in endpoints.iter() {
        table.update([id]);
        for address in &endpoint.addresses {
            table.update(address.to_string());
            table.update([0]);
        }
    }
    let [a, b, c, d, ..] = <[u8; 32]>::from(table.finalize());
    format!("{GENERATION}{ABI_VERSION}-{:08x}", u32::from_be_bytes([a, b, c, d]))
}

fn generations(root: &Path) -> Result<Vec<PathBuf>, PinError> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries,
    };
    let is_generation =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(GENERATION));
    let paths = entries.and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
    });
    let paths = paths.map_err(|source| PinError::List { path: root.to_owned(), source })?;
    Ok(paths.into_iter().filter(is_generation).collect())
}

fn make(folder: &Path) -> Result<(), PinError> {
    fs::create_dir_all(folder).map_err(|source| PinError::Folder { path: folder.to_owned(), source })
}

fn remove_file(path: &Path) -> Result<(), PinError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PinError::Remove { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_named_for_the_abi_and_the_endpoints() {
        let standard = generation(&Endpoints::with(&[]).expect("no additions"));
        assert!(standard.starts_with(&format!("abi-{ABI_VERSION}-")), "{standard}");
        assert_eq!(standard, generation(&Endpoints::with(&[]).expect("no additions")));
        let more = Endpoints::with(&["vault=10.0.0.1".to_owned()]).expect("a good endpoint");
        assert_ne!(standard, generation(&more));
    }

    #[test]
    fn a_folder_that_is_no_bpffs_is_refused_and_left_as_it_was() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().join("imds-guard");
        let endpoints = Endpoints::with(&[]).expect("no additions");
        let error = Pins::open(&root, &endpoints).expect_err("no bpffs").to_string();
        assert!(error.contains("mount -t bpf"), "{error}");
        assert!(!root.exists());
    }
}
