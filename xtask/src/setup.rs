//! Finds or installs what building and testing need, and writes down which compiler builds the kernel programs.
//!
//! What is there comes first: a rustup nightly with the standard library's source and a bpf-linker. Else it is Debian's
//! packages (a compiler with a ready `core` for BPF, and its LLVM) and a bpf-linker built with that LLVM into the cache.

pub(crate) mod sdk;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::run::{cargo_path, shown};

/// The version of the linker that is built when none is there.
const BPF_LINKER: &str = "0.13.0";

/// Debian's compiler with a ready `core` for BPF, and cargo beside it. (The plain `rustc` package has no BPF.)
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// The programs that the tests and the demo use, and Debian's packages that have them.
const TOOLS: [(&str, &str, &str); 3] = [
    ("ip", "iproute2", "makes the private nodes' networks"),
    ("curl", "curl", "is a real client of the metadata service"),
    ("nft", "nftables", "puts the rules of others beside the guard's"),
];

/// What the bench of the gate uses besides. (Where Debian starts a fresh nginx as a service, the bench does not use that
/// one: it has its own, in its own network.)
const LOAD_TOOLS: [(&str, &str, &str); 2] = [
    ("wrk", "wrk", "asks as fast as it is answered"),
    ("nginx", "nginx", "is what the gate is compared with"),
];

/// What the virtual machines need.
const VIRTUAL_MACHINE_TOOLS: [(&str, &str, &str); 4] = [
    ("qemu-system-x86_64", "qemu-system-x86", "plays a node"),
    ("qemu-system-aarch64", "qemu-system-arm", "plays a node of the other architecture"),
    ("depmod", "kmod", "finds the kernels' modules"),
    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu", "links programs for the other architecture"),
];

/// What builds the kernel programs. guard/build.rs reads it from the cache.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    linker: PathBuf,
    /// Whether `core` is built from its source.
    build_core: bool,
    /// Whose it is, for people.
    origin: &'static str,
}

pub(crate) fn run() -> Result<()> {
    let started = Instant::now();
    compiler()?;
    tools(&TOOLS)?;
    clock()?;
    step("ready", &format!("in {:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

/// The library by which a test shows the agent another time.
fn clock() -> Result<()> {
    let is_there = |folder: io::Result<fs::DirEntry>| {
        folder.is_ok_and(|folder| folder.path().join("faketime/libfaketime.so.1").exists())
    };
    if !fs::read_dir("/usr/lib").is_ok_and(|mut folders| folders.any(is_there)) {
        apt_install(&["libfaketime"], "libfaketime, which shows the agent another time")?;
    }
    Ok(())
}

/// What builds the agent, whether it runs on this machine or not.
pub(crate) fn compiler() -> Result<()> {
    let toolchain = toolchain()?;
    toolchain.write_down()?;
    step("kernel compiler", &format!("{} ({})", toolchain.rustc.display(), toolchain.origin));
    step("kernel linker", &toolchain.linker.display().to_string());
    Ok(())
}

pub(crate) fn step(what: &str, found: &str) {
    println!("setup  {what:16} {found}");
}

/// The first toolchain that is whole, or Debian's, installed.
fn toolchain() -> Result<Toolchain> {
    if let Some(toolchain) = rustup_nightly() {
        return Ok(toolchain);
    }
    let rustc = match debian_compiler() {
        Some(rustc) => rustc,
        None => install_debian_compiler()?,
    };
    let linker = debian_linker(&rustc)?;
    Ok(Toolchain { cargo: "/usr/bin/cargo".into(), rustc, linker, build_core: false, origin: "Debian's" })
}

/// A rustup nightly with the standard library's source, and a bpf-linker on the PATH.
fn rustup_nightly() -> Option<Toolchain> {
    let which = |program| {
        let path = output(Command::new("rustup").args(["which", "--toolchain", "nightly", program]))?;
        Some(PathBuf::from(path))
    };
    let (cargo, rustc) = (which("cargo")?, which("rustc")?);
    let source = sysroot(&rustc)?.join("lib/rustlib/src/rust/library/core");
    let linker = on_path("bpf-linker")?;
    source.is_dir().then_some(Toolchain {
        cargo,
        rustc,
        linker,
        build_core: true,
        origin: "rustup's nightly",
    })
}

/// A compiler outside rustup that has `core` for BPF.
fn debian_compiler() -> Option<PathBuf> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    let core = sysroot(&rustc)?.join("lib/rustlib/bpfel-unknown-none/lib");
    (core.is_dir() && Path::new("/usr/bin/cargo").is_file()).then_some(rustc)
}

fn install_debian_compiler() -> Result<PathBuf> {
    apt_install(&DEBIAN_COMPILER, "a compiler for the kernel programs").context(
        "without Debian's packages, a nightly and a linker do it: \
         rustup toolchain install nightly --component rust-src && cargo install bpf-linker",
    )?;
    debian_compiler().context("Debian's compiler is installed, but /usr/bin/rustc has no `core` for BPF")
}

/// A bpf-linker with the compiler's own LLVM: it must read the bitcode that the compiler writes.
fn debian_linker(rustc: &Path) -> Result<PathBuf> {
    let llvm = llvm_major(rustc)?;
    let root = cache()?.join(format!("bpf-linker-{BPF_LINKER}-llvm-{llvm}"));
    let linker = root.join("bin/bpf-linker");
    // It is linked with LLVM's library: that it is there does not say that it starts.
    if output(Command::new(&linker).arg("--version")).is_some() {
        return Ok(linker);
    }
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    // The package without headers has llvm-config too, and nothing to link with.
    if !prefix.join("include/llvm").is_dir() {
        apt_install(&[&format!("llvm-{llvm}-dev")], "LLVM, for the kernel programs' linker")?;
    }
    let mut install = Command::new(cargo_path());
    install
        .args([
            "install",
            "bpf-linker",
            "--version",
            BPF_LINKER,
            "--locked",
            "--force",
            "--no-default-features",
        ])
        .args(["--features", &format!("llvm-{llvm}"), "--root"])
        .arg(&root)
        .env("LLVM_PREFIX", prefix)
        .env_remove("CARGO_TARGET_DIR");
    quietly("building bpf-linker (about a minute, once)", &mut install)?;
    Ok(linker)
}

fn llvm_major(rustc: &Path) -> Result<String> {
    let version = output(Command::new(rustc).arg("-vV"))
        .with_context(|| format!("{} does not start", rustc.display()))?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let major = llvm.and_then(|llvm| llvm.split('.').next());
    Ok(major.with_context(|| format!("{} does not tell its LLVM version", rustc.display()))?.to_owned())
}

/// What `bench gate` needs besides.
pub(crate) fn load_tools() -> Result<()> {
    tools(&LOAD_TOOLS)
}

/// What `cargo xtask vm` needs besides.
pub(crate) fn virtual_machines() -> Result<()> {
    tools(&VIRTUAL_MACHINE_TOOLS)?;
    // gcc comes without it.
    if !Path::new("/usr/aarch64-linux-gnu/include/stdio.h").exists() {
        apt_install(&["libc6-dev-arm64-cross"], "the other architecture's C library")?;
    }
    Ok(())
}

/// Installs the tools that are not on the PATH.
fn tools(tools: &[(&str, &str, &str)]) -> Result<()> {
    for &(tool, package, why) in tools {
        if on_path(tool).is_none() {
            apt_install(&[package], &format!("`{tool}`, which {why}"))?;
        }
        step(tool, why);
    }
    Ok(())
}

pub(crate) fn apt_install(packages: &[&str], why: &str) -> Result<()> {
    let names = packages.join(" ");
    if on_path("apt-get").is_none() {
        bail!("{why} is needed, and this is no Debian: install what its packages {names} have");
    }
    let root = nix::unistd::geteuid().is_root();
    if !root && on_path("sudo").is_none() {
        bail!(
            "{why} is needed. As root, run: apt-get update && apt-get install --no-install-recommends {names}"
        );
    }
    let apt = |args: &[&str]| {
        let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
        if !root {
            command.arg("apt-get");
        }
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    quietly("reading Debian's package lists", &mut apt(&["update"]))?;
    let mut args = vec!["install", "--yes", "--no-install-recommends"];
    args.extend(packages);
    quietly(&format!("installing {names}: {why}"), &mut apt(&args))
}

/// Runs a long command behind a progress line; what it printed is shown only if it fails.
pub(crate) fn quietly(what: &str, command: &mut Command) -> Result<()> {
    let bar = ProgressBar::new_spinner().with_message(what.to_owned()).with_style(
        ProgressStyle::with_template("setup  {spinner} {msg} ({elapsed})").expect("a valid template"),
    );
    bar.enable_steady_tick(Duration::from_millis(100));
    if bar.is_hidden() {
        println!("setup  {what}");
    }
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("start {}", shown(command)))?;
    bar.finish_and_clear();
    if !output.status.success() {
        bail!(
            "{} failed ({}):\n{}{}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

impl Toolchain {
    /// Writes it down for guard/build.rs, which is run again only when something changed.
    fn write_down(&self) -> Result<()> {
        let text = format!(
            "cargo={}\nrustc={}\nlinker={}\nbuild-core={}\n",
            self.cargo.display(),
            self.rustc.display(),
            self.linker.display(),
            if self.build_core { "yes" } else { "no" }
        );
        let path = cache()?.join("ebpf-toolchain");
        if fs::read_to_string(&path).is_ok_and(|known| known == text) {
            return Ok(());
        }
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

/// Where things are kept that only cost time to make again. Must say the same as `cache()` in guard/build.rs.
pub(crate) fn cache() -> Result<PathBuf> {
    let from = |name: &str| env::var_os(name).map(PathBuf::from);
    let cache = from("IMDS_GUARD_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|folder| folder.join("imds-guard")))
        .or_else(|| from("HOME").map(|home| home.join(".cache/imds-guard")))
        .context("neither IMDS_GUARD_CACHE, XDG_CACHE_HOME nor HOME is set")?;
    fs::create_dir_all(&cache).with_context(|| format!("make the cache {}", cache.display()))?;
    Ok(cache)
}

pub(crate) fn sysroot(rustc: &Path) -> Option<PathBuf> {
    output(Command::new(rustc).args(["--print", "sysroot"])).map(PathBuf::from)
}

/// What a command prints, if it ends well.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}
