use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use guard_tests::namespace::Namespace;
use guard_tests::process::successful;
use guard_tests::simulator::{IMDS_V4, IMDS_V6, POD_IDENTITY_V4, POD_IDENTITY_V6};

/// The node's address.
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(10, 214, 0, 1);
/// Where the API server listens.
pub(super) const API_PORT: u16 = 6443;
/// The address by which pods know the API server, the first of the services' network.
pub(super) const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The network of services.
pub(super) const SERVICES: &str = "10.96.0.0/16";
/// The network of pods.
pub(super) const PODS: &str = "10.213.0.0/24";

/// The way to IMDS: `169.254.169.254 ── eth0 10.214.0.2 ═══ uplink 10.214.0.1 ── the node`. The far end's addresses
/// and routes are in [`imds_lines`].
fn node_lines(imds: &Namespace) -> String {
    format!(
        "link set lo up
         link add uplink type veth peer name eth0 netns {}
         addr add {NODE}/30 dev uplink
         addr add fd14::1/64 dev uplink nodad
         link set uplink up
         route add {IMDS_V4}/32 via 10.214.0.2
         route add {POD_IDENTITY_V4}/32 via 10.214.0.2
         route add {SERVICES} via 10.214.0.2
         route add {IMDS_V6}/128 via fd14::2
         route add {POD_IDENTITY_V6}/128 via fd14::2\n",
        imds.path()
    )
}

fn imds_lines() -> String {
    format!(
        "link set lo up
         addr add 10.214.0.2/30 dev eth0
         addr add fd14::2/64 dev eth0 nodad
         link set eth0 up
         addr add {IMDS_V4}/32 dev lo
         addr add {POD_IDENTITY_V4}/32 dev lo
         addr add {IMDS_V6}/128 dev lo nodad
         addr add {POD_IDENTITY_V6}/128 dev lo nodad
         route add default via {NODE}
         route add default via fd14::1\n"
    )
}

/// Makes the node's network in the namespace that this process is in, and returns that of IMDS.
pub(super) fn make() -> Result<Namespace> {
    for switch in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/{switch}"), "1").with_context(|| format!("set the sysctl {switch}"))?;
    }
    let imds = Namespace::create()?;
    feed("ip", &["-batch", "-"], &node_lines(&imds))?;
    imds.run(|| feed("ip", &["-batch", "-"], &imds_lines()))?;
    feed("nft", &["-f", "-"], &service_rules())?;
    Ok(imds)
}

/// What a service proxy does for the only service of the cluster, for pods and for the node itself.
fn service_rules() -> String {
    let rule = format!("ip daddr {SERVICE} tcp dport 443 dnat to {NODE}:{API_PORT}");
    format!(
        "table ip services {{
             chain from_pods {{ type nat hook prerouting priority -100; {rule}; }}
             chain from_node {{ type nat hook output priority -100; {rule}; }}
         }}"
    )
}

/// Gives `text` to a program.
fn feed(program: &str, arguments: &[&str], text: &str) -> Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    child
        .stdin
        .take()
        .context("a piped input")?
        .write_all(text.as_bytes())
        .with_context(|| format!("write to {program}"))?;
    let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    successful(output).map(drop).with_context(|| format!("{program} was given:\n{text}"))
}
