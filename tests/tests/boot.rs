//! A node that starts again: before its agent runs, `imds-guard boot` guards it by what the agent remembered.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use guard_tests::process::successful;
use guard_tests::{Agent, Driver, Hook, Node, PodSpec, Vector, binary};

const POLICY: &str = "\
version: 1
enforce: all
default: { imds: deny }
rules:
  - name: network
    match: { serviceAccounts: [kube-system/cni] }
    imds: allow
";

const READY: Duration = Duration::from_secs(20);

fn boot(node: &Node, state: &str) -> Result<String> {
    let mut command = Command::new(binary("imds-guard")?);
    command
        .args(["boot", "--state-dir", state, "--host-network", "/proc/self/ns/net"])
        .arg("--cgroup-mount")
        .arg(node.cgroup_mount())
        .arg("--guarded-root")
        .arg(node.guarded_root())
        .arg("--pin-path")
        .arg(node.pin_path());
    successful(node.outside().run(command)?)
}

#[test]
fn a_node_that_starts_again_is_guarded_before_its_pods_and_its_agent_run() -> Result<()> {
    for driver in Driver::ALL {
        let node = Node::new(driver)?;
        let folder = tempfile::tempdir()?;
        let state = folder.path().to_string_lossy().into_owned();
        ensure!(boot(&node, &state)?.contains("nothing to guard by"), "no agent has run here");

        let mut cni = node.pod(PodSpec::new("kube-system", "cni").on_host_network())?;
        let mut cart = node.pod(PodSpec::new("shop", "cart"))?;
        let mut agent = Agent::start_with(&node, POLICY, &["--state-dir", &state])?;
        agent.wait_ready(READY)?;
        agent.stop()?;

        // What a restart leaves: the disk. Pins, cgroups and tables are gone.
        cni.switch_off()?;
        cart.switch_off()?;
        ensure!(agent.clean_up(&node)?.contains("removed"), "the pins are gone");
        let root = node.cgroup_mount().join(node.guarded_root());
        ensure!(Hook::Connect4.programs(&root)?.len() == Hook::Connect4.programs(node.cgroup_mount())?.len());
        node.simulator().forget();

        ensure!(boot(&node, &state)?.contains("with rulings for 1 pods"));
        node.switch_on(&mut cni)?;
        node.switch_on(&mut cart)?;
        let newcomer = node.pod(PodSpec::new("shop", "newcomer"))?;
        for vector in [Vector::Tcp, Vector::TcpMapped, Vector::UdpUnconnected, Vector::RawTcp] {
            for pod in [&cart, &newcomer] {
                let report = pod.attack(vector)?;
                ensure!(!report.outcome.got_bytes(), "{report:?}");
            }
        }
        let seen = node.simulator().seen();
        ensure!(seen.bytes_sent() == 0 && seen.requests.is_empty(), "IMDS saw {seen:?}");
        ensure!(cni.attack(Vector::Tcp)?.outcome.got_bytes(), "who brings up the network is known");
        ensure!(boot(&node, &state)?.contains("stands already"));

        agent.set_pods(&node)?;
        agent.restart(&node)?;
        agent.wait_ready(READY)?;
        let status = agent.status()?;
        let unguarded = status["pods"].as_array().into_iter().flatten();
        ensure!(unguarded.clone().count() == 3);
        for pod in unguarded {
            ensure!(pod["started_unguarded"] == false, "{pod}");
        }
        ensure!(cni.attack(Vector::Tcp)?.outcome.got_bytes());
        ensure!(!cart.attack(Vector::Tcp)?.outcome.got_bytes());
        agent.stop()?;
    }
    Ok(())
}

#[test]
fn what_is_remembered_leads_nowhere_else() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let folder = tempfile::tempdir()?;
    let state = folder.path().to_string_lossy().into_owned();
    let _pod = node.pod(PodSpec::new("kube-system", "cni").on_host_network())?;
    let mut agent = Agent::start_with(&node, POLICY, &["--state-dir", &state])?;
    agent.wait_ready(READY)?;
    agent.stop()?;
    agent.clean_up(&node)?;
    let pods = folder.path().join("pods.json");
    let text = fs::read_to_string(&pods)?;
    ensure!(text.contains("burstable/pod"), "{text}");
    fs::write(&pods, text.replace("burstable/pod", "../outside/pod"))?;
    boot(&node, &state)?;
    let beside = fs::read_dir(node.outside().cgroup())?.filter_map(|entry| entry.ok()?.file_type().ok());
    ensure!(beside.filter(fs::FileType::is_dir).count() == 0, "a cgroup was made beside the guarded root");
    Ok(())
}
