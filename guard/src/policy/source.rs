//! Reads a policy's files, as they are, and nothing more. This is the only place where the policy touches a disk.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The most that one file may hold: far more than a `ConfigMap` can carry.
const MAX_BYTES: u64 = 1 << 20;

/// One file of a policy, as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its path, as the user would write it: problems are reported under this name.
    pub name: String,
    pub text: String,
}

/// Why the files of a policy can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("list policy folder {}", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("read policy file {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("policy folder {} has no *.yaml or *.yml file: put one there, or name a file instead", .0.display())]
    NoFile(PathBuf),
    #[error("policy file {} is not a regular file", .0.display())]
    Kind(PathBuf),
    #[error("policy file {} is larger than 1 MiB: split it into several files of one folder", .0.display())]
    Size(PathBuf),
    #[error("policy file {} is not UTF-8 text: save it as UTF-8", .0.display())]
    Encoding(PathBuf),
}

/// Reads the file at `path`; or, of the folder there, every `*.yaml` and `*.yml` directly in it, in name order.
/// Names that start with a dot are skipped: a `ConfigMap` volume keeps its own folders under such names.
pub fn read(path: &Path) -> Result<Vec<SourceFile>, ReadError> {
    let metadata = fs::metadata(path).map_err(|source| ReadError::Read { path: path.to_owned(), source })?;
    if metadata.is_dir() { read_folder(path) } else { Ok(vec![read_file(path, path)?]) }
}

fn read_folder(path: &Path) -> Result<Vec<SourceFile>, ReadError> {
    let list = |source| ReadError::List { path: path.to_owned(), source };
    let generation = generation(path).map_err(list)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&generation).map_err(list)? {
        let name = PathBuf::from(entry.map_err(list)?.file_name());
        if is_policy_name(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Err(ReadError::NoFile(path.to_owned()));
    }
    names.sort();
    names.iter().map(|name| read_file(&generation.join(name), &path.join(name))).collect()
}

/// The folder that holds the files themselves. The kubelet updates a `ConfigMap` volume by moving its link `..data` to
/// another folder; following that link once makes sure that all files are of the same update.
fn generation(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path.join("..data")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        resolved => resolved,
    }
}

/// Whether a policy is read from a file of this name.
pub fn is_policy_name(name: &Path) -> bool {
    let hidden = name.as_os_str().as_encoded_bytes().starts_with(b".");
    !hidden && name.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn read_file(path: &Path, shown: &Path) -> Result<SourceFile, ReadError> {
    let read = |source| ReadError::Read { path: shown.to_owned(), source };
    // Asked before it is opened: to open a named pipe is to wait for its writer.
    if !fs::metadata(path).map_err(read)?.is_file() {
        return Err(ReadError::Kind(shown.to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(read)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ReadError::Size(shown.to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|_| ReadError::Encoding(shown.to_owned()))?;
    Ok(SourceFile { name: shown.display().to_string(), text })
}
