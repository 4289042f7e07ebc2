//! What tests run in the node besides pods.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_cluster::Cluster;
use guard_tests::wait_until;

#[test]
fn a_program_in_the_node_sees_the_node_and_ends_when_it_is_killed() -> Result<()> {
    let cluster = Cluster::attach()?;
    let hostname = cluster.in_node("hostname")?.output().context("start nsenter")?;
    assert_eq!(String::from_utf8_lossy(&hostname.stdout), "node-1\n");

    // A number that names this test's program among all others.
    let seconds = format!("{}.5", 100_000 + std::process::id());
    let mut program = cluster.in_node("sleep")?.arg(&seconds).spawn().context("start nsenter")?;
    let runs = || is_running(&format!("sleep\0{seconds}\0"));
    let within = Duration::from_secs(10);
    wait_until(within, "the program to run", runs)?;
    program.kill()?;
    program.wait()?;
    wait_until(within, "the program to end", || !runs())
}

/// Whether a process has this command line. The machine sees the node's processes too.
fn is_running(command_line: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("there are processes").flatten();
    processes.into_iter().any(|process| {
        fs::read(process.path().join("cmdline")).is_ok_and(|found| found == command_line.as_bytes())
    })
}

#[test]
fn helm_tells_what_it_is_given() -> Result<()> {
    let cluster = Cluster::attach()?;
    let error = cluster.helm(&["uninstall", "default", "nobody"], "").expect_err("there is no such release");
    ensure!(format!("{error:#}").contains("not found"), "{error:#}");
    Ok(())
}
