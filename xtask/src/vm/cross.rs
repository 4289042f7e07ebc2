//! Building for another architecture: a standard library for it, a linker, and cargo told of both.
//!
//! What is there comes first: the toolchain's own library for the target, or one that rustup gets. Else it is Debian's
//! compiler and the library from Debian's package for that architecture, unpacked into the cache.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{apt::Suite, arch::Arch};
use crate::{
    run::cargo_command,
    setup::{cache, output, sysroot},
};

/// A command of cargo that builds for `arch`.
pub(super) fn cargo(command: &str, arch: Arch) -> Result<Command> {
    let variable =
        |what: &str| format!("CARGO_TARGET_{}_{what}", arch.target().to_uppercase().replace('-', "_"));
    let mut cargo = cargo_command();
    if !has_target(&sysroot(Path::new("rustc")).unwrap_or_default(), arch) && !rustup_adds(arch) {
        let (rustc, library) = debian(arch)?;
        cargo.env("RUSTC", &rustc).env(variable("RUSTFLAGS"), format!("--sysroot={}", library.display()));
    }
    cargo.arg(command).args(["--target", arch.target()]);
    cargo.env(variable("LINKER"), format!("{}-gcc", arch.tools()));
    Ok(cargo)
}

fn has_target(sysroot: &Path, arch: Arch) -> bool {
    sysroot.join("lib/rustlib").join(arch.target()).join("lib").is_dir()
}

/// Whether rustup has got the target.
fn rustup_adds(arch: Arch) -> bool {
    output(Command::new("rustup").args(["target", "add", arch.target()])).is_some()
        && has_target(&sysroot(Path::new("rustc")).unwrap_or_default(), arch)
}

/// Debian's compiler, and a folder with its library for `arch`.
fn debian(arch: Arch) -> Result<(PathBuf, PathBuf)> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    let version =
        output(Command::new(&rustc).arg("--version")).context("Debian's compiler is not installed")?;
    let version = version.split(' ').nth(1).unwrap_or_default().to_owned();
    let folder = cache()?.join(format!("vm/rust-{version}-{}", arch.debian()));
    let library = folder.join("usr");
    if !has_target(&library, arch) {
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let codename = codename.context("/etc/os-release names no release of Debian")?;
        // The newer first, which is the one that is installed here.
        for suite in [format!("{codename}-security"), codename.to_owned()] {
            let suite = Suite::open(&suite, arch.debian())?;
            let named = suite.names("^libstd-rust-web-dev$")?;
            if !named.is_empty() {
                suite.unpack(&named, &folder)?;
                break;
            }
        }
        ensure!(has_target(&library, arch), "Debian has no library of Rust {version} for {}", arch.debian());
    }
    Ok((rustc, library))
}
