//! What the backstop is to do, from what the policy says of this node's pods. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use guard_common::{EndpointId, Mode, PodEntry, Ruling, Verdict};

use crate::{endpoints::Endpoints, pods::Pod};

/// What is to become of packets past all sockets' hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The addresses that are guarded.
    pub endpoints: BTreeSet<IpAddr>,
    pub forwarded: Forwarded,
    /// Whether no pod at all may send such frames, on the host's network or not.
    pub everyone: bool,
}

/// What is to become of what pods with networks of their own send, and the host would send on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// Nobody is enforced: it is counted.
    Pass,
    /// Everyone is enforced: who is allowed has a gate, and nobody else may.
    Drop,
    /// Some pods are only audited, those with these addresses.
    DropBut(BTreeSet<IpAddr>),
    /// Unidentified pods are let through, and some pods are enforced, those with these addresses.
    DropFrom(BTreeSet<IpAddr>),
}

/// What matters of a live pod.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub pod: &'a Pod,
    /// Its rulings, as the kernel has them.
    pub entry: &'a PodEntry,
}

impl Wanted {
    /// What follows from the live pods that have a name, and from the rulings for those that have none.
    pub fn of<'a>(
        endpoints: &Endpoints,
        pods: impl Iterator<Item = Known<'a>> + Clone,
        unidentified: &PodEntry,
    ) -> Self {
        let imds = endpoints.id(Endpoints::IMDS).unwrap_or_default();
        let may = |entry: &PodEntry, endpoint| reaches(entry, endpoint);
        let strangers_may = may(unidentified, imds);
        let with_network = pods.clone().filter(|known| !known.pod.workload.host_network);
        let addresses = |reaching: bool| {
            let some = with_network.clone().filter(move |known| may(known.entry, imds) == reaching);
            some.flat_map(|known| known.pod.addresses.iter().copied()).collect::<BTreeSet<_>>()
        };
        let (any_may, any_may_not) = (
            with_network.clone().any(|known| may(known.entry, imds)),
            with_network.clone().any(|known| !may(known.entry, imds)),
        );
        let forwarded = match (strangers_may, any_may, any_may_not) {
            (false, false, _) => Forwarded::Drop,
            (false, true, _) => Forwarded::DropBut(addresses(true)),
            (true, _, false) => Forwarded::Pass,
            (true, _, true) => Forwarded::DropFrom(addresses(false)),
        };
        // Other endpoints are answered on the node itself, or allowed: they count where they are denied to everyone.
        let everyone_denied = |endpoint| {
            denies(unidentified.ruling(endpoint))
                && pods.clone().all(|known| denies(known.entry.ruling(endpoint)))
        };
        let guarded = endpoints.iter().filter(|(endpoint, _)| {
            *endpoint == imds || (forwarded == Forwarded::Drop && everyone_denied(*endpoint))
        });
        Self {
            endpoints: guarded.flat_map(|(_, endpoint)| endpoint.addresses.iter().copied()).collect(),
            everyone: forwarded == Forwarded::Drop
                && pods.clone().all(|known| known.entry.ruling(imds).mode() == Mode::Enforce),
            forwarded,
        }
    }

    /// Whether some pods must be told from others by their interface and address, which can be forged.
    pub fn trusts_addresses(&self) -> bool {
        matches!(self.forwarded, Forwarded::DropBut(_) | Forwarded::DropFrom(_))
    }
}

/// Whether packets of a pod may go to an endpoint. One that reaches it through its gate alone sends none.
fn reaches(entry: &PodEntry, endpoint: EndpointId) -> bool {
    let ruling = entry.ruling(endpoint);
    match ruling.mode() {
        Mode::Audit => true,
        Mode::Enforce => ruling.verdict() == Verdict::Allow && !entry.is_gated(endpoint),
    }
}

fn denies(ruling: Ruling) -> bool {
    (ruling.verdict(), ruling.mode()) == (Verdict::Deny, Mode::Enforce)
}
