//! What should stand in the host's packet filter, as a value: chains, rules, and what each counts. Pure.
//!
//! ```text
//!  table inet imds_guard                                    table netdev imds_guard
//!    forward      to an endpoint ──────────┐                  bypass, on each uplink:
//!    postrouting  came in, to an endpoint ─┴─▶ judge             made by the IP stack ─▶ accept
//!                                                                by a socket, to an endpoint ─▶ count, drop
//! ```
//!
//! `forward` sees the destination after a Service has translated it. What IPVS sends on, and what is routed by its source
//! options, passes that hook with another destination or not at all: `postrouting` sees it as it leaves. What the host's
//! own sockets send did not come in, and is never looked at.
//!
//! `bypass` sees each frame that leaves. Whatever the IP stack made has a route with it (`meta rtclassid` tells); a frame of
//! a packet socket has none.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

/// The names of the chains, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Chain {
    Judge,
    Forward,
    Postrouting,
    Bypass,
}

/// What is counted, under names that stay: a counter outlives the rules that use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Counter {
    ForwardDropped,
    ForwardPassed,
    BypassDropped,
    BypassPassed,
}

/// A pod's packets, as the host sees them come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source {
    /// The index of the interface on the pod's side.
    pub(super) interface: u32,
    pub(super) address: IpAddr,
}

/// What becomes of the packets that pods send to an endpoint past all sockets' hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Forwarded {
    /// Nobody is enforced.
    Pass,
    /// Whoever may reach the endpoint has its gate.
    Drop,
    /// Only these may.
    DropBut(BTreeSet<Source>),
    /// Only these may not.
    DropFrom(BTreeSet<Source>),
}

/// What should hold for packets that the host sends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Forward {
    /// The addresses that are guarded.
    pub(super) endpoints: BTreeSet<IpAddr>,
    pub(super) forwarded: Forwarded,
}

/// What should hold for frames of packet sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bypass {
    /// The addresses that are guarded.
    pub(super) endpoints: BTreeSet<IpAddr>,
    /// The names of the devices through which frames can leave to one.
    pub(super) uplinks: BTreeSet<String>,
    /// Whether they are dropped, or only counted.
    pub(super) drops: bool,
}

/// The two tables, which have one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    Inet,
    Netdev,
}

/// A whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) family: Family,
    pub(super) counters: Vec<Counter>,
    pub(super) chains: Vec<Chain>,
    /// The names of the devices that the chains of `netdev` are at.
    pub(super) devices: BTreeSet<String>,
    /// In their order.
    pub(super) rules: Vec<Rule>,
}

/// One rule: all that must hold, what counts it, and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) chain: Chain,
    pub(super) matches: Vec<Match>,
    pub(super) counter: Option<Counter>,
    pub(super) verdict: Verdict,
}

/// Something that holds of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    To(IpAddr),
    From(IpAddr),
    /// Its source is in [`IPV4_EGRESS`].
    FromIpv4Egress,
    CameInAt(u32),
    /// It did not come in: the host made it.
    IsOwn,
    /// The IP stack made it.
    HasRoute,
    /// A socket of this network namespace made it.
    HasSocket,
    /// It is an Ethernet frame to this address, behind this many VLAN tags.
    FrameTo(IpAddr, u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    /// The rules of another chain come next, then the next of this one.
    Jump(Chain),
    /// Back to where the jump was.
    Return,
    Continue,
}

/// Where the VPC CNI gives pods of IPv6 clusters their IPv4 addresses for what leaves the node, and the mask of that
/// range. These addresses are no pod's in the API.
pub(super) const IPV4_EGRESS: (Ipv4Addr, Ipv4Addr) =
    (Ipv4Addr::new(169, 254, 172, 0), Ipv4Addr::new(255, 255, 252, 0));

/// VLAN tags that are looked behind.
const VLAN_TAGS: u8 = 2;

impl Chain {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Judge => "judge",
            Self::Forward => "forward",
            Self::Postrouting => "postrouting",
            Self::Bypass => "bypass",
        }
    }
}

impl Counter {
    pub(super) const ALL: [Self; 4] =
        [Self::ForwardDropped, Self::ForwardPassed, Self::BypassDropped, Self::BypassPassed];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ForwardDropped => "forward_drop",
            Self::ForwardPassed => "forward_pass",
            Self::BypassDropped => "bypass_drop",
            Self::BypassPassed => "bypass_pass",
        }
    }
}

impl Forward {
    pub(super) fn table(&self) -> Table {
        let mut rules = self.judge();
        for address in &self.endpoints {
            let to = || vec![Match::To(*address)];
            rules.push(Rule::new(Chain::Forward, to(), None, Verdict::Jump(Chain::Judge)));
            // What comes back has passed. It is counted here, for `postrouting` sees it again.
            rules.push(Rule::new(Chain::Forward, to(), Some(Counter::ForwardPassed), Verdict::Continue));
        }
        rules.push(Rule::new(Chain::Postrouting, vec![Match::IsOwn], None, Verdict::Accept));
        for address in &self.endpoints {
            let to = vec![Match::To(*address)];
            rules.push(Rule::new(Chain::Postrouting, to, None, Verdict::Jump(Chain::Judge)));
        }
        Table {
            family: Family::Inet,
            counters: vec![Counter::ForwardDropped, Counter::ForwardPassed],
            chains: vec![Chain::Judge, Chain::Forward, Chain::Postrouting],
            devices: BTreeSet::new(),
            rules,
        }
    }

    fn judge(&self) -> Vec<Rule> {
        let drop = |matches| Rule::new(Chain::Judge, matches, Some(Counter::ForwardDropped), Verdict::Drop);
        let pass = |matches| Rule::new(Chain::Judge, matches, None, Verdict::Return);
        let from = |source: &Source| vec![Match::CameInAt(source.interface), Match::From(source.address)];
        match &self.forwarded {
            Forwarded::Pass => Vec::new(),
            Forwarded::Drop => vec![drop(vec![])],
            Forwarded::DropBut(sources) => {
                let mut rules: Vec<_> = sources.iter().map(|source| pass(from(source))).collect();
                if sources.iter().any(|source| source.address.is_ipv6()) {
                    rules.push(pass(vec![Match::FromIpv4Egress]));
                }
                rules.push(drop(vec![]));
                rules
            }
            Forwarded::DropFrom(sources) => sources.iter().map(|source| drop(from(source))).collect(),
        }
    }
}

impl Bypass {
    pub(super) fn table(&self) -> Table {
        let (counter, verdict) = if self.drops {
            (Counter::BypassDropped, Verdict::Drop)
        } else {
            (Counter::BypassPassed, Verdict::Continue)
        };
        let mut rules = vec![Rule::new(Chain::Bypass, vec![Match::HasRoute], None, Verdict::Accept)];
        for address in &self.endpoints {
            for tags in 0..=VLAN_TAGS {
                let matches = vec![Match::HasSocket, Match::FrameTo(*address, tags)];
                rules.push(Rule::new(Chain::Bypass, matches, Some(counter), verdict));
            }
        }
        Table {
            family: Family::Netdev,
            counters: vec![Counter::BypassDropped, Counter::BypassPassed],
            chains: vec![Chain::Bypass],
            devices: self.uplinks.clone(),
            rules,
        }
    }
}

impl Rule {
    const fn new(chain: Chain, matches: Vec<Match>, counter: Option<Counter>, verdict: Verdict) -> Self {
        Self { chain, matches, counter, verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMDS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

    fn table(forwarded: Forwarded) -> Table {
        Forward { endpoints: [IMDS].into(), forwarded }.table()
    }

    fn source(interface: u32, address: &str) -> Source {
        Source { interface, address: address.parse().expect("an address") }
    }

    /// What the chain `judge` does, in short.
    fn judge(forwarded: Forwarded) -> Vec<(Vec<Match>, Verdict)> {
        let rules = table(forwarded).rules.into_iter().filter(|rule| rule.chain == Chain::Judge);
        rules.map(|rule| (rule.matches, rule.verdict)).collect()
    }

    #[test]
    fn what_is_judged_follows_what_is_wanted() {
        let (v4, v6) = (source(7, "10.0.0.7"), source(8, "fd00::8"));
        let from = |source: Source| vec![Match::CameInAt(source.interface), Match::From(source.address)];
        assert_eq!(judge(Forwarded::Pass), []);
        assert_eq!(judge(Forwarded::Drop), [(vec![], Verdict::Drop)]);
        assert_eq!(
            judge(Forwarded::DropBut([v4].into())),
            [(from(v4), Verdict::Return), (vec![], Verdict::Drop)]
        );
        assert_eq!(
            judge(Forwarded::DropBut([v6].into())),
            [
                (from(v6), Verdict::Return),
                (vec![Match::FromIpv4Egress], Verdict::Return),
                (vec![], Verdict::Drop)
            ],
            "an IPv6 pod may have an IPv4 address that the API does not know"
        );
        assert_eq!(judge(Forwarded::DropFrom([v4].into())), [(from(v4), Verdict::Drop)]);
    }

    #[test]
    fn only_what_goes_to_an_endpoint_is_judged_and_nothing_of_the_host() {
        let rules = table(Forwarded::Drop).rules;
        let of = |chain| rules.iter().filter(move |rule| rule.chain == chain);
        let to_judge = |rule: &&Rule| rule.verdict == Verdict::Jump(Chain::Judge);
        for chain in [Chain::Forward, Chain::Postrouting] {
            let judged: Vec<_> = of(chain).filter(to_judge).map(|rule| rule.matches.clone()).collect();
            assert_eq!(judged, [[Match::To(IMDS)]], "{chain:?}");
        }
        let first = of(Chain::Postrouting).next().expect("a rule");
        assert_eq!((&first.matches[..], first.verdict), (&[Match::IsOwn][..], Verdict::Accept));
    }

    #[test]
    fn frames_of_the_stack_are_let_go_first() {
        let uplinks = ["eth0".to_owned()].into();
        let bypass = Bypass { endpoints: [IMDS].into(), uplinks, drops: true }.table().rules;
        assert_eq!((&bypass[0].matches[..], bypass[0].verdict), (&[Match::HasRoute][..], Verdict::Accept));
        assert!(bypass[1..].iter().all(|rule| rule.verdict == Verdict::Drop));
        assert!(bypass[1..].iter().all(|rule| rule.matches.contains(&Match::HasSocket)));
    }
}
