//! The backstop: packet sockets pass no hook of a socket, and are stopped on the node. Beside whatever else is in the
//! node's packet filter, for as long as nobody takes it away, and nothing else is touched.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::attack::Props;
use guard_tests::{Agent, Driver, Node, Outcome, Place, PodHandle, PodSpec, Vector, wait_until};

const READY: Duration = Duration::from_secs(20);

/// How soon the agent finds what has changed by itself: it looks every 15 s.
const HEALS_WITHIN: Duration = Duration::from_secs(40);

const ENFORCE: &str = "\
version: 1
enforce: all
default: { imds: deny }
rules:
  - name: trusted
    match: { serviceAccounts: [shop/trusted] }
    imds: allow
";

const AUDIT: &str = "\
version: 1
enforce: none
unidentified: deny
default: { imds: deny }
";

const MIXED: &str = "\
version: 1
enforce: [{ namespaces: [payments] }]
unidentified: deny
default: { imds: deny }
";

/// What past and present of a node put into its packet filter: kube-proxy, Calico, the VPC CNI, and an administrator.
const FOREIGN: &str = "\
table ip nat {
  chain KUBE-SERVICES { ip daddr 10.100.0.10 tcp dport 53 dnat to 10.128.0.3:53; }
  chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; jump KUBE-SERVICES; }
  chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; ip saddr 10.250.0.0/16 masquerade; }
}
table inet calico {
  chain cali-FORWARD { type filter hook forward priority filter - 1; policy accept; ct state established accept; accept; }
}
table ip mangle {
  chain aws-primary-eni { type filter hook prerouting priority mangle; policy accept; iifname uplink meta mark set 0x80; }
}
table inet imds_guard_of_somebody {
  chain forward { type filter hook forward priority -500; policy accept; ip daddr 169.254.169.254 accept; }
}
";

/// A node with a pod of each kind.
struct Scene {
    pod: PodHandle,
    on_host: PodHandle,
    node: Node,
}

impl Scene {
    fn new() -> Result<Self> {
        let node = Node::new(Driver::Systemd)?;
        let pod = node.pod(PodSpec::new("shop", "api"))?;
        let on_host = node.pod(PodSpec::new("shop", "api").on_host_network())?;
        Ok(Self { pod, on_host, node })
    }

    /// The packet filter of the node, as `nft` lists it.
    fn ruleset(&self) -> Result<String> {
        let output = self.nft(&["list", "ruleset"])?;
        Ok(String::from_utf8(output.stdout)?)
    }

    fn nft(&self, arguments: &[&str]) -> Result<Output> {
        let mut nft = Command::new("nft");
        nft.args(arguments);
        let output = self.node.outside().run(nft)?;
        ensure!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output)
    }

    fn ip(&self, arguments: &str) -> Result<()> {
        let mut ip = Command::new("ip");
        ip.args(arguments.split(' '));
        let output = self.node.outside().run(ip)?;
        ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

fn outcome(place: &Place, vector: Vector) -> Result<Outcome> {
    Ok(place.attack(vector)?.outcome)
}

/// Fails unless an attack was made, and was in vain: no answer came, or its frames were not even taken.
fn in_vain(place: &Place, vector: Vector) -> Result<()> {
    let outcome = outcome(place, vector)?;
    ensure!(is_in_vain(&outcome), "{vector:?}: {outcome:?}");
    Ok(())
}

fn is_in_vain(outcome: &Outcome) -> bool {
    *outcome == Outcome::Timeout || *outcome == Outcome::Errno("ENOBUFS".to_owned())
}

/// The packets that the node's packet filter met.
fn met(agent: &Agent, place: &str, action: &str) -> Result<u64> {
    Ok(agent.metrics()?.count("imds_guard_backstop_packets_total", &[("place", place), ("action", action)]))
}

/// The frames of packet sockets that were judged where they leave.
fn frames(agent: &Agent, verdict: &str, mode: &str) -> Result<u64> {
    let labels = [("namespace", "shop"), ("service_account", "api"), ("verdict", verdict), ("mode", mode)];
    Ok(agent.metrics()?.count("imds_guard_packet_socket_frames_total", &labels))
}

fn is_degraded(agent: &Agent, feature: &str) -> Result<bool> {
    Ok(agent.metrics()?.count("imds_guard_degraded", &[("feature", feature)]) == 1)
}

#[test]
fn a_packet_socket_gets_nothing_and_is_counted() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = Agent::start_with(&scene.node, ENFORCE, &["--backstop", "off"])?;
    agent.wait_ready(READY)?;
    for place in [&*scene.pod, &*scene.on_host] {
        for vector in [Vector::Link, Vector::LinkIpv6, Vector::LinkQdiscBypass] {
            let outcome = outcome(place, vector)?;
            ensure!(outcome.got_bytes(), "an attack where there is no backstop: {vector:?}: {outcome:?}");
        }
    }
    ensure!(is_degraded(&agent, "backstop")?, "that it is off is told");
    agent.stop()?;

    let mut agent = Agent::start(&scene.node, ENFORCE)?;
    agent.wait_ready(READY)?;
    scene.node.simulator().forget();
    for place in [&*scene.pod, &*scene.on_host] {
        for vector in [Vector::Link, Vector::LinkIpv6, Vector::LinkTagged, Vector::LinkFragments] {
            in_vain(place, vector)?;
        }
    }
    let seen = scene.node.simulator().seen();
    ensure!(seen.requests.is_empty() && seen.bytes_sent() == 0, "IMDS saw {seen:?}");
    ensure!(met(&agent, "forward", "drop")? > 0 && met(&agent, "forward", "pass")? == 0);
    // The filter at the device is the first to see a frame, and takes all that no IP stack made.
    ensure!(met(&agent, "bypass", "drop")? > 0);
    for feature in ["backstop", "backstop_forward", "backstop_uplink", "backstop_bypass", "af_xdp"] {
        ensure!(!is_degraded(&agent, feature)?, "{feature}:\n{}", agent.log());
    }
    agent.stop()
}

#[test]
fn whoever_may_goes_on_and_so_does_the_host() -> Result<()> {
    let scene = Scene::new()?;
    let trusted = scene.node.pod(PodSpec::new("shop", "trusted"))?;
    let trusted_on_host = scene.node.pod(PodSpec::new("shop", "trusted").on_host_network())?;
    let mut agent = Agent::start(&scene.node, ENFORCE)?;
    agent.wait_ready(READY)?;
    for place in [&*trusted, &*trusted_on_host, scene.node.outside()] {
        for vector in [Vector::Tcp, Vector::TcpIpv6] {
            let outcome = outcome(place, vector)?;
            ensure!(outcome.got_bytes(), "{vector:?}: {outcome:?}");
        }
    }
    // AF_XDP and the way past the queues are for a denied pod on the host's network alone to lack.
    for vector in [Vector::LinkQdiscBypass, Vector::Xdp] {
        let refused = Outcome::Errno("EPERM".to_owned());
        ensure!(outcome(&scene.on_host, vector)? == refused, "{vector:?} of a denied pod");
        for place in [&*scene.pod, &*trusted_on_host, scene.node.outside()] {
            let outcome = outcome(place, vector)?;
            ensure!(outcome != refused, "{vector:?}: {outcome:?}");
        }
    }
    agent.stop()
}

#[test]
fn audited_nothing_is_dropped_and_all_is_counted() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = Agent::start(&scene.node, AUDIT)?;
    agent.wait_ready(READY)?;
    for place in [&*scene.pod, &*scene.on_host] {
        for vector in [Vector::Link, Vector::LinkIpv6, Vector::LinkQdiscBypass] {
            let outcome = outcome(place, vector)?;
            ensure!(outcome.got_bytes(), "{vector:?}: {outcome:?}");
        }
    }
    ensure!(met(&agent, "forward", "pass")? > 0 && met(&agent, "forward", "drop")? == 0);
    ensure!(met(&agent, "bypass", "pass")? > 0 && met(&agent, "bypass", "drop")? == 0);
    ensure!(frames(&agent, "deny", "audit")? > 0, "the service account is told");
    let before = met(&agent, "forward", "pass")?;
    agent.kill()?;
    ensure!(outcome(&scene.pod, Vector::Link)?.got_bytes());
    agent.restart(&scene.node)?;
    agent.wait_ready(READY)?;
    ensure!(met(&agent, "forward", "pass")? > before, "what was met in the meantime counts too");
    agent.stop()
}

#[test]
fn an_interface_that_comes_later_is_no_way_out() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = Agent::start(&scene.node, ENFORCE)?;
    agent.wait_ready(READY)?;
    scene.node.add_uplink("uplink2")?;
    scene.ip("route replace 169.254.169.254/32 dev uplink2")?;
    wait_until(READY, "the new device to be guarded", || {
        scene.ruleset().is_ok_and(|ruleset| ruleset.contains("uplink2"))
    })?;
    let props = Props { device: Some("uplink2".to_owned()), ..Props::default() };
    let attack = |place: &Place| -> Result<Outcome> {
        Ok(place.stage_with(Vector::LinkOtherDevice, &props)?.proceed()?.outcome)
    };
    let stopped = attack(&scene.on_host)?;
    ensure!(is_in_vain(&stopped), "{stopped:?}");
    // It could have been an attack.
    agent.set_policy(AUDIT)?;
    wait_until(READY, "the policy to count", || {
        attack(&scene.on_host).is_ok_and(|outcome| outcome.got_bytes())
    })?;
    agent.stop()
}

#[test]
fn the_tables_of_others_stay_as_they_are_and_ours_are_mended() -> Result<()> {
    let scene = Scene::new()?;
    let file = tempfile::NamedTempFile::new().context("a temporary file")?;
    std::fs::write(&file, FOREIGN)?;
    let foreign = file.path().to_str().context("a path in UTF-8")?.to_owned();
    scene.nft(&["-f", &foreign])?;
    let before = scene.ruleset()?;
    let mut agent = Agent::start(&scene.node, ENFORCE)?;
    agent.wait_ready(READY)?;
    let with_ours = scene.ruleset()?;
    ensure!(with_ours.starts_with(&before), "{with_ours}");
    in_vain(&scene.pod, Vector::Link).context("an accept elsewhere opens nothing")?;
    let dropped = met(&agent, "forward", "drop")?;

    scene.nft(&["flush", "ruleset"])?;
    in_vain(&scene.pod, Vector::Link).context("the program at the uplink sees what no table sees")?;
    wait_until(HEALS_WITHIN, "the tables to be there again", || {
        scene.ruleset().is_ok_and(|ruleset| ruleset.contains("table inet imds_guard"))
    })?;
    in_vain(&scene.pod, Vector::Link)?;
    ensure!(met(&agent, "forward", "drop")? > dropped, "a counter never goes back");
    scene.nft(&["-f", &foreign])?;

    agent.stop()?;
    ensure!(scene.ruleset()? != before, "it stays when the agent ends");
    agent.clean_up(&scene.node)?;
    ensure!(scene.ruleset()? == before, "{}", scene.ruleset()?);
    ensure!(outcome(&scene.pod, Vector::Link)?.got_bytes(), "who is not guarded any more is let through");
    ensure!(outcome(&scene.on_host, Vector::Link)?.got_bytes());
    Ok(())
}

#[test]
fn it_stands_while_the_agent_is_dead() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = Agent::start(&scene.node, ENFORCE)?;
    agent.wait_ready(READY)?;
    agent.kill()?;
    for place in [&*scene.pod, &*scene.on_host] {
        in_vain(place, Vector::Link)?;
    }
    ensure!(outcome(&scene.on_host, Vector::LinkQdiscBypass)? == Outcome::Errno("EPERM".to_owned()));
    ensure!(outcome(scene.node.outside(), Vector::Tcp)?.got_bytes());
    agent.restart(&scene.node)?;
    agent.wait_ready(READY)?;
    in_vain(&scene.on_host, Vector::Link)?;
    agent.stop()
}

#[test]
fn while_some_are_audited_they_are_told_by_their_addresses() -> Result<()> {
    let scene = Scene::new()?;
    let enforced = scene.node.pod(PodSpec::new("payments", "checkout"))?;
    let enforced_on_host = scene.node.pod(PodSpec::new("payments", "checkout").on_host_network())?;
    let mut agent = Agent::start(&scene.node, MIXED)?;
    agent.wait_ready(READY)?;
    ensure!(is_degraded(&agent, "backstop")?);
    for vector in [Vector::Link, Vector::LinkIpv6] {
        for place in [&*enforced, &*enforced_on_host] {
            in_vain(place, vector)?;
        }
        for place in [&*scene.pod, &*scene.on_host] {
            let outcome = outcome(place, vector)?;
            ensure!(outcome.got_bytes(), "{vector:?}: {outcome:?}");
        }
    }
    for place in [&*scene.pod, &*scene.on_host] {
        ensure!(outcome(place, Vector::Tcp)?.got_bytes());
    }
    ensure!(frames(&agent, "deny", "audit")? > 0);
    // The same with the unidentified let through: then the enforced are the ones that are told.
    agent.set_policy(&MIXED.replace("unidentified: deny", "unidentified: allow"))?;
    wait_until(READY, "the policy to count", || {
        scene.ruleset().is_ok_and(|ruleset| {
            ruleset
                .lines()
                .any(|line| line.contains("iif") && line.contains("saddr") && line.contains("drop"))
        })
    })?;
    in_vain(&enforced, Vector::Link)?;
    ensure!(outcome(&scene.pod, Vector::Link)?.got_bytes());
    agent.set_policy(ENFORCE)?;
    wait_until(READY, "everyone to be enforced", || {
        is_degraded(&agent, "backstop").is_ok_and(|degraded| !degraded)
    })?;
    in_vain(&scene.pod, Vector::Link)?;
    agent.stop()
}
