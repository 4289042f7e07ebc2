//! Where the SDKs lie in the cache: each in a folder named after what it is made from, so that checkouts that differ
//! keep out of each other's way.
//!
//! `cargo xtask setup` makes the folders, and has this file too.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

/// A file that is written into a folder when all the others are there.
pub(crate) const COMPLETE: &str = "complete";

/// The folders.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// A Python environment with boto3 and the AWS CLI, and with Node.js and npm.
    pub(crate) python: PathBuf,
    /// Node.js' modules of the SDK for JavaScript.
    pub(crate) javascript: PathBuf,
    /// The program made of the SDK for Go.
    pub(crate) go: PathBuf,
}

impl Parts {
    pub(crate) fn in_cache(cache: &Path) -> Self {
        let folder = |name: &str, made_from: &str| {
            let mut hasher = DefaultHasher::new();
            made_from.hash(&mut hasher);
            cache.join(format!("sdk-{name}-{:016x}", hasher.finish()))
        };
        Self {
            python: folder("python", include_str!("../../sdk/python/requirements.txt")),
            javascript: folder("js", include_str!("../../sdk/js/package-lock.json")),
            go: folder("go", include_str!("../../sdk/go/main.go")),
        }
    }
}
