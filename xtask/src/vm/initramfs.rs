//! What a machine's memory holds when it starts: an archive of files in the kernel's own format (cpio, "newc").
//!
//! Plain data in, bytes out; only [`Archive::add_tree`] reads the disk. The kernel takes several archives in a row as one.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
};

use anyhow::{Context, Result};

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive that is being filled. Paths are relative to the root.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<Vec<u8>>,
}

impl Archive {
    /// A folder, and those above it.
    pub(super) fn add_folder(&mut self, path: &Path) {
        let above: Vec<&Path> = path.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
        for folder in above.into_iter().rev() {
            if self.folders.insert(folder.as_os_str().as_bytes().to_vec()) {
                self.append(folder.as_os_str(), FOLDER | 0o755, &[]);
            }
        }
    }

    /// A file and the folders above it.
    pub(super) fn add_file(&mut self, path: &Path, permissions: u32, content: &[u8]) {
        self.add_folder(path.parent().unwrap_or(Path::new("")));
        self.append(path.as_os_str(), FILE | permissions & 0o7777, content);
    }

    /// A symbolic link and the folders above it.
    pub(super) fn add_link(&mut self, path: &Path, target: &Path) {
        self.add_folder(path.parent().unwrap_or(Path::new("")));
        self.append(path.as_os_str(), LINK | 0o777, target.as_os_str().as_bytes());
    }

    /// Everything in a folder of this machine, but what `skip` (a path relative to the folder) holds for.
    pub(super) fn add_tree(&mut self, folder: &Path, skip: impl Fn(&Path) -> bool + Copy) -> Result<()> {
        self.add_below(folder, Path::new(""), skip)
    }

    fn add_below(&mut self, root: &Path, relative: &Path, skip: impl Fn(&Path) -> bool + Copy) -> Result<()> {
        let folder = root.join(relative);
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let entry = entry?;
            let (path, name) = (entry.path(), relative.join(entry.file_name()));
            let kind = entry.file_type()?;
            if skip(&name) {
            } else if kind.is_dir() {
                self.add_folder(&name);
                self.add_below(root, &name, skip)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).with_context(|| format!("read {}", path.display()))?;
                self.add_link(&name, &target);
            } else {
                let content = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                self.add_file(&name, entry.metadata()?.permissions().mode(), &content);
            }
        }
        Ok(())
    }

    /// The archive, closed.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        self.append(OsStr::new("TRAILER!!!"), 0, &[]);
        self.bytes
    }

    fn append(&mut self, name: &OsStr, mode: u32, content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("no file in an archive has 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a path is shorter");
        // inode, mode, uid, gid, links, time, size, device (2), device of a device node (2), length of the name, sum
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_every_folder_once_and_each_entry_on_a_boundary_of_four() {
        let mut archive = Archive::default();
        archive.add_file(Path::new("a/b/c"), 0o755, b"12345");
        archive.add_link(Path::new("a/l"), Path::new("b"));
        let bytes = archive.into_bytes();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 5, "a, a/b, a/b/c, a/l and the end");
        assert_eq!(bytes.len() % 4, 0);
        let content = text.find("12345").expect("the file's content");
        assert_eq!(content % 4, 0);
        assert!(text.contains("000081ed"), "the mode of a program");
    }
}
