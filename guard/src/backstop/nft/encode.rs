//! Rules as nftables' own expressions (`linux/netfilter/nf_tables.h`).

use std::net::IpAddr;

use super::super::{
    netlink::Attributes,
    ruleset::{Counter, IPV4_EGRESS, Match, Rule, Verdict},
};

/// The register in which values are compared, and the one of verdicts.
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;

// What `meta` can load.
const META_IIF: u32 = 4;
const META_SKUID: u32 = 10;
const META_RTCLASSID: u32 = 13;
const META_NFPROTO: u32 = 15;

// The families of packets, as `meta nfproto` tells them.
const IPV4: u8 = 2;
const IPV6: u8 = 10;

// From where `payload` reads.
const LINK_HEADER: u32 = 0;
const NETWORK_HEADER: u32 = 1;

const EQUAL: u32 = 0;
const AT_LEAST: u32 = 5;

const COUNTER_OBJECT: u32 = 1;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// Where the type stands in an Ethernet header, how long it is with it, and how long each VLAN tag is.
const ETHERTYPE: u32 = 12;
const ETHERNET: u32 = 14;
const VLAN_TAG: u32 = 4;

/// The expressions of a rule, in a list.
pub(super) fn expressions(rule: &Rule) -> Attributes {
    let mut list = List::default();
    for expected in &rule.matches {
        list = matching(list, *expected);
    }
    if let Some(counter) = rule.counter {
        list = list.add("objref", &object_reference(counter));
    }
    match verdict(rule.verdict) {
        Some(verdict) => list.add("immediate", &verdict).0,
        None => list.0,
    }
}

#[derive(Default)]
struct List(Attributes);

impl List {
    fn add(self, name: &str, data: &Attributes) -> Self {
        let expression = Attributes::default().text(1, name).nest(2, data);
        Self(self.0.nest(1, &expression))
    }

    fn meta(self, key: u32) -> Self {
        self.add("meta", &Attributes::default().number(1, REGISTER).number(2, key))
    }

    fn payload(self, base: u32, offset: u32, length: usize) -> Self {
        let length = u32::try_from(length).expect("a few bytes");
        let place = Attributes::default().number(1, REGISTER).number(2, base);
        self.add("payload", &place.number(3, offset).number(4, length))
    }

    fn mask(self, mask: &[u8]) -> Self {
        let value = |bytes: &[u8]| Attributes::default().bytes(1, bytes);
        let length = u32::try_from(mask.len()).expect("a few bytes");
        let registers = Attributes::default().number(1, REGISTER).number(2, REGISTER).number(3, length);
        self.add("bitwise", &registers.nest(4, &value(mask)).nest(5, &value(&vec![0; mask.len()])))
    }

    fn compare(self, operation: u32, value: &[u8]) -> Self {
        let data = Attributes::default().bytes(1, value);
        self.add("cmp", &Attributes::default().number(1, REGISTER).number(2, operation).nest(3, &data))
    }

    /// The packet has this address at this place of its IPv4 or IPv6 header.
    fn address(self, address: IpAddr, in_ipv4: u32, in_ipv6: u32) -> Self {
        let family = if address.is_ipv4() { IPV4 } else { IPV6 };
        let list = self.meta(META_NFPROTO).compare(EQUAL, &[family]);
        match address {
            IpAddr::V4(v4) => list.payload(NETWORK_HEADER, in_ipv4, 4).compare(EQUAL, &v4.octets()),
            IpAddr::V6(v6) => list.payload(NETWORK_HEADER, in_ipv6, 16).compare(EQUAL, &v6.octets()),
        }
    }
}

fn matching(list: List, expected: Match) -> List {
    match expected {
        Match::To(address) => list.address(address, 16, 24),
        Match::From(address) => list.address(address, 12, 8),
        Match::FromIpv4Egress => {
            let (network, mask) = IPV4_EGRESS;
            let list = list.meta(META_NFPROTO).compare(EQUAL, &[IPV4]);
            let list = list.payload(NETWORK_HEADER, 12, 4).mask(&mask.octets());
            list.compare(EQUAL, &network.octets())
        }
        Match::CameInAt(interface) => list.meta(META_IIF).compare(EQUAL, &interface.to_ne_bytes()),
        Match::IsOwn => list.meta(META_IIF).compare(EQUAL, &0_u32.to_ne_bytes()),
        // Whatever the value is: a packet that has none ends the rule here.
        Match::HasRoute => list.meta(META_RTCLASSID).compare(AT_LEAST, &[0; 4]),
        Match::HasSocket => list.meta(META_SKUID).compare(AT_LEAST, &[0; 4]),
        Match::FrameTo(address, tags) => {
            // The type that the sender wrote into the frame; the one that it told the socket can be another.
            let header = ETHERNET + u32::from(tags) * VLAN_TAG;
            let ethertype = if address.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
            let at = header - ETHERNET + ETHERTYPE;
            let list = list.payload(LINK_HEADER, at, 2).compare(EQUAL, &ethertype);
            match address {
                IpAddr::V4(v4) => list.payload(LINK_HEADER, header + 16, 4).compare(EQUAL, &v4.octets()),
                IpAddr::V6(v6) => list.payload(LINK_HEADER, header + 24, 16).compare(EQUAL, &v6.octets()),
            }
        }
    }
}

fn object_reference(counter: Counter) -> Attributes {
    Attributes::default().number(1, COUNTER_OBJECT).text(2, counter.name())
}

fn verdict(verdict: Verdict) -> Option<Attributes> {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Return => (-5, None),
        Verdict::Continue => return None,
    };
    let mut verdict = Attributes::default().number(1, i32::cast_unsigned(code));
    if let Some(chain) = chain {
        verdict = verdict.text(2, chain.name());
    }
    let data = Attributes::default().nest(2, &verdict);
    Some(Attributes::default().number(1, VERDICT_REGISTER).nest(2, &data))
}
