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
    pub fn of(endpoints: &Endpoints, pods: &[Known<'_>], unidentified: &PodEntry) -> Self {
        let imds = endpoints.id(Endpoints::IMDS).unwrap_or_default();
        let with_network = pods.iter().filter(|known| !known.pod.workload.host_network);
        let (reaching, stopped): (Vec<&Known<'_>>, Vec<_>) =
            with_network.partition(|known| reaches(known.entry, imds));
        let addresses = |pods: &[&Known<'_>]| {
            pods.iter().flat_map(|known| known.pod.addresses.iter().copied()).collect::<BTreeSet<_>>()
        };
        let forwarded = match (reaches(unidentified, imds), reaching.is_empty(), stopped.is_empty()) {
            (false, true, _) => Forwarded::Drop,
            // Audit holds nobody up: until all addresses of who may reach it are known, only those who may not are dropped.
            (false, false, _) if reaching.iter().any(|known| known.pod.addresses.is_empty()) => {
                Forwarded::DropFrom(addresses(&stopped))
            }
            (false, false, _) => Forwarded::DropBut(addresses(&reaching)),
            (true, _, true) => Forwarded::Pass,
            (true, _, false) => Forwarded::DropFrom(addresses(&stopped)),
        };
        // Other endpoints are answered on the node itself, or allowed: they count where they are denied to everyone.
        let everyone_denied = |endpoint| {
            denies(unidentified.ruling(endpoint))
                && pods.iter().all(|known| denies(known.entry.ruling(endpoint)))
        };
        let guarded = endpoints.iter().filter(|(endpoint, _)| {
            *endpoint == imds || (forwarded == Forwarded::Drop && everyone_denied(*endpoint))
        });
        Self {
            endpoints: guarded.flat_map(|(_, endpoint)| endpoint.addresses.iter().copied()).collect(),
            everyone: forwarded == Forwarded::Drop
                && pods.iter().all(|known| known.entry.ruling(imds).mode() == Mode::Enforce),
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

#[cfg(test)]
mod tests {
    use guard_common::MAX_ENDPOINTS;

    use super::*;
    use crate::{pods::PodUid, workload::Workload};

    const AUDITED: Ruling = Ruling::new(Verdict::Deny, Mode::Audit, 0);
    const DENIED: Ruling = Ruling::new(Verdict::Deny, Mode::Enforce, 0);
    const ALLOWED: Ruling = Ruling::new(Verdict::Allow, Mode::Enforce, 0);
    const OPEN: Ruling = Ruling::new(Verdict::Allow, Mode::Audit, 0);

    fn entry(ruling: Ruling) -> PodEntry {
        PodEntry::pod([ruling; MAX_ENDPOINTS])
    }

    fn pod(address: &str, host_network: bool) -> Pod {
        Pod {
            uid: PodUid::new(address),
            declared_uid: address.to_owned(),
            name: "pod".to_owned(),
            workload: Workload { host_network, ..Workload::default() },
            service_account: None,
            containers: [].into(),
            addresses: vec![address.parse().expect("an address")],
        }
    }

    fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
        list.iter().map(|address| address.parse().expect("an address")).collect()
    }

    #[test]
    fn what_is_wanted_follows_from_the_rulings() {
        let endpoints = Endpoints::with(&[]).expect("no additions");
        let imds = endpoints.id(Endpoints::IMDS).expect("built in");
        let gated = |ruling| entry(ruling).through_gate(imds, None);
        let (a, b, host) = (pod("10.0.0.1", false), pod("10.0.0.2", false), pod("10.9.9.9", true));
        let but = |list: &[&str]| Forwarded::DropBut(addresses(list));
        let from = |list: &[&str]| Forwarded::DropFrom(addresses(list));
        // The case, the pods and their entries, the ruling for the unidentified; what is wanted, and of everyone or not.
        #[expect(clippy::type_complexity, reason = "a table of cases")]
        let cases: [(&str, &[(&Pod, PodEntry)], Ruling, Forwarded, bool); 10] = [
            ("no pods, audit", &[], OPEN, Forwarded::Pass, false),
            ("no pods, enforced", &[], DENIED, Forwarded::Drop, true),
            ("all audited", &[(&a, entry(AUDITED)), (&b, entry(AUDITED))], OPEN, Forwarded::Pass, false),
            ("all denied", &[(&a, gated(DENIED)), (&b, gated(DENIED))], DENIED, Forwarded::Drop, true),
            (
                "allowed by a gate",
                &[(&a, gated(ALLOWED)), (&b, gated(DENIED))],
                DENIED,
                Forwarded::Drop,
                true,
            ),
            ("allowed without gates", &[(&a, entry(ALLOWED))], DENIED, but(&["10.0.0.1"]), false),
            (
                "one audited, strangers denied",
                &[(&a, entry(AUDITED)), (&b, gated(DENIED))],
                DENIED,
                but(&["10.0.0.1"]),
                false,
            ),
            (
                "one enforced, strangers allowed",
                &[(&a, entry(AUDITED)), (&b, gated(DENIED))],
                OPEN,
                from(&["10.0.0.2"]),
                false,
            ),
            (
                "an audited pod on the host's network",
                &[(&host, entry(AUDITED))],
                DENIED,
                Forwarded::Drop,
                false,
            ),
            (
                "an allowed pod on the host's network",
                &[(&host, entry(ALLOWED))],
                DENIED,
                Forwarded::Drop,
                true,
            ),
        ];
        for (case, pods, unidentified, forwarded, everyone) in cases {
            let known: Vec<_> = pods.iter().map(|(pod, entry)| Known { pod, entry }).collect();
            let wanted = Wanted::of(&endpoints, &known, &entry(unidentified));
            assert_eq!((&wanted.forwarded, wanted.everyone), (&forwarded, everyone), "{case}");
        }
    }

    #[test]
    fn other_endpoints_count_where_they_are_denied_to_everyone() {
        let endpoints = Endpoints::with(&["vault=10.0.0.99".to_owned()]).expect("a good endpoint");
        let vault: IpAddr = "10.0.0.99".parse().expect("an address");
        let (a, b) = (pod("10.0.0.1", false), pod("10.0.0.2", false));
        let guarded = |first, second, unidentified| {
            let entries = [entry(first), entry(second)].map(|entry| entry.through_gate(0, None));
            let known = [Known { pod: &a, entry: &entries[0] }, Known { pod: &b, entry: &entries[1] }];
            Wanted::of(&endpoints, &known, &entry(unidentified)).endpoints.contains(&vault)
        };
        assert!(guarded(DENIED, DENIED, DENIED));
        assert!(!guarded(DENIED, ALLOWED, DENIED));
        assert!(!guarded(DENIED, DENIED, OPEN));
    }
}
