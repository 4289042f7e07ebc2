use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};

use super::Kind;
use crate::attack::{Conversation, Held, Props, Report, Staged, Vector};
use crate::node::Permissive;
use crate::{Capabilities, Driver, Node, Place, PodHandle, PodSpec, Process};

/// The account that policies allow everything.
const TRUSTED: (&str, &str) = ("shop", "trusted");

/// A node that does what it can for an attacker, with an attacker of every kind, and a pod that may reach IMDS.
#[derive(Debug)]
pub struct Scene {
    permissive: Option<Permissive>,
    attackers: Vec<Attacker>,
    trusted: PodHandle,
    node: Node,
}

/// A pod that attacks.
#[derive(Debug)]
pub struct Attacker {
    pub kind: Kind,
    pod: PodHandle,
    /// The last allowed pod at an address, its open conversation, and later the attacker that gets its address.
    heir: Option<Heir>,
    /// A process of the allowed pod that holds sockets, and may do what the attacker may: from one that may do more
    /// nothing can be taken.
    victim: Option<(Process, Held)>,
    /// Whether the kernel has such devices.
    has_macvlan: bool,
}

#[derive(Debug)]
struct Heir {
    /// `None` only while one takes the other's place.
    pod: Option<PodHandle>,
    conversation: Conversation,
}

impl Scene {
    /// Every vector but those that need neighbours.
    pub fn on_links() -> Result<Self> {
        let node = Node::new(Driver::Systemd)?;
        let permissive = Some(node.make_permissive()?);
        node.add_uplink("uplink1")?;
        let trusted = node.pod(PodSpec::new(TRUSTED.0, TRUSTED.1))?;
        let attackers = Kind::chosen()
            .into_iter()
            .map(|kind| Attacker::on_links(&node, kind, &trusted))
            .collect::<Result<_>>()?;
        Ok(Self { permissive, attackers, trusted, node })
    }

    /// The vectors that need neighbours, from pods that have some.
    pub fn on_bridge() -> Result<Self> {
        let node = Node::on_bridge(Driver::Cgroupfs)?;
        let trusted = node.pod(PodSpec::new(TRUSTED.0, TRUSTED.1))?;
        let kinds = Kind::chosen().into_iter().filter(|kind| !kind.host_network);
        let attackers = kinds
            .map(|kind| {
                Ok(Attacker {
                    kind,
                    pod: node.pod(spec(kind))?,
                    heir: None,
                    victim: None,
                    has_macvlan: false,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { permissive: None, attackers, trusted, node })
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Those who attack.
    pub fn attackers(&self) -> &[Attacker] {
        &self.attackers
    }

    /// The IPv4 address of the pod that may reach IMDS.
    pub fn trusted_address(&self) -> Result<Ipv4Addr> {
        let v4 = self.trusted.addresses().iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        v4.context("the allowed pod has an IPv4 address")
    }

    /// What the scene has for a vector, beside IMDS.
    fn props(&self, attacker: &Attacker, vector: Vector) -> Result<Props> {
        let victim = attacker.victim.as_ref();
        let descriptor = victim.map(|(_, held)| match vector {
            Vector::StolenConnection => held.connected,
            _ => held.unconnected,
        });
        let heir = attacker.heir.as_ref().filter(|_| vector == Vector::AddressReused);
        let device = match vector {
            Vector::LinkMacvlan => "net1",
            _ if attacker.kind.host_network => "uplink1",
            _ => "eth1",
        };
        Ok(Props {
            device: Some(device.to_owned()),
            claim: Some(self.trusted_address()?),
            router: self.permissive.map(|node| node.router),
            router_ipv6: self.permissive.map(|node| node.router_ipv6),
            service: self.permissive.map(|node| node.service),
            victim: victim.map(|(process, _)| process.id()),
            descriptor,
            conversation: heir.map(|heir| heir.conversation.clone()),
        })
    }

    /// What this kernel can't do for a vector.
    pub fn lacks(&self, vector: Vector) -> Option<&'static str> {
        let lacks = match (vector, self.permissive) {
            (Vector::Ipip, Some(node)) => !node.unwraps_ipip,
            (Vector::Vxlan, Some(node)) => !node.unwraps_vxlan,
            (Vector::LinkMacvlan, _) => !self.attackers.iter().any(|attacker| attacker.has_macvlan),
            _ => false,
        };
        lacks.then_some("unsupported")
    }

    /// Starts an attack, up to its pause if it has one.
    pub fn stage(&self, attacker: &Attacker, vector: Vector) -> Result<Staged> {
        let place = attacker.place(vector).with(attacker.kind.capabilities);
        place.stage_with(vector, &self.props(attacker, vector)?)
    }

    /// Performs an attack.
    pub fn attack(&self, attacker: &Attacker, vector: Vector) -> Result<Report> {
        self.stage(attacker, vector)?.proceed()
    }

    /// Performs an attack as it would be in a privileged container.
    pub fn attack_privileged(&self, attacker: &Attacker, vector: Vector) -> Result<Report> {
        let place = attacker.place(vector).with(Capabilities::All);
        place.stage_with(vector, &self.props(attacker, vector)?)?.proceed()
    }

    /// Deletes the allowed pods that began conversations; attackers get their addresses.
    pub fn inherit(&mut self) -> Result<()> {
        for Attacker { kind, heir, .. } in &mut self.attackers {
            if let Some(heir) = heir
                && let Some(predecessor) = heir.pod.take()
            {
                heir.pod = Some(self.node.pod_in_place_of(predecessor, spec(*kind))?);
            }
        }
        Ok(())
    }
}

impl Attacker {
    fn on_links(node: &Node, kind: Kind, trusted: &Place) -> Result<Self> {
        let pod = node.pod(spec(kind))?;
        let victim = Some(trusted.with(kind.capabilities).hold_sockets()?);
        if kind.host_network {
            return Ok(Self { kind, pod, heir: None, victim, has_macvlan: false });
        }
        node.add_device(&pod, "eth1")?;
        let has_macvlan = node.add_macvlan(&pod, "net1").is_ok();
        let predecessor = node.pod(PodSpec::new(TRUSTED.0, TRUSTED.1))?;
        let conversation = predecessor.begin_conversation()?;
        Ok(Self { kind, pod, heir: Some(Heir { pod: Some(predecessor), conversation }), victim, has_macvlan })
    }

    /// Where it attacks from.
    fn place(&self, vector: Vector) -> &Place {
        let heir = self.heir.as_ref().filter(|_| vector == Vector::AddressReused);
        heir.and_then(|heir| heir.pod.as_ref()).unwrap_or(&self.pod)
    }
}

fn spec(kind: Kind) -> PodSpec {
    let spec = PodSpec::new("shop", &kind.account());
    if kind.host_network { spec.on_host_network() } else { spec }
}
