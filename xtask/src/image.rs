//! The root file system of the agent's container image: one static binary.

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    run::{cargo_path, run, target},
    setup::output,
};

/// Where the binary lies in the image.
const BINARY: &str = "usr/local/bin/imds-guard";

/// Builds the agent and lays out the image in `folder`.
pub(crate) fn lay_out(folder: &Path) -> Result<()> {
    let agent = static_agent()?;
    let binary = folder.join(BINARY);
    let parent = binary.parent().expect("the binary lies in a folder");
    fs::create_dir_all(parent).with_context(|| format!("make the folder {}", parent.display()))?;
    let copied = fs::copy(&agent, &binary);
    let size = copied.with_context(|| format!("copy {} to {}", agent.display(), binary.display()))?;
    println!("image  {} ({:.1} MiB)", binary.display(), f64::from(u32::try_from(size)?) / f64::from(1 << 20));
    Ok(())
}

/// The agent as a release, linked with nothing that the image would have to have.
fn static_agent() -> Result<PathBuf> {
    let triple = host_triple()?;
    // A target of its own keeps the flags from build scripts, and the result apart from other builds'.
    // A terminal shows how far the minutes of the first build have got.
    let quiet = (!io::stderr().is_terminal()).then_some("--quiet");
    run(Command::new(cargo_path())
        .args(["build", "--release", "--package", "imds-guard", "--bin", "imds-guard"])
        .args(["--target", &triple])
        .args(quiet)
        .env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    Ok(target().join(triple).join("release/imds-guard"))
}

fn host_triple() -> Result<String> {
    let version = output(Command::new("rustc").arg("-vV")).context("rustc does not start")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not tell its host")?.to_owned())
}
