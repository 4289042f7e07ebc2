//! Attacks on the gate itself: on its port, through its back doors, and on what is left of it when the agent dies.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::attack::gate::{Said, Taken};
use guard_tests::namespace::Namespace;
use guard_tests::{Agent, Driver, Node, Outcome, Place, PodSpec, Vector, wait_until};

const READY: Duration = Duration::from_secs(20);

const POLICY: &str = "version: 1
enforce: all
default: { imds: deny }
rules:
  - name: trusted
    match: { serviceAccounts: [shop/api] }
    imds: { filter: { allow: [all] } }
";

/// Everything that listens on the loopback address in a namespace, at a port that a gate can have.
fn gate_ports(namespace: &Namespace) -> Result<Vec<u16>> {
    let table =
        namespace.run(|| fs::read_to_string("/proc/thread-self/net/tcp").context("read the sockets"))?;
    let ports = table.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, state) = (fields.next()?, fields.nth(1)?);
        let port = local.strip_prefix("0100007F:").filter(|_| state == "0A")?;
        u16::from_str_radix(port, 16).ok().filter(|port| *port >= 61_000)
    });
    Ok(ports.collect())
}

fn only_gate(place: &Place) -> Result<u16> {
    let ports = gate_ports(place.namespace())?;
    let [port] = ports[..] else { anyhow::bail!("the gates are at {ports:?}") };
    Ok(port)
}

fn refused() -> Outcome {
    Outcome::Errno("ECONNREFUSED".to_owned())
}

/// Every spelling of the own host at which a listener on a loopback address can be reached.
fn spellings(port: u16) -> Vec<String> {
    ["127.0.0.1", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:0.0.0.0]"]
        .map(|host| format!("{host}:{port}"))
        .to_vec()
}

#[test]
fn a_gate_answers_nobody_who_asks_at_its_own_port() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("shop", "api"))?;
    let on_host = node.pod(PodSpec::new("shop", "api").on_host_network())?;
    let other_on_host = node.pod(PodSpec::new("shop", "other").on_host_network())?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    ensure!(pod.attack(Vector::Tcp)?.outcome.got_bytes() && on_host.attack(Vector::Tcp)?.outcome.got_bytes());
    node.simulator().forget();

    // By the hook, from the owner, from below its cgroup, and from another pod on the same network.
    let below = pod.add_sub_cgroup("below")?;
    let own = only_gate(&pod)?;
    for address in spellings(own) {
        for place in [&*pod, &below] {
            let outcome: Outcome = place.attack_gate(&["ask", &address])?;
            ensure!(outcome == refused(), "{address}: {outcome:?}");
        }
        let outcome: Outcome = pod.attack_gate(&["ask-by-datagram", &address])?;
        ensure!(!outcome.got_bytes(), "{address}, UDP: {outcome:?}");
    }
    for port in gate_ports(node.namespace())? {
        for address in spellings(port) {
            for place in [&*on_host, &*other_on_host] {
                let outcome: Outcome = place.attack_gate(&["ask", &address])?;
                ensure!(outcome == refused(), "{address}: {outcome:?}");
            }
        }
    }
    // By the gate itself: from outside the guarded root no hook runs. This is how a port is forwarded to a pod.
    let forwarder = node.outside().inside_network_of(&pod);
    for (place, port) in [(&forwarder, own), (node.outside(), gate_ports(node.namespace())?[0])] {
        for host in ["127.0.0.1", "[::1]"] {
            let outcome: Outcome = place.attack_gate(&["ask", &format!("{host}:{port}")])?;
            ensure!(!outcome.got_bytes() && outcome != Outcome::Timeout, "{host}: {outcome:?}");
        }
    }
    ensure!(agent.metrics()?.count("imds_guard_gate_strangers_total", &[]) == 4);
    ensure!(node.simulator().seen().requests.is_empty(), "IMDS was asked");
    agent.stop()
}

#[test]
fn when_the_agent_is_dead_nobody_is_answered_and_nobody_takes_its_place() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let victim = node.pod(PodSpec::new("shop", "api").on_host_network())?;
    let attacker = node.pod(PodSpec::new("shop", "attacker").on_host_network())?;
    let pod = node.pod(PodSpec::new("shop", "api"))?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    ensure!(victim.attack(Vector::Tcp)?.outcome.got_bytes() && pod.attack(Vector::Tcp)?.outcome.got_bytes());
    let ports = gate_ports(node.namespace())?;
    ensure!(ports.len() == 2, "{ports:?}");

    agent.kill()?;
    ensure!(gate_ports(node.namespace())?.is_empty(), "the gates went with the agent");
    node.simulator().forget();
    for port in &ports {
        let taken: Vec<Taken> = attacker.attack_gate(&["take", &port.to_string()])?;
        ensure!(taken.len() == 8 && taken.iter().all(|way| way.error.is_some()), "{taken:?}");
    }
    // The same where it is allowed: it is the hook that keeps them away.
    let free: Vec<Taken> = attacker.attack_gate(&["take", "60999"])?;
    ensure!(free.iter().all(|way| way.error.is_none()), "{free:?}");
    for place in [&*victim, &*attacker, &*pod] {
        for vector in [Vector::Tcp, Vector::TcpMapped, Vector::TcpIpv6, Vector::Mptcp] {
            let outcome = place.attack(vector)?.outcome;
            ensure!(outcome == refused(), "{vector:?}: {outcome:?}");
        }
    }
    let seen = node.simulator().seen();
    ensure!(seen.peers.is_empty(), "IMDS saw {seen:?}");
    Ok(())
}

#[test]
fn a_packet_from_the_neighbourhood_does_not_reach_a_gate() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let _victim = node.pod(PodSpec::new("shop", "api").on_host_network())?;
    let attacker = node.pod(PodSpec::new("shop", "attacker"))?;
    // The node takes packets for 127.0.0.1 from its pods, as some CNIs have it.
    node.namespace().run(|| {
        for interface in fs::read_dir("/proc/sys/net/ipv4/conf")? {
            let path = interface?.path();
            fs::write(path.join("route_localnet"), "1")?;
            fs::write(path.join("rp_filter"), "0")?;
        }
        Ok(())
    })?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    let port = only_gate(node.outside())?;
    let source = attacker.addresses()[0].to_string().parse::<Ipv4Addr>()?;
    let mac = attacker.namespace().run(|| {
        let output = Command::new("ip").args(["-4", "neigh", "show", "dev", "eth0"]).output()?;
        let text = String::from_utf8(output.stdout)?;
        text.split(' ')
            .skip_while(|word| *word != "lladdr")
            .nth(1)
            .map(ToOwned::to_owned)
            .context("a neighbour")
    })?;
    let inject = |port: u16| -> Result<Outcome> {
        attacker.attack_gate(&["inject", "eth0", &mac, &source.to_string(), &port.to_string()])
    };
    // That the attack is real shows at a listener that is not bound to the device.
    let plain = node.namespace().run(|| Ok(std::net::TcpListener::bind("127.0.0.1:0")?))?;
    let outcome = inject(plain.local_addr()?.port())?;
    ensure!(outcome.got_bytes(), "the attack does not work at all: {outcome:?}");
    let outcome = inject(port)?;
    ensure!(!outcome.got_bytes() && outcome.is_genuine(), "a gate answered: {outcome:?}");
    agent.stop()
}

#[test]
fn without_loopback_a_pod_gets_nothing() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let pod = node.pod(PodSpec::new("shop", "api"))?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    pod.namespace().run(|| {
        ensure!(Command::new("ip").args(["link", "set", "lo", "down"]).status()?.success());
        Ok(())
    })?;
    node.simulator().forget();
    for vector in [Vector::Tcp, Vector::TcpIpv6, Vector::Mptcp] {
        let outcome = pod.attack(vector)?.outcome;
        ensure!(!outcome.got_bytes() && outcome.is_genuine(), "{vector:?}: {outcome:?}");
    }
    ensure!(node.simulator().seen().peers.is_empty());
    agent.stop()
}

#[test]
fn a_tenant_that_holds_ports_only_moves_its_gate() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec { listed: false, ..PodSpec::new("shop", "api") })?;
    let held: Vec<_> = pod.namespace().run(|| {
        Ok((61_000..61_010)
            .map(|port| std::net::TcpListener::bind(("0.0.0.0", port)))
            .collect::<std::io::Result<_>>()?)
    })?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    pod.list(|_| {});
    agent.set_pods(&node)?;
    wait_until(READY, "the gate", || pod.attack(Vector::Tcp).is_ok_and(|report| report.outcome.got_bytes()))?;
    ensure!(only_gate(&pod)? >= 61_010);
    drop(held);
    agent.stop()
}

#[test]
fn a_connection_does_not_outlive_the_pod_that_made_it() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let denied = node.pod(PodSpec::new("shop", "attacker").on_host_network())?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    // In the pod's cgroup the socket is made; the process moves out and lives on after the pod.
    let mut client = denied.begin_attack_on_gate(&["converse", "169.254.169.254:80"])?;
    let ask = |client: &mut guard_tests::Process| -> Result<Said> {
        client.write_line("/latest/meta-data/iam/security-credentials/")?;
        Ok(serde_json::from_str(&client.read_line()?)?)
    };
    ensure!(ask(&mut client)?.status == 403);
    fs::write(node.outside().cgroup().join("cgroup.procs"), client.id().to_string())?;
    node.simulator().forget();
    denied.delete()?;
    agent.set_pods(&node)?;
    wait_until(READY, "the connection to end", || ask(&mut client).is_err())?;
    ensure!(node.simulator().seen().requests.is_empty(), "IMDS was asked");
    agent.stop()
}
