use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The one file in the folder.
const FILE: &str = "policy.yaml";
/// The name through which the kubelet swaps all files of a volume at once.
const CURRENT: &str = "..data";

/// A folder that changes as the volume of a `ConfigMap` does: `policy.yaml` points into `..data`, which points to the
/// newest version, and one rename swaps it.
#[derive(Debug)]
pub(super) struct PolicyFolder {
    path: PathBuf,
    version: u32,
}

impl PolicyFolder {
    pub(super) fn create(path: PathBuf, policy: &str) -> Result<Self> {
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        let mut folder = Self { path, version: 0 };
        folder.publish(policy)?;
        symlink(Path::new(CURRENT).join(FILE), folder.path.join(FILE)).context("link the policy")?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn publish(&mut self, policy: &str) -> Result<()> {
        let previous = self.version_name();
        self.version += 1;
        let version = self.version_name();
        self.swap_to(&version, policy)
            .with_context(|| format!("publish the policy in {}", self.path.display()))?;
        match fs::remove_dir_all(self.path.join(previous)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context("remove the old policy")
            }
            _ => Ok(()),
        }
    }

    fn swap_to(&self, version: &str, policy: &str) -> io::Result<()> {
        fs::create_dir(self.path.join(version))?;
        fs::write(self.path.join(version).join(FILE), policy)?;
        let fresh = self.path.join("..data_tmp");
        symlink(version, &fresh)?;
        fs::rename(fresh, self.path.join(CURRENT))
    }

    fn version_name(&self) -> String {
        format!("..version_{}", self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_finds_the_newest_version() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let mut folder = PolicyFolder::create(scratch.path().join("policy"), "one").expect("create");
        for policy in ["two", "three"] {
            folder.publish(policy).expect("publish");
            assert_eq!(fs::read_to_string(folder.path().join(FILE)).expect("read"), policy);
        }
        let names = fs::read_dir(folder.path()).expect("list").count();
        assert_eq!(names, 3, "the link, ..data and one version");
    }
}
