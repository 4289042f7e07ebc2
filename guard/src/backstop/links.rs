//! Where packets go from here: the devices through which an endpoint can be reached, and the device behind which an address
//! is. It asks the kernel's routes and links, and changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::{Attributes, Changes, DUMP, Talk, find, text};

// linux/rtnetlink.h and linux/if_link.h
const GET_LINK: u16 = 18;
const GET_ROUTE: u16 = 26;
const LINK_NAME: u16 = 3;
const LINK_MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const LINK_INFO_KIND: u16 = 1;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_DEVICE: u16 = 4;

/// The groups that are told of links, and of IPv4 and IPv6 routes.
const CHANGES: u32 = 0x1 | 0x40 | 0x400;

/// The lengths of the headers of links and of routes.
const LINK_HEADER: usize = 16;
const ROUTE_HEADER: usize = 12;

/// An Ethernet device that is up to carrying frames (`ARPHRD_ETHER`).
const ETHERNET: u16 = 1;

/// The kinds of devices with which pods are tied to the host. Some lead elsewhere.
const PAIRS: [&str; 2] = ["veth", "netkit"];

/// How long a new pair is taken for that of a pod whose address is not known yet.
const PODS_WITHIN: Duration = Duration::from_secs(20);

/// Why the links could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    #[error("open a socket to the host's links and routes")]
    Open(#[source] io::Error),
    #[error("list the host's links")]
    List(#[source] io::Error),
    #[error("ask for the route to {address}")]
    Route {
        address: IpAddr,
        #[source]
        source: io::Error,
    },
}

/// A device, by its index. Its name can change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uplink {
    pub index: u32,
    pub name: String,
}

/// The links and routes of one network namespace.
#[derive(Debug)]
pub(super) struct Links {
    talk: Talk,
    /// When the pairs that are no known pod's were seen first; nothing before the first look.
    strange: Option<BTreeMap<u32, Instant>>,
}

impl Links {
    /// Opens them in the namespace that the calling thread is in.
    pub(super) fn open() -> Result<Self, LinksError> {
        let talk = Talk::open(NETLINK_ROUTE).map_err(LinksError::Open)?;
        Ok(Self { talk, strange: None })
    }

    /// A bell that rings when a link or a route changes there.
    pub(super) fn changes() -> Result<Changes, LinksError> {
        Changes::open(NETLINK_ROUTE, CHANGES).map_err(LinksError::Open)
    }

    /// The Ethernet devices through which frames can leave the host: those that have the route to one of `addresses`, and
    /// all but those towards pods. What is behind a bridge, or behind the device of a pod's address, is a pod; so is what
    /// has just come, but what was there before the first look is looked at at once.
    pub(super) fn uplinks(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        pods: &BTreeSet<IpAddr>,
    ) -> Result<BTreeSet<Uplink>, LinksError> {
        let ways: BTreeSet<u32> = self.devices_of(addresses)?.into_values().collect();
        let towards_pods: BTreeSet<u32> = self.devices_of(pods)?.into_values().collect();
        let links = self.list()?;
        let now = Instant::now();
        let known = self.strange.take();
        let mut strange = BTreeMap::new();
        let uplinks = links.into_iter().filter(|Link { uplink, is_ethernet, is_pair, is_port }| {
            if !is_ethernet || ways.contains(&uplink.index) || !is_pair {
                return *is_ethernet;
            }
            if *is_port || towards_pods.contains(&uplink.index) {
                return false;
            }
            let first_look = now.checked_sub(PODS_WITHIN).filter(|_| known.is_none()).unwrap_or(now);
            let since = known.iter().flatten().find(|(index, _)| **index == uplink.index);
            let since = since.map_or(first_look, |(_, since)| *since);
            strange.insert(uplink.index, since);
            now.duration_since(since) >= PODS_WITHIN
        });
        let uplinks = uplinks.map(|link| link.uplink).collect();
        self.strange = Some(strange);
        Ok(uplinks)
    }

    /// The names of all devices.
    pub(super) fn names(&self) -> Result<Vec<String>, LinksError> {
        Ok(self.list()?.into_iter().map(|link| link.uplink.name).collect())
    }

    fn list(&self) -> Result<Vec<Link>, LinksError> {
        let mut question = self.talk.begin();
        question.add(GET_LINK, DUMP, &[0; LINK_HEADER], Attributes::default());
        let links = self.talk.ask(&question).map_err(LinksError::List)?;
        Ok(links.iter().filter_map(|link| Link::parse(link)).collect())
    }

    /// The devices behind which addresses are, where there is a route to them.
    pub(super) fn devices_of(
        &self,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<BTreeMap<IpAddr, u32>, LinksError> {
        let mut devices = BTreeMap::new();
        for address in addresses {
            if let Some(device) = self.device_to(*address)? {
                devices.insert(*address, device);
            }
        }
        Ok(devices)
    }

    /// The index of the device through which an address is reached; none if it is not.
    fn device_to(&self, address: IpAddr) -> Result<Option<u32>, LinksError> {
        let (family, octets) = match address {
            IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
            IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
        };
        let mut header = [0; ROUTE_HEADER];
        header[0] = u8::try_from(family).expect("a small number");
        header[1] = u8::try_from(octets.len() * 8).expect("128 at most");
        let mut question = self.talk.begin();
        question.add(GET_ROUTE, 0, &header, Attributes::default().bytes(ROUTE_DESTINATION, &octets));
        match self.talk.ask(&question) {
            Ok(routes) => Ok(routes.iter().find_map(|route| {
                let device = find(route.get(ROUTE_HEADER..)?, ROUTE_DEVICE)?;
                Some(u32::from_ne_bytes(device.try_into().ok()?))
            })),
            // There is no such route, it leads nowhere, or the host has no such protocol.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(
                        libc::ENETUNREACH
                            | libc::EHOSTUNREACH
                            | libc::EACCES
                            | libc::EINVAL
                            | libc::EAFNOSUPPORT
                            | libc::EOPNOTSUPP
                    )
                ) =>
            {
                Ok(None)
            }
            Err(source) => Err(LinksError::Route { address, source }),
        }
    }
}

struct Link {
    uplink: Uplink,
    is_ethernet: bool,
    /// One of two ends, of which the other is in another namespace as a rule.
    is_pair: bool,
    /// A port of a bridge or the like.
    is_port: bool,
}

impl Link {
    /// From the kernel's answer: a header (family, type, index, flags) and attributes.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, attributes) = bytes.split_first_chunk::<LINK_HEADER>()?;
        let hardware = u16::from_ne_bytes([header[2], header[3]]);
        let index = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
        let name = find(attributes, LINK_NAME).and_then(text)?.to_owned();
        let kind = find(attributes, LINK_INFO).and_then(|info| find(info, LINK_INFO_KIND)).and_then(text);
        Some(Self {
            uplink: Uplink { index, name },
            is_ethernet: hardware == ETHERNET,
            is_pair: kind.is_some_and(|kind| PAIRS.contains(&kind)),
            is_port: find(attributes, LINK_MASTER).is_some(),
        })
    }
}
