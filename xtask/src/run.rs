//! Running cargo, and what it built.

use std::{
    env,
    ffi::OsStr,
    io::{self, BufRead as _, BufReader, IsTerminal as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// The kernel lets only root load programs, make namespaces and cgroups.
pub(crate) fn need_root(chore: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "this runs real programs in the kernel, in namespaces and cgroups of its own, and needs root:\n\n    \
         sudo -E env \"PATH=$PATH\" cargo xtask {chore}"
    )
}

pub(crate) fn demo(go_client: &Path) -> Result<()> {
    println!("build  the agent, the demo and a client (release; the first time takes some minutes)");
    let built = Built::release(&["imds-guard", "guard-tests", "aws-client"])?;
    let mut demo = Command::new(built.program("guard-demo"));
    for (variable, program) in [("IMDS_GUARD_BIN", "imds-guard"), ("AWS_CLIENT_BIN", "aws-client")] {
        demo.env(variable, built.program(program));
    }
    demo.env("AWS_CLIENT_GO_BIN", go_client);
    // It takes this process's place: an interrupt then ends it alone, and the shell waits for it to clean up.
    Err(demo.exec()).with_context(|| format!("start {}", shown(&demo)))
}

pub(crate) fn test(filter: Option<&str>) -> Result<()> {
    // The cluster's tests need a cluster: `cargo xtask cluster test` runs them.
    let packages = ["--workspace", "--exclude", "guard-ebpf", "--exclude", "guard-cluster"];
    let next_abi = next_abi(&packages)?;
    cargo(["build", "--bins"].into_iter().chain(packages))?;
    let mut test = cargo_command();
    // No documentation has code to run.
    test.args(["test", "--no-fail-fast", "--lib", "--bins", "--tests"]).args(packages).args(filter);
    test.env("IMDS_GUARD_BIN", target().join("debug/imds-guard"));
    test.env("IMDS_GUARD_NEXT_ABI_BIN", next_abi);
    run_tests(&mut test)
}

/// Builds the agent with another version of the kernel's ABI, for the tests of upgrades, and keeps it beside the others.
fn next_abi(packages: &[&str]) -> Result<PathBuf> {
    let build = ["build", "--bins", "--features", "imds-guard/next-abi"];
    cargo(build.into_iter().chain(packages.iter().copied()))?;
    let kept = target().join("debug/imds-guard-next-abi");
    std::fs::copy(target().join("debug/imds-guard"), &kept)
        .with_context(|| format!("keep {}", kept.display()))?;
    Ok(kept)
}

/// Runs `cargo test` and closes with one line for all its test programs.
pub(crate) fn run_tests(test: &mut Command) -> Result<()> {
    let shown = shown(test);
    let mut child = test
        .current_dir(workspace())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {shown}"))?;
    let (mut passed, mut failed) = (0, 0);
    for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
        let line = line.context("read what the tests print")?;
        println!("{line}");
        if let Some(result) = line.strip_prefix("test result: ") {
            passed += counted(result, "passed");
            failed += counted(result, "failed");
        }
    }
    let status = child.wait()?;
    println!("{passed} passed, {failed} failed");
    if !status.success() {
        bail!("{shown} failed ({status})");
    }
    Ok(())
}

/// The number before `what` in `ok. 3 passed; 0 failed; …`.
pub(crate) fn counted(result: &str, what: &str) -> u64 {
    let words: Vec<&str> = result.split([' ', ';']).collect();
    let place = words.iter().position(|word| *word == what);
    place.and_then(|place| words.get(place.checked_sub(1)?)?.parse().ok()).unwrap_or(0)
}

pub(crate) fn bench(what: &str) -> Result<()> {
    let built = Built::release(&["imds-guard", "guard-tests", "aws-client"])?;
    run(Command::new(built.program("guard-bench"))
        .arg(what)
        .env("IMDS_GUARD_BIN", built.program("imds-guard")))
}

pub(crate) fn lint() -> Result<()> {
    cargo(["fmt", "--all", "--check"])?;
    let mut clippy = cargo_command();
    clippy.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    // The kernel programs are built by the agent's build script.
    run(clippy.env("IMDS_GUARD_DENY_WARNINGS", "1"))
}

/// The programs of a release build.
struct Built(PathBuf);

impl Built {
    fn release(packages: &[&str]) -> Result<Self> {
        let packages = packages.iter().flat_map(|package| ["--package", package]);
        // A terminal shows how far the minutes of the first build have got.
        let quiet = (!io::stderr().is_terminal()).then_some("--quiet");
        cargo(["build", "--release", "--bins"].into_iter().chain(quiet).chain(packages))?;
        Ok(Self(target().join("release")))
    }

    fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

pub(crate) fn cargo<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Result<()> {
    run(cargo_command().args(args))
}

/// Runs a command in the workspace's folder, to its good end.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command.current_dir(workspace()).status().with_context(|| format!("start {shown}"))?;
    if !status.success() {
        bail!("{shown} failed ({status})");
    }
    Ok(())
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// A command of the cargo that runs this, without what that says of xtask itself: the build of `ring` looks at it, and
/// would begin anew each time that it differs from a plain `cargo build`'s.
pub(crate) fn cargo_command() -> Command {
    let mut cargo = Command::new(cargo_path());
    for (name, _) in env::vars_os() {
        let named = name.to_string_lossy();
        if named.starts_with("CARGO_PKG_") || named.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// The cargo that runs this.
pub(crate) fn cargo_path() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}
