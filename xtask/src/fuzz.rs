//! Feeds made-up requests to the agent's reading of paths, and looks for one that it reads in another way than the
//! metadata service. `fuzz/property.rs` says what must hold.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    run::{cargo_path, run, target, workspace},
    setup::{apt_install, cache, on_path, output, quietly, step},
};

/// The version that is installed when none is there.
const CARGO_FUZZ: &str = "0.13.2";

/// The longest target that is tried, in bytes: a little more than the longest that is read.
const MAX_LENGTH: u32 = 1_100;

pub(crate) fn fuzz(seconds: u32) -> Result<()> {
    // libFuzzer itself is built from its source, in C++.
    if on_path("c++").is_none() {
        apt_install(&["g++"], "a C++ compiler, for libFuzzer")?;
    }
    let cargo_fuzz = cargo_fuzz()?;
    step("cargo-fuzz", &cargo_fuzz.display().to_string());
    let build = target().join("fuzz");
    // What is found to be worth keeping stays beside the build; the seeds are in the repository.
    let corpus = build.join("corpus");
    fs::create_dir_all(&corpus).with_context(|| format!("make {}", corpus.display()))?;
    let folder = workspace().join("fuzz");
    println!("fuzz   the paths of requests, for {seconds} s (the first build takes some minutes)");
    // The agent has no unsafe code there, so there is nothing for a sanitizer, and a stable compiler does.
    run(Command::new(cargo_fuzz)
        .args(["run", "--sanitizer", "none", "--target-dir"])
        .arg(&build)
        .arg("path")
        .arg(corpus)
        .arg(folder.join("seeds"))
        .arg("--")
        .arg(format!("-dict={}", folder.join("path.dict").display()))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_LENGTH}"))
        .args(["-print_final_stats=1", "-verbosity=0"])
        .env("CARGO", cargo_path())
        .env_remove("CARGO_TARGET_DIR"))?;
    println!("fuzz   no path was read in two ways");
    Ok(())
}

/// cargo-fuzz in the cache, built if it is not there.
fn cargo_fuzz() -> Result<PathBuf> {
    let root = cache()?.join(format!("cargo-fuzz-{CARGO_FUZZ}"));
    let program = root.join("bin/cargo-fuzz");
    if output(Command::new(&program).arg("--version")).is_none() {
        let mut install = Command::new(cargo_path());
        install
            .args(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked", "--force", "--root"])
            .arg(&root)
            .env_remove("CARGO_TARGET_DIR");
        quietly("building cargo-fuzz (about a minute, once)", &mut install)?;
    }
    Ok(program)
}
