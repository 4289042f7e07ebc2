//! Builds the kernel programs for the BPF target and hands the object to the agent, which embeds it.
//!
//! `cargo xtask setup` finds or installs a compiler for that target and writes down where it is; this script only
//! reads that.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo:rerun-if-changed=../guard-ebpf");
    println!("cargo:rerun-if-changed=../guard-common");
    println!("cargo:rerun-if-env-changed=IMDS_GUARD_CACHE");
    println!("cargo:rerun-if-env-changed=IMDS_GUARD_DENY_WARNINGS");

    let description = cache().join("ebpf-toolchain");
    println!("cargo:rerun-if-changed={}", description.display());
    let Ok(toolchain) = fs::read_to_string(&description) else {
        panic!(
            "no compiler for the kernel programs is known ({} is not there): run `cargo xtask setup` once",
            description.display()
        );
    };
    let object =
        build(&Toolchain::parse(&toolchain), &PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo")));
    println!("cargo:rustc-env=IMDS_GUARD_BPF_OBJECT={}", object.display());
}

/// What `cargo xtask setup` wrote down: a line `name=value` each.
struct Toolchain<'a> {
    cargo: &'a str,
    rustc: &'a str,
    linker: &'a str,
    /// Whether `core` is built from its source, because the compiler has no ready one for BPF.
    build_core: bool,
}

impl<'a> Toolchain<'a> {
    fn parse(text: &'a str) -> Self {
        let value = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .unwrap_or_else(|| panic!("`{name}` is missing: run `cargo xtask setup` again"))
        };
        Self {
            cargo: value("cargo"),
            rustc: value("rustc"),
            linker: value("linker"),
            build_core: value("build-core") == "yes",
        }
    }
}

fn build(toolchain: &Toolchain<'_>, out: &Path) -> PathBuf {
    let target_dir = out.join("ebpf");
    let flags = [
        format!("-Clinker={}", toolchain.linker),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Else each `memset` of a few bytes is a call, and programs without calls are what old verifiers follow well.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        // aya-ebpf's bindings for register layouts; no program here reads registers.
        format!("--cfg=bpf_target_arch=\"{}\"", env::var("CARGO_CFG_TARGET_ARCH").expect("set by cargo")),
    ];
    let mut cargo = Command::new(toolchain.cargo);
    cargo
        .args(["rustc", "--quiet", "--package", "guard-ebpf", "--profile", "bpf"])
        .args(["--target", "bpfel-unknown-none", "--target-dir"])
        .arg(&target_dir)
        .current_dir("..")
        .env("RUSTC", toolchain.rustc)
        // The BPF target is unstable, whichever compiler builds for it.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // What the outer cargo set up for this script (its compiler, a clippy wrapper) is not for the inner one.
    for name in
        ["RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "RUSTFLAGS", "CARGO", "RUSTUP_TOOLCHAIN", "CLIPPY_ARGS"]
    {
        cargo.env_remove(name);
    }
    if env::var_os("CARGO_FEATURE_NEXT_ABI").is_some() {
        cargo.args(["--features", "next-abi"]);
    }
    if toolchain.build_core {
        cargo.args(["-Z", "build-std=core"]);
    }
    if env::var_os("IMDS_GUARD_DENY_WARNINGS").is_some() {
        cargo.args(["--", "-Dwarnings"]);
    }
    let status = cargo.status().unwrap_or_else(|error| {
        panic!("cannot start {}: {error}: run `cargo xtask setup` again", toolchain.cargo)
    });
    assert!(status.success(), "the kernel programs do not build (see above)");
    target_dir.join("bpfel-unknown-none/bpf/imds-guard-bpf")
}

/// Must say the same as `cache()` in xtask.
fn cache() -> PathBuf {
    let from = |name: &str| env::var_os(name).map(PathBuf::from);
    from("IMDS_GUARD_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|folder| folder.join("imds-guard")))
        .or_else(|| from("HOME").map(|home| home.join(".cache/imds-guard")))
        .expect("HOME is set")
}
