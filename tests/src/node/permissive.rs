//! A node that does whatever a node may be told to do for those who send it packets.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use super::Node;
use super::network::{GATEWAY_V6, NODE_V4, NODE_V6};
use crate::attack::{VXLAN, VXLAN_MAC, VXLAN_PORT};
use crate::namespace::Namespace;
use crate::simulator::IMDS_V6;

/// The address of a service, as kube-proxy has it translated.
const SERVICE: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0x80);

/// Where a permissive node may be asked for its services.
#[derive(Clone, Copy, Debug)]
pub struct Permissive {
    /// The node's addresses, by which it routes and unwraps.
    pub router: Ipv4Addr,
    pub router_ipv6: Ipv6Addr,
    /// A service, of which the node makes IMDS.
    pub service: SocketAddr,
    /// Whether its kernel has such devices.
    pub unwraps_vxlan: bool,
    pub unwraps_ipip: bool,
}

impl Node {
    /// Lets the node follow source routes and routing headers, unwrap VXLAN and IPIP, and translate a service whose
    /// endpoint is IMDS. To be called before there are pods: their devices inherit it.
    pub fn make_permissive(&self) -> Result<Permissive> {
        let node = &self.network.node;
        set(
            node,
            &[
                ("ipv4/conf/all/accept_source_route", "1"),
                ("ipv4/conf/default/accept_source_route", "1"),
                ("ipv6/conf/all/seg6_enabled", "1"),
                ("ipv6/conf/default/seg6_enabled", "1"),
                ("ipv6/conf/uplink/seg6_enabled", "1"),
            ],
        )?;
        // IMDS takes what has come round; nothing is known of the real one.
        set(
            &self.network.imds,
            &[
                ("ipv4/conf/all/accept_source_route", "1"),
                ("ipv6/conf/all/seg6_enabled", "1"),
                ("ipv6/conf/eth0/seg6_enabled", "1"),
            ],
        )?;
        let mac = VXLAN_MAC.map(|byte| format!("{byte:02x}")).join(":");
        let vxlan = node.ip(&format!(
            "link add vxlan0 address {mac} type vxlan id {VXLAN} dstport {VXLAN_PORT}\nlink set vxlan0 up"
        ));
        let ipip = node.ip(&format!("link add ipip0 type ipip local {NODE_V4}\nlink set ipip0 up"));
        node.ip(&format!("route add {SERVICE}/128 via {GATEWAY_V6}"))?;
        let translate = format!("ip6 daddr {SERVICE} tcp dport 80 dnat to [{IMDS_V6}]:80");
        // Many hosts let through what belongs to a connection that they know.
        let known = "type filter hook forward priority 0; ct state established,related accept;";
        node.nft(&format!(
            "table inet host {{
                 chain forward {{ {known} }}
             }}
             table ip6 services {{
                 chain prerouting {{ type nat hook prerouting priority -100; {translate}; }}
                 chain output {{ type nat hook output priority -100; {translate}; }}
             }}"
        ))?;
        Ok(Permissive {
            router: NODE_V4,
            router_ipv6: NODE_V6,
            service: (SERVICE, 80).into(),
            unwraps_vxlan: vxlan.is_ok(),
            unwraps_ipip: ipip.is_ok(),
        })
    }
}

fn set(namespace: &Namespace, sysctls: &[(&str, &str)]) -> Result<()> {
    namespace.run(|| sysctls.iter().try_for_each(|(name, value)| Namespace::set_sysctl_inside(name, value)))
}
