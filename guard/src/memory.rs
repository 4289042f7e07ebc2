//! What the agent remembers on disk from one start to the next: the last pods that it knew, the last policy that it
//! accepted, what it had counted, and to whom credentials were issued. Each is one file, replaced whole; without a folder to write to the agent starts from nothing.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    account::Checkpoint,
    issued::Issued,
    pods::{KnownPod, Pod},
    policy::SourceFile,
};

const PODS: &str = "pods.json";
const POLICY: &str = "policy.json";
const ACCOUNT: &str = "account.json";
const ROOT: &str = "root.json";
const ISSUED: &str = "issued.json";

/// The folder of what is remembered.
#[derive(Clone, Debug)]
pub struct Memory {
    folder: PathBuf,
}

/// A policy that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedPolicy {
    pub files: Vec<SourceFile>,
    /// The digest of the mounted files at that time: where they are still the same, this policy is not older than they.
    pub mounted: Option<String>,
}

/// A pod that was known, and where its cgroup was, relative to the guarded root.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RememberedPod {
    #[serde(flatten)]
    pub pod: Pod,
    #[serde(default)]
    pub folder: Option<PathBuf>,
}

/// The same, to be written.
#[derive(Serialize)]
struct Saved<'a> {
    #[serde(flatten)]
    pod: &'a Pod,
    folder: Option<&'a Path>,
}

/// Whether a node that loses power must find the old file or the new one, never an empty one. That takes as long as the
/// disk does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Durable {
    Yes,
    No,
}

/// Why something could not be remembered, or recalled.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error("make the state folder {path}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("remove {path}")]
    Remove { path: PathBuf, source: io::Error },
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not what this version writes: it is passed over")]
    Parse { path: PathBuf, source: serde_json::Error },
}

/// Removes what was remembered in a folder, and the folder if nothing else is in it.
pub fn forget(folder: &Path) -> Result<(), MemoryError> {
    let files = [PODS, POLICY, ACCOUNT, ISSUED, ROOT].map(|name| folder.join(name));
    for path in files.iter().flat_map(|path| [path.clone(), path.with_extension("new")]) {
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(MemoryError::Remove { path, source });
            }
            _ => {}
        }
    }
    // Whatever else is there is not ours.
    let _ = fs::remove_dir(folder);
    Ok(())
}

impl Memory {
    /// Opens the folder, and makes it for root alone if it is not there.
    pub fn open(folder: &Path) -> Result<Self, MemoryError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| MemoryError::Folder { path: folder.to_owned(), source })?;
        Ok(Self { folder: folder.to_owned() })
    }

    pub fn save_pods(&self, pods: &[KnownPod]) -> Result<(), MemoryError> {
        let pods: Vec<_> =
            pods.iter().map(|(pod, folder)| Saved { pod, folder: folder.as_deref() }).collect();
        self.save(PODS, &pods, Durable::No)
    }

    /// The last pods, or none if nothing was ever remembered.
    pub fn pods(&self) -> Result<Option<Vec<RememberedPod>>, MemoryError> {
        self.recall(PODS)
    }

    pub fn save_policy(&self, policy: &RememberedPolicy) -> Result<(), MemoryError> {
        self.save(POLICY, policy, Durable::Yes)
    }

    /// The last policy that was accepted.
    pub fn policy(&self) -> Result<Option<RememberedPolicy>, MemoryError> {
        self.recall(POLICY)
    }

    /// Where the pods of this node live, relative to the cgroup mount.
    pub fn save_root(&self, root: &Path) -> Result<(), MemoryError> {
        self.save(ROOT, root, Durable::Yes)
    }

    /// Where they lived last.
    pub fn root(&self) -> Result<Option<PathBuf>, MemoryError> {
        self.recall(ROOT)
    }

    pub fn save_account(&self, account: &Checkpoint) -> Result<(), MemoryError> {
        self.save(ACCOUNT, account, Durable::No)
    }

    /// What had been counted.
    pub fn account(&self) -> Result<Option<Checkpoint>, MemoryError> {
        self.recall(ACCOUNT)
    }

    pub fn save_issued(&self, issued: &Issued) -> Result<(), MemoryError> {
        self.save(ISSUED, issued, Durable::No)
    }

    /// Who was seen to be given credentials.
    pub fn issued(&self) -> Result<Option<Issued>, MemoryError> {
        self.recall(ISSUED)
    }

    fn save(
        &self,
        name: &str,
        content: &(impl Serialize + ?Sized),
        durable: Durable,
    ) -> Result<(), MemoryError> {
        let path = self.folder.join(name);
        let fresh = path.with_extension("new");
        let text = serde_json::to_vec(content).expect("plain data");
        let replace = || {
            let mut file = fs::OpenOptions::new();
            let mut file = file.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            io::Write::write_all(&mut file, &text)?;
            if durable == Durable::Yes {
                file.sync_data()?;
            }
            fs::rename(&fresh, &path)
        };
        replace().map_err(|source| MemoryError::Write { path: path.clone(), source })
    }

    fn recall<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, MemoryError> {
        let path = self.folder.join(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(MemoryError::Read { path, source }),
        };
        serde_json::from_slice(&text).map(Some).map_err(|source| MemoryError::Parse { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_last_is_recalled() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let memory = Memory::open(&folder.path().join("state")).expect("a folder");
        assert_eq!(memory.policy().expect("nothing yet"), None);
        let policy = |text: &str| RememberedPolicy {
            files: vec![SourceFile { name: "10-a.yaml".to_owned(), text: text.to_owned() }],
            mounted: None,
        };
        memory.save_policy(&policy("version: 1")).expect("saved");
        memory.save_policy(&policy("version: 1\n")).expect("saved");
        assert_eq!(memory.policy().expect("readable"), Some(policy("version: 1\n")));
        assert_eq!(memory.pods().expect("nothing yet"), None);
    }

    #[test]
    fn a_broken_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let memory = Memory::open(folder.path()).expect("a folder");
        fs::write(folder.path().join(PODS), "{").expect("writable");
        let error = memory.pods().expect_err("no pods").to_string();
        assert!(error.contains("pods.json"), "{error}");
    }
}
