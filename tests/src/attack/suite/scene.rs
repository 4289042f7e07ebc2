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
    /// Processes of the allowed pod that hold sockets, one for each set of capabilities: who has fewer than another
    /// process can take nothing from it.
    holders: Vec<(Capabilities, Process, Held)>,
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
        let holders = [Capabilities::None, Capabilities::Default, Capabilities::NetAdmin]
            .into_iter()
            .map(|capabilities| {
                let (holder, held) = trusted.with(capabilities).hold_sockets()?;
                Ok((capabilities, holder, held))
            })
            .collect::<Result<_>>()?;
        let attackers = Kind::ALL.into_iter().map(|kind| Attacker::on_links(&node, kind));
        Ok(Self { permissive, holders, attackers: attackers.collect::<Result<_>>()?, trusted, node })
    }

    /// The vectors that need neighbours, from pods that have some.
    pub fn on_bridge() -> Result<Self> {
        let node = Node::on_bridge(Driver::Cgroupfs)?;
        let trusted = node.pod(PodSpec::new(TRUSTED.0, TRUSTED.1))?;
        let kinds = Kind::ALL.into_iter().filter(|kind| !kind.host_network);
        let attackers = kinds
            .map(|kind| Ok(Attacker { kind, pod: node.pod(spec(kind))?, heir: None }))
            .collect::<Result<_>>()?;
        Ok(Self { permissive: None, holders: Vec::new(), attackers, trusted, node })
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
        let holder =
            self.holders.iter().find(|(capabilities, ..)| *capabilities == attacker.kind.capabilities);
        let descriptor = holder.map(|(.., held)| match vector {
            Vector::StolenConnection => held.connected,
            _ => held.unconnected,
        });
        let heir = attacker.heir.as_ref().filter(|_| vector == Vector::AddressReused);
        Ok(Props {
            device: Some(if attacker.kind.host_network { "uplink1" } else { "eth1" }.to_owned()),
            claim: Some(self.trusted_address()?),
            router: self.permissive.map(|node| node.router),
            router_ipv6: self.permissive.map(|node| node.router_ipv6),
            service: self.permissive.map(|node| node.service),
            victim: holder.map(|(_, process, _)| process.id()),
            descriptor,
            conversation: heir.map(|heir| heir.conversation.clone()),
        })
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
    fn on_links(node: &Node, kind: Kind) -> Result<Self> {
        let pod = node.pod(spec(kind))?;
        if kind.host_network {
            return Ok(Self { kind, pod, heir: None });
        }
        node.add_device(&pod, "eth1")?;
        let predecessor = node.pod(PodSpec::new(TRUSTED.0, TRUSTED.1))?;
        let conversation = predecessor.begin_conversation()?;
        Ok(Self { kind, pod, heir: Some(Heir { pod: Some(predecessor), conversation }) })
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
