use std::fs;
use std::thread::available_parallelism;

use anyhow::{Context, Result};

/// What the numbers were measured on, in a line.
pub(super) fn describe() -> Result<String> {
    let kernel = read("/proc/sys/kernel/osrelease")?;
    let cpus = available_parallelism().context("count the CPUs")?;
    let information = read("/proc/cpuinfo")?;
    let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("a CPU without a name", |(_, model)| model);
    Ok(format!("Linux {}, {cpus} × {model}, {}", kernel.trim_end(), jit()))
}

/// A kernel without a compiler for BPF has no such file, one that has nothing else may not have it either.
fn jit() -> &'static str {
    match fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").as_deref().map(str::trim_end) {
        Ok("0") => "BPF interpreted",
        Ok(_) => "BPF compiled",
        Err(_) => "BPF by the kernel's default",
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}
