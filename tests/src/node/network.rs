use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::namespace::Namespace;
use crate::simulator::{IMDS_V4, IMDS_V6, POD_IDENTITY_V4, POD_IDENTITY_V6};

/// The link between the node and IMDS, numbered as a pair: the node's end is even.
pub(super) const NODE_V4: Ipv4Addr = Ipv4Addr::new(10, 214, 0, 0);
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 214, 0, 1);
pub(super) const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd14, 0, 0, 0, 0, 0, 0, 0);
pub(super) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd14, 0, 0, 0, 0, 0, 0, 1);

const NODE_MAC: &str = "02:00:00:00:00:01";
const GATEWAY_MAC: &str = "02:00:00:00:00:02";

/// Where the pairs begin that number the links between the node and its pods.
const PODS_V4: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
const PODS_V6: Ipv6Addr = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 0);

/// TCP fast open for clients and for all listeners, without cookies, so that the first SYN carries the request
/// (bits 0x1, 0x2, 0x4, 0x200 and 0x400 of `net.ipv4.tcp_fastopen`).
const FAST_OPEN: &str = "1543";

/// The node's addresses on its bridge, if it has one, and how far the bridge reaches.
const BRIDGE_V4: Ipv4Addr = Ipv4Addr::new(10, 128, 255, 254);
const BRIDGE_V6: Ipv6Addr = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0xffff, 0xffff);
const BRIDGE: &str = "cni0";
const BRIDGE_MAC: &str = "02:00:00:00:00:03";
const BRIDGED: (u8, u8) = (16, 64);

/// How the pods of a node are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Each by a link of its own, as the VPC CNI does it.
    Links,
    /// All to one bridge, so that they are each other's neighbours, as many CNIs do it.
    Bridge,
}

/// The network of a node: its own namespace, and one behind it in which IMDS lives.
#[derive(Debug)]
pub(super) struct Network {
    layout: Layout,
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
    /// How many bits of its addresses name the link.
    prefixes: (u8, u8),
}

/// Both addresses are the only ones on their link but for the far end's.
const PAIRED: (u8, u8) = (31, 127);

impl Network {
    pub(super) fn create(layout: Layout) -> Result<Self> {
        let network = Self { layout, node: Namespace::create()?, imds: Namespace::create()? };
        let node = End {
            namespace: &network.node,
            device: "uplink",
            mac: NODE_MAC.to_owned(),
            v4: NODE_V4,
            v6: NODE_V6,
            prefixes: PAIRED,
        };
        let imds = End {
            namespace: &network.imds,
            device: "eth0",
            mac: GATEWAY_MAC.to_owned(),
            v4: GATEWAY_V4,
            v6: GATEWAY_V6,
            prefixes: PAIRED,
        };
        prepare(node.namespace, &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        prepare(imds.namespace, &[])?;
        node.namespace.ip(&format!(
            "{}{}
                 route add {IMDS_V4}/32 via {GATEWAY_V4}
                 route add {POD_IDENTITY_V4}/32 via {GATEWAY_V4}
                 route add {IMDS_V6}/128 via {GATEWAY_V6}
                 route add {POD_IDENTITY_V6}/128 via {GATEWAY_V6}",
            node.make_link(&imds),
            node.bring_up(&imds),
        ))?;
        imds.namespace.ip(&format!(
            "{}
                 addr add {IMDS_V4}/32 dev lo
                 addr add {POD_IDENTITY_V4}/32 dev lo
                 addr add {IMDS_V6}/128 dev lo nodad
                 addr add {POD_IDENTITY_V6}/128 dev lo nodad
                 {}",
            imds.bring_up(&node),
            default_routes(&node),
        ))?;
        if layout == Layout::Bridge {
            network.make_bridge()?;
        }
        Ok(network)
    }

    /// Makes a namespace with a link to the node. `number` must differ from that of every other pod.
    pub(super) fn add_pod(&self, number: u16) -> Result<PodNetwork> {
        let namespace = Namespace::create()?;
        prepare(&namespace, &[])?;
        let device = format!("pod{number}");
        let (node, pod) = (End::near(number, &self.node, &device), End::far(number, &namespace, "eth0"));
        let addresses = vec![pod.v4.into(), pod.v6.into()];
        match self.layout {
            Layout::Links => {
                node.namespace.ip(&(node.make_link(&pod) + &node.bring_up(&pod)))?;
                pod.namespace.ip(&(pod.bring_up(&node) + &default_routes(&node)))?;
            }
            Layout::Bridge => {
                let (bridge, pod) = (End::bridge(&self.node), End { prefixes: BRIDGED, ..pod });
                let attach = format!("link set {device} master {BRIDGE} up\n");
                node.namespace.ip(&(node.make_link(&pod) + &attach))?;
                pod.namespace.ip(&(pod.bring_up(&bridge) + &default_routes(&bridge)))?;
            }
        }
        Ok(PodNetwork { namespace, addresses })
    }

    /// Makes one more link between the node and one of its pods, without a route over it.
    pub(super) fn add_device(&self, number: u16, pod: &Namespace, device: &str) -> Result<()> {
        let near = format!("pod{number}");
        add_pair(&End::near(number, &self.node, &near), &End::far(number, pod, device))
    }

    /// Makes one more link between the node and IMDS, without a route over it.
    pub(super) fn add_uplink(&self, number: u16, device: &str) -> Result<()> {
        add_pair(&End::near(number, &self.node, device), &End::far(number, &self.imds, device))
    }

    /// Gives a pod a device of its own on the uplink, past the node. IMDS knows its address.
    pub(super) fn add_macvlan(&self, number: u16, pod: &Namespace, device: &str) -> Result<()> {
        let End { mac, v4, .. } = End::far(number, pod, device);
        let uplink =
            format!("link add link uplink name {device} address {mac} netns {} type macvlan", pod.path());
        self.node.ip(&format!("{uplink} mode bridge"))?;
        pod.ip(&format!(
            "addr add {v4}/32 dev {device}
             link set {device} up
             neigh replace {GATEWAY_V4} lladdr {GATEWAY_MAC} dev {device} nud permanent"
        ))?;
        self.imds.ip(&format!(
            "route add {v4}/32 dev eth0
             neigh replace {v4} lladdr {mac} dev eth0 nud permanent"
        ))
    }

    /// Removes a pod's link, both its ends.
    pub(super) fn remove_link(&self, number: u16) -> Result<()> {
        self.node.ip(&format!("link delete pod{number}"))
    }

    fn make_bridge(&self) -> Result<()> {
        let (v4, v6) = BRIDGED;
        self.node.ip(&format!(
            "link add {BRIDGE} address {BRIDGE_MAC} type bridge forward_delay 0
             addr add {BRIDGE_V4}/{v4} dev {BRIDGE}
             addr add {BRIDGE_V6}/{v6} dev {BRIDGE} nodad
             link set {BRIDGE} up"
        ))
    }

    /// Sends what is for IMDS to a hardware address that nobody has.
    pub(super) fn lose_packets_to_imds(&self) -> Result<()> {
        let nobody = "lladdr 02:00:00:00:00:ff dev uplink nud permanent";
        self.node.ip(&format!("neigh replace {GATEWAY_V4} {nobody}\nneigh replace {GATEWAY_V6} {nobody}\n"))
    }

    /// The addresses from which the node itself, and so every hostNetwork pod, reaches IMDS.
    pub(super) fn node_addresses() -> Vec<IpAddr> {
        vec![NODE_V4.into(), NODE_V6.into()]
    }
}

impl<'a> End<'a> {
    /// The node's end of the link with this number.
    fn near(number: u16, namespace: &'a Namespace, device: &'a str) -> Self {
        Self::paired(2 * u32::from(number), namespace, device)
    }

    /// The other end.
    fn far(number: u16, namespace: &'a Namespace, device: &'a str) -> Self {
        Self::paired(2 * u32::from(number) + 1, namespace, device)
    }

    fn paired(place: u32, namespace: &'a Namespace, device: &'a str) -> Self {
        let [_, high, middle, low] = place.to_be_bytes();
        Self {
            namespace,
            device,
            mac: format!("02:00:01:{high:02x}:{middle:02x}:{low:02x}"),
            v4: Ipv4Addr::from_bits(PODS_V4.to_bits() + place),
            v6: Ipv6Addr::from_bits(PODS_V6.to_bits() + u128::from(place)),
            prefixes: PAIRED,
        }
    }

    fn bridge(node: &'a Namespace) -> Self {
        let mac = BRIDGE_MAC.to_owned();
        Self { namespace: node, device: BRIDGE, mac, v4: BRIDGE_V4, v6: BRIDGE_V6, prefixes: BRIDGED }
    }

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
        let Self { device, v4, v6, prefixes: (bits_v4, bits_v6), .. } = self;
        format!(
            "link set lo up
             addr add {v4}/{bits_v4} dev {device}
             addr add {v6}/{bits_v6} dev {device} nodad
             link set {device} up
             neigh replace {} lladdr {mac} dev {device} nud permanent
             neigh replace {} lladdr {mac} dev {device} nud permanent\n",
            far.v4,
            far.v6,
            mac = far.mac,
        )
    }
}

/// Makes a link, and both its ends.
fn add_pair(near: &End<'_>, far: &End<'_>) -> Result<()> {
    near.namespace.ip(&(near.make_link(far) + &near.bring_up(far)))?;
    far.namespace.ip(&far.bring_up(near))
}

fn default_routes(gateway: &End<'_>) -> String {
    format!("route add default via {}\nroute add default via {}\n", gateway.v4, gateway.v6)
}

/// Sets what every namespace here needs, then `sysctls`.
fn prepare(namespace: &Namespace, sysctls: &[(&str, &str)]) -> Result<()> {
    let everywhere = [
        ("ipv4/tcp_fastopen", FAST_OPEN),
        ("ipv4/ping_group_range", "0 2147483647"),
        // Some hosts check where packets come from. Nobody here is saved by that.
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
    ];
    namespace.run(|| {
        everywhere
            .iter()
            .chain(sysctls)
            .try_for_each(|(name, value)| Namespace::set_sysctl_inside(name, value))
    })
}
