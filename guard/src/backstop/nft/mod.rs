//! Writes the ruleset into the kernel's nftables, and reads its counters: the only module that knows that protocol.
//!
//! The two tables are the agent's own, and it touches no other. All of a change is one batch: the kernel takes it whole
//! or not at all, and a packet sees the old rules or the new ones. Counters are objects of their own, which stay when the
//! rules are replaced.
//!
//! The messages are written here, in plain attributes: libnftnl and libmnl would be C libraries to link and to trust, and
//! its Rust binding knows neither counters by name nor chains at devices.

mod encode;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{
    netlink::{ACKNOWLEDGE, APPEND, Attributes, CREATE, DUMP, Messages, Talk, find, text},
    ruleset::{Chain, Counter, Family, Rule, Table},
};

/// The name of both tables.
const NAME: &str = "imds_guard";

/// Before connection tracking and whatever others have there. Where a packet is dropped does not depend on it: no other
/// table can let pass what this one drops.
const PRIORITY: i32 = -450;

// linux/netfilter/nfnetlink.h and nf_tables.h
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NFTABLES: u16 = 10;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const NEW_OBJECT: u16 = 18;
const GET_OBJECT: u16 = 19;
const COUNTER_OBJECT: u32 = 1;
const HOOK_FORWARD: u32 = 2;
const HOOK_POSTROUTING: u32 = 4;
const HOOK_EGRESS: u32 = 1;

/// The length of nfnetlink's header.
const HEADER: usize = 4;

/// Why the packet filter could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("open a socket to nftables")]
    Open(#[source] io::Error),
    #[error("write the tables `{NAME}`")]
    Write(#[source] io::Error),
    #[error("read the tables `{NAME}`")]
    Read(#[source] io::Error),
    #[error("remove the tables `{NAME}`")]
    Remove(#[source] io::Error),
}

impl NftError {
    /// What the kernel said.
    pub(super) fn into_cause(self) -> io::Error {
        let (Self::Open(cause) | Self::Write(cause) | Self::Read(cause) | Self::Remove(cause)) = self;
        cause
    }
}

/// The packet filter of one network namespace.
#[derive(Debug)]
pub(super) struct Nft(Talk);

/// The rules of a table that stand, by their chains and the handles that the kernel gave them: a rule never changes under
/// its handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing(Family, BTreeSet<(String, u64)>);

impl Nft {
    /// Opens the packet filter of the namespace that the calling thread is in.
    pub(super) fn open() -> Result<Self, NftError> {
        Talk::open(NETLINK_NETFILTER).map(Self).map_err(NftError::Open)
    }

    /// Makes a table as it should be, in one step. A chain at devices is there only if there are any.
    pub(super) fn replace(&self, table: &Table) -> Result<Standing, NftError> {
        let family = table.family;
        let mut batch = Batch::default();
        batch.table(family, &table.counters);
        match family {
            Family::Inet => {
                for chain in &table.chains {
                    batch.chain(family, *chain, &table.devices);
                    batch.clear(family, *chain);
                }
            }
            Family::Netdev => {
                for chain in &table.chains {
                    // The devices of a chain can't be changed on every kernel: it is made anew.
                    if self.has_chain(family, *chain).map_err(NftError::Read)? {
                        batch.clear(family, *chain);
                        batch.delete(family, *chain);
                    }
                    if !table.devices.is_empty() {
                        batch.chain(family, *chain, &table.devices);
                    }
                }
            }
        }
        if family == Family::Inet || !table.devices.is_empty() {
            for rule in &table.rules {
                batch.rule(family, rule);
            }
        }
        self.send(batch).map_err(NftError::Write)?;
        self.standing(family).map_err(NftError::Read)
    }

    /// Whether the rules that [`Self::replace`] made are there, all of them and no other.
    pub(super) fn has(&self, standing: &Standing) -> Result<bool, NftError> {
        Ok(self.standing(standing.0).map_err(NftError::Read)? == *standing)
    }

    /// What the counters stand at. They begin at 0 again when somebody removes the tables.
    pub(super) fn counters(&self) -> Result<BTreeMap<Counter, u64>, NftError> {
        let mut counters = BTreeMap::new();
        for family in [Family::Inet, Family::Netdev] {
            let table = Attributes::default().text(1, NAME).number(3, COUNTER_OBJECT);
            for object in self.dump(GET_OBJECT, family, table).map_err(NftError::Read)? {
                let Some(name) = find(&object, 2).and_then(text) else { continue };
                let Some(counter) = Counter::ALL.into_iter().find(|counter| counter.name() == name) else {
                    continue;
                };
                let packets = find(&object, 4).and_then(|data| find(data, 2));
                if let Some(packets) = packets.and_then(|value| value.try_into().ok()) {
                    counters.insert(counter, u64::from_be_bytes(packets));
                }
            }
        }
        Ok(counters)
    }

    /// Removes both tables, where they are.
    pub(super) fn remove(&self) -> Result<(), NftError> {
        let mut batch = Batch::default();
        for family in [Family::Inet, Family::Netdev] {
            // Only what is there can be removed: what is made anew is removed with the rest.
            batch.add(NEW_TABLE, CREATE, family, Attributes::default().text(1, NAME));
            batch.add(DELETE_TABLE, 0, family, Attributes::default().text(1, NAME));
        }
        self.send(batch).map_err(NftError::Remove)
    }

    fn standing(&self, family: Family) -> io::Result<Standing> {
        let mut standing = BTreeSet::new();
        for rule in self.dump(GET_RULE, family, Attributes::default().text(1, NAME))? {
            let handle = find(&rule, 3).and_then(|value| value.try_into().ok()).map(u64::from_be_bytes);
            if let (Some(NAME), Some(chain), Some(handle)) =
                (find(&rule, 1).and_then(text), find(&rule, 2).and_then(text), handle)
            {
                standing.insert((chain.to_owned(), handle));
            }
        }
        Ok(Standing(family, standing))
    }

    fn has_chain(&self, family: Family, chain: Chain) -> io::Result<bool> {
        let chains = self.dump(GET_CHAIN, family, Attributes::default())?;
        Ok(chains.iter().any(|found| {
            find(found, 1).and_then(text) == Some(NAME) && find(found, 3).and_then(text) == Some(chain.name())
        }))
    }

    fn send(&self, batch: Batch) -> io::Result<()> {
        let mut messages = self.0.begin();
        batch.write(&mut messages);
        self.0.order(&messages)
    }

    /// What the kernel lists, each as its attributes. A table that is not there has nothing.
    fn dump(&self, kind: u16, family: Family, attributes: Attributes) -> io::Result<Vec<Vec<u8>>> {
        let mut question = self.0.begin();
        question.add(NFTABLES << 8 | kind, DUMP, &header(number(family), 0), attributes);
        match self.0.ask(&question) {
            Ok(listed) => Ok(listed
                .into_iter()
                .map(|object| object.get(HEADER..).unwrap_or_default().to_vec())
                .collect()),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

const fn number(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Netdev => 5,
    }
}

/// The messages of one step.
#[derive(Default)]
struct Batch(Vec<(u16, u16, Family, Attributes)>);

impl Batch {
    fn add(&mut self, kind: u16, flags: u16, family: Family, attributes: Attributes) {
        self.0.push((NFTABLES << 8 | kind, flags, family, attributes));
    }

    /// Makes a table and its counters, where they are not there yet.
    fn table(&mut self, family: Family, counters: &[Counter]) {
        self.add(NEW_TABLE, CREATE, family, Attributes::default().text(1, NAME));
        for counter in counters {
            let object = Attributes::default().text(1, NAME).text(2, counter.name());
            let object = object.number(3, COUNTER_OBJECT).nest(4, &Attributes::default());
            self.add(NEW_OBJECT, CREATE, family, object);
        }
    }

    /// Makes a chain, where it is not there yet. The devices are those of a chain that has any.
    fn chain(&mut self, family: Family, chain: Chain, devices: &BTreeSet<String>) {
        let hook = match chain {
            Chain::Judge => None,
            Chain::Forward => Some(HOOK_FORWARD),
            Chain::Postrouting => Some(HOOK_POSTROUTING),
            Chain::Bypass => Some(HOOK_EGRESS),
        };
        let mut attributes = Attributes::default().text(1, NAME).text(3, chain.name());
        if let Some(hook) = hook {
            let mut hook = Attributes::default().number(1, hook).number(2, PRIORITY.cast_unsigned());
            if !devices.is_empty() {
                let names = devices.iter().fold(Attributes::default(), |names, name| names.text(1, name));
                hook = hook.nest(4, &names);
            }
            attributes = attributes.nest(4, &hook).text(7, "filter");
        }
        self.add(NEW_CHAIN, CREATE, family, attributes);
    }

    /// Removes all rules of a chain.
    fn clear(&mut self, family: Family, chain: Chain) {
        let attributes = Attributes::default().text(1, NAME).text(2, chain.name());
        self.add(DELETE_RULE, 0, family, attributes);
    }

    fn delete(&mut self, family: Family, chain: Chain) {
        self.add(DELETE_CHAIN, 0, family, Attributes::default().text(1, NAME).text(3, chain.name()));
    }

    fn rule(&mut self, family: Family, rule: &Rule) {
        let attributes = Attributes::default().text(1, NAME).text(2, rule.chain.name());
        let attributes = attributes.nest(4, &encode::expressions(rule));
        self.add(NEW_RULE, CREATE | APPEND, family, attributes);
    }

    /// Writes the whole batch. Only the last message is to be acknowledged; errors are told of each.
    fn write(self, messages: &mut Messages) {
        messages.add(BATCH_BEGIN, 0, &header(0, NFTABLES), Attributes::default());
        let last = self.0.len().saturating_sub(1);
        for (place, (kind, flags, family, attributes)) in self.0.into_iter().enumerate() {
            let acknowledge = if place == last { ACKNOWLEDGE } else { 0 };
            messages.add(kind, flags | acknowledge, &header(number(family), 0), attributes);
        }
        messages.add(BATCH_END, 0, &header(0, NFTABLES), Attributes::default());
    }
}

/// nfnetlink's header.
fn header(family: u8, resource: u16) -> [u8; HEADER] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}
