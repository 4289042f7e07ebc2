//! Connections from before a pod was denied end at once, and nobody else's do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_tests::attack::gate::Said;
use guard_tests::simulator::{IMDS_V4, IMDS_V6, POD_IDENTITY_V4};
use guard_tests::{Agent, Driver, Node, Place, PodSpec, Process, wait_until};

const ROLL_OUT: &str = "\
version: 1
enforce: [{ namespaces: [payments] }]
default: { imds: deny }
rules:
  - name: trusted
    match: { serviceAccounts: [payments/trusted] }
    imds: allow
";
const READY: Duration = Duration::from_secs(20);
/// How soon a client must know. One that is not told waits ten seconds for its answer.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A client that keeps its connection.
struct Client(Process);

impl Client {
    fn connect(place: &Place, address: &str) -> Result<Self> {
        let mut client = Self(place.begin_attack_on_gate(&["converse", address])?);
        client.ask().context("before the guard")?;
        Ok(client)
    }

    fn ask(&mut self) -> Result<Said> {
        self.0.write_line("/latest/meta-data/iam/security-credentials/")?;
        serde_json::from_str(&self.0.read_line()?).context("read what was said")
    }

    fn is_cut_off(&mut self) -> Result<()> {
        let asked = Instant::now();
        let said = self.ask();
        ensure!(said.is_err(), "it was answered: {said:?}");
        ensure!(asked.elapsed() < AT_ONCE, "it was told after {:?}", asked.elapsed());
        Ok(())
    }
}

fn destroyed(agent: &Agent, account: &str) -> Result<u64> {
    let labels = [("service_account", account)];
    Ok(agent.metrics()?.count("imds_guard_connections_destroyed_total", &labels))
}

#[test]
fn old_connections_of_the_denied_end_at_once_and_no_others() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = |namespace: &str, account: &str| node.pod(PodSpec::new(namespace, account));
    let host_pod =
        |namespace: &str, account: &str| node.pod(PodSpec::new(namespace, account).on_host_network());
    let imds = format!("{IMDS_V4}:80");
    let (denied, host_denied) = (pod("payments", "denied")?, host_pod("payments", "host-denied")?);
    let (audited, host_audited) = (pod("shop", "audited")?, host_pod("shop", "host-audited")?);
    let trusted = host_pod("payments", "trusted")?;
    let mut cut_off = [
        Client::connect(&denied, &imds)?,
        Client::connect(&denied, &format!("[::ffff:{IMDS_V4}]:80"))?,
        Client::connect(&denied, &format!("[{IMDS_V6}]:80"))?,
        Client::connect(&host_denied, &imds)?,
    ];
    let mut elsewhere = [
        Client::connect(&denied, &format!("{POD_IDENTITY_V4}:80"))?,
        Client::connect(&host_denied, &format!("{POD_IDENTITY_V4}:80"))?,
        Client::connect(&trusted, &imds)?,
        Client::connect(node.outside(), &imds)?,
    ];
    let mut later = [Client::connect(&audited, &imds)?, Client::connect(&host_audited, &imds)?];

    let mut agent = Agent::start(&node, ROLL_OUT)?;
    agent.wait_ready(READY)?;
    wait_until(READY, "the connections to be ended", || {
        destroyed(&agent, "denied").is_ok_and(|count| count == 3)
            && destroyed(&agent, "host-denied").is_ok_and(|count| count == 1)
    })?;
    for client in &mut cut_off {
        client.is_cut_off()?;
    }
    for client in elsewhere.iter_mut().chain(&mut later) {
        client.ask().context("it has nothing to do with it")?;
    }

    // The roll-out goes on.
    agent.set_policy(&ROLL_OUT.replace("[{ namespaces: [payments] }]", "all"))?;
    wait_until(READY, "the other connections to be ended", || {
        ["audited", "host-audited"]
            .into_iter()
            .all(|account| destroyed(&agent, account).is_ok_and(|count| count == 1))
    })?;
    for client in &mut later {
        client.is_cut_off()?;
    }
    for client in &mut elsewhere {
        client.ask().context("it has nothing to do with it")?;
    }
    let total = agent.metrics()?.count("imds_guard_connections_destroyed_total", &[]);
    ensure!(total == 6, "{total}");
    agent.stop()
}
