use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::namespace::Namespace;
use crate::process::successful;
use crate::simulator::{IMDS_V4, IMDS_V6, POD_IDENTITY_V4, POD_IDENTITY_V6};

/// The link between the node and IMDS, numbered as a pair: the node's end is even.
const NODE_V4: Ipv4Addr = Ipv4Addr::new(10, 214, 0, 0);
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 214, 0, 1);
const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd14, 0, 0, 0, 0, 0, 0, 0);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd14, 0, 0, 0, 0, 0, 0, 1);

/// Where the pairs begin that number the links between the node and its pods.
const PODS_V4: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
const PODS_V6: Ipv6Addr = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 0);

/// TCP fast open for clients and for all listeners, without cookies, so that the first SYN carries the request
/// (bits 0x1, 0x2, 0x4, 0x200 and 0x400 of `net.ipv4.tcp_fastopen`).
const FAST_OPEN: &str = "1543";

/// The network of a node: its own namespace, and one behind it in which IMDS lives.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) node: Namespace,
    pub(super) imds: Namespace,
}

/// The network of one pod.
#[derive(Debug)]
pub(super) struct PodNetwork {
    pub(super) namespace: Namespace,
    pub(super) addresses: Vec<IpAddr>,
}

/// One end of a link.
struct End<'a> {
    namespace: &'a Namespace,
    device: &'a str,
    mac: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Network {
    pub(super) fn create() -> Result<Self> {
        let network = Self { node: Namespace::create()?, imds: Namespace::create()? };
        let mac = |end| format!("02:00:00:00:00:{end:02x}");
        let node = End { namespace: &network.node, device: "uplink", mac: mac(1), v4: NODE_V4, v6: NODE_V6 };
        let imds =
            End { namespace: &network.imds, device: "eth0", mac: mac(2), v4: GATEWAY_V4, v6: GATEWAY_V6 };
        prepare(node.namespace, &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        prepare(imds.namespace, &[])?;
        ip(
            node.namespace,
            &format!(
                "{}{}
                 route add {IMDS_V4}/32 via {GATEWAY_V4}
                 route add {POD_IDENTITY_V4}/32 via {GATEWAY_V4}
                 route add {IMDS_V6}/128 via {GATEWAY_V6}
                 route add {POD_IDENTITY_V6}/128 via {GATEWAY_V6}",
                node.make_link(&imds),
                node.bring_up(&imds),
            ),
        )?;
        ip(
            imds.namespace,
            &format!(
                "{}
                 addr add {IMDS_V4}/32 dev lo
                 addr add {POD_IDENTITY_V4}/32 dev lo
                 addr add {IMDS_V6}/128 dev lo nodad
                 addr add {POD_IDENTITY_V6}/128 dev lo nodad
                 {}",
                imds.bring_up(&node),
                default_routes(&node),
            ),
        )?;
        Ok(network)
    }

    /// Makes a namespace with a link to the node. `number` must differ from that of every other pod.
    pub(super) fn add_pod(&self, number: u16) -> Result<PodNetwork> {
        let namespace = Namespace::create()?;
        let device = format!("pod{number}");
        let end = |namespace, device, end: u32| {
            let place = 2 * u32::from(number) + end;
            let [_, high, middle, low] = place.to_be_bytes();
            End {
                namespace,
                device,
                mac: format!("02:00:01:{high:02x}:{middle:02x}:{low:02x}"),
                v4: Ipv4Addr::from_bits(PODS_V4.to_bits() + place),
                v6: Ipv6Addr::from_bits(PODS_V6.to_bits() + u128::from(place)),
            }
        };
        let (node, pod) = (end(&self.node, &device, 0), end(&namespace, "eth0", 1));
        prepare(&namespace, &[])?;
        ip(node.namespace, &(node.make_link(&pod) + &node.bring_up(&pod)))?;
        ip(pod.namespace, &(pod.bring_up(&node) + &default_routes(&node)))?;
        let addresses = vec![pod.v4.into(), pod.v6.into()];
        Ok(PodNetwork { namespace, addresses })
    }

    /// Sends what is for IMDS to a hardware address that nobody has.
    pub(super) fn lose_packets_to_imds(&self) -> Result<()> {
        let nobody = "lladdr 02:00:00:00:00:ff dev uplink nud permanent";
        ip(&self.node, &format!("neigh replace {GATEWAY_V4} {nobody}\nneigh replace {GATEWAY_V6} {nobody}\n"))
    }

    /// The addresses from which the node itself, and so every hostNetwork pod, reaches IMDS.
    pub(super) fn node_addresses() -> Vec<IpAddr> {
        vec![NODE_V4.into(), NODE_V6.into()]
    }
}

impl End<'_> {
    /// The line that makes a link between this end and `far`; to be read in this end's namespace.
    fn make_link(&self, far: &End<'_>) -> String {
        format!(
            "link add {} address {} type veth peer name {} address {} netns {}\n",
            self.device,
            self.mac,
            far.device,
            far.mac,
            far.namespace.path()
        )
    }

    /// The lines that give this end its addresses. The far end is written down as a neighbour: asking for it takes
    /// a second where IPv6 has not yet noticed that the link is up.
    fn bring_up(&self, far: &End<'_>) -> String {
        let Self { device, v4, v6, .. } = self;
        format!(
            "link set lo up
             addr add {v4}/31 dev {device}
             addr add {v6}/127 dev {device} nodad
             link set {device} up
             neigh replace {} lladdr {mac} dev {device} nud permanent
             neigh replace {} lladdr {mac} dev {device} nud permanent\n",
            far.v4,
            far.v6,
            mac = far.mac,
        )
    }
}

fn default_routes(gateway: &End<'_>) -> String {
    format!("route add default via {}\nroute add default via {}\n", gateway.v4, gateway.v6)
}

/// Sets what every namespace here needs, then `sysctls`.
fn prepare(namespace: &Namespace, sysctls: &[(&str, &str)]) -> Result<()> {
    let everywhere = [("ipv4/tcp_fastopen", FAST_OPEN), ("ipv4/ping_group_range", "0 2147483647")];
    namespace.run(|| {
        everywhere
            .iter()
            .chain(sysctls)
            .try_for_each(|(name, value)| Namespace::set_sysctl_inside(name, value))
    })
}

/// Gives `lines` to iproute2 inside a namespace, in one go: a process for every line would take most of the time.
fn ip(namespace: &Namespace, lines: &str) -> Result<()> {
    let output = namespace.run(|| {
        let mut child = Command::new("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start iproute2")?;
        child
            .stdin
            .take()
            .context("a piped input")?
            .write_all(lines.as_bytes())
            .context("write to iproute2")?;
        child.wait_with_output().context("wait for iproute2")
    })?;
    successful(output).map(drop).with_context(|| format!("set up links:\n{lines}"))
}
