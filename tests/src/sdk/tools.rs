use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::parts::{COMPLETE, Parts};
use crate::binary::binary;

/// Where the programs of the SDKs are.
#[derive(Clone, Debug)]
pub struct Tools {
    pub(super) python: PathBuf,
    pub(super) aws_cli: PathBuf,
    pub(super) node: PathBuf,
    /// Where Node.js finds the modules of the SDK for JavaScript.
    pub(super) node_modules: PathBuf,
    pub(super) go_client: PathBuf,
    pub(super) rust_client: PathBuf,
}

impl Tools {
    /// Finds what `cargo xtask setup` has made, and the client in Rust beside the running executable.
    pub fn find() -> Result<Self> {
        let Parts { python, javascript, go } = Parts::in_cache(&cache()?);
        for folder in [&python, &javascript, &go] {
            ensure!(
                folder.join(COMPLETE).is_file(),
                "the AWS SDKs are not there ({} is missing): run `cargo xtask setup`",
                folder.display()
            );
        }
        Ok(Self {
            aws_cli: python.join("bin/aws"),
            node: javascript.join("node"),
            python: python.join("bin/python3"),
            node_modules: javascript.join("node_modules"),
            go_client: go.join("client"),
            rust_client: binary("aws-client")?,
        })
    }
}

/// A program of ours that uses an SDK.
pub(super) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk").join(name)
}

/// Must say the same as `cache()` in xtask/src/setup.rs.
fn cache() -> Result<PathBuf> {
    let from = |name: &str| env::var_os(name).map(PathBuf::from);
    from("IMDS_GUARD_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|folder| folder.join("imds-guard")))
        .or_else(|| from("HOME").map(|home| home.join(".cache/imds-guard")))
        .context("neither IMDS_GUARD_CACHE, XDG_CACHE_HOME nor HOME is set")
}
