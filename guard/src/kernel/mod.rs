//! The kernel programs as the agent sees them: load, attach, write rulings down, read counts and events up. The only
//! module that names aya. It decides nothing.

mod books;
mod counters;
mod events;
mod link;
mod load;
mod pin;
pub mod probe;
mod query;
mod raw;
mod uplink;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap as StdHashMap},
    io,
    path::PathBuf,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError},
};
use guard_common::{
    CgroupId, EndpointId, Gate, GateKey, MAX_RULES, NamespaceCookie, PodEntry, RuleId, RuleLabel,
};

pub use aya::maps::MapError as ReadError;
pub use books::{Books, CountersId};
pub use counters::{Counters, Reading};
pub use events::{CgroupBell, Events, Requests};
pub use load::{CheckError, GuardedRoot, LoadError};
pub use pin::{PinError, Pins, remove_all, remove_generation, try_lock};
pub use uplink::UplinkError;

use crate::{backstop::Uplink, endpoints::Endpoints};
use load::Links;
use probe::Attachment;

/// The loaded programs, the map of rulings and its kin. Dropping it leaves what is pinned: without pins the programs are
/// detached.
pub struct Kernel {
    ebpf: Ebpf,
    root: GuardedRoot,
    pods: HashMap<MapData, CgroupId, PodEntry>,
    gates: HashMap<MapData, GateKey, u8>,
    rules: HashMap<MapData, RuleId, RuleLabel>,
    forwarded: Array<MapData, u32>,
    pins: Option<Pins>,
    links: Links,
    uplinks: uplink::Links,
}

/// The folder of another generation, and its books, if they can be read.
pub type OtherGeneration = (PathBuf, Result<Books, MapError>);

/// What could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("write the ruling of cgroup {}", .cgroup.0)]
    Set {
        cgroup: CgroupId,
        #[source]
        source: Box<MapError>,
    },
    #[error("remove the ruling of cgroup {}", .cgroup.0)]
    Remove {
        cgroup: CgroupId,
        #[source]
        source: Box<MapError>,
    },
    #[error("write down the name of the rule `{name}`")]
    SetRule {
        name: String,
        #[source]
        source: Box<MapError>,
    },
    #[error("write down to which endpoints nothing is sent on")]
    SetForwarded(#[source] Box<MapError>),
    #[error("write down that port {} is a gate's", .gate.port)]
    SetGate {
        gate: Gate,
        #[source]
        source: Box<MapError>,
    },
    #[error("write down that port {} is no gate's any more", .gate.port())]
    RemoveGate {
        gate: GateKey,
        #[source]
        source: Box<MapError>,
    },
}

impl Kernel {
    /// Loads the programs for a guarded root, with the maps that are pinned. Nothing is attached or changed yet.
    pub fn load(
        root: GuardedRoot,
        endpoints: &Endpoints,
        host: Option<NamespaceCookie>,
        pins: Option<Pins>,
    ) -> Result<Self, LoadError> {
        let mut ebpf = load::load(&root, endpoints, host, pins.as_ref())?;
        load::load_programs(&mut ebpf)?;
        let pods = typed(take(&mut ebpf, "PODS")?, "PODS")?;
        let gates = typed(take(&mut ebpf, "GATES")?, "GATES")?;
        let rules = rules_map(pins.as_ref())
            .map_err(|source| LoadError::Map { name: "RULES", source: Box::new(source) })?;
        let forwarded = take(&mut ebpf, "FORWARDED")?
            .try_into()
            .map_err(|source| LoadError::Map { name: "FORWARDED", source: Box::new(source) })?;
        let (links, uplinks) = (Links::new(), uplink::Links::new());
        let mut kernel = Self { ebpf, root, pods, gates, rules, forwarded, pins, links, uplinks };
        if let Some(pins) = &mut kernel.pins {
            pins.keep_maps()?;
        }
        Ok(kernel)
    }

    /// Becomes the agent that writes to the maps, if no other is. Without pins there can be no other.
    pub fn try_own(&mut self) -> Result<bool, PinError> {
        self.pins.as_mut().map_or(Ok(true), Pins::try_own)
    }

    /// Leaves the writing to another agent.
    pub fn disown(&mut self) {
        if let Some(pins) = &mut self.pins {
            pins.disown();
        }
    }

    /// Whether what is here outlives the agent.
    pub fn is_pinned(&self) -> bool {
        self.pins.as_ref().is_some_and(Pins::stand)
    }

    /// Attaches all programs to the guarded root, in the place of those that are pinned. The rulings must be written
    /// before, the one for unidentified pods above all.
    pub fn attach(&mut self) -> Result<(), LoadError> {
        self.links = load::attach(&self.ebpf, &self.root, self.pins.as_ref())?;
        Ok(())
    }

    /// The books of other generations, whose programs are replaced by now, by their folders.
    pub fn other_generations(&self) -> Result<Vec<OtherGeneration>, PinError> {
        let Some(pins) = &self.pins else { return Ok(Vec::new()) };
        let others = pins.others()?;
        if !others.is_empty() {
            raw::wait_for_programs();
        }
        let read = |folder: PathBuf| {
            let books = Books::read(&folder);
            (folder, books)
        };
        Ok(others.into_iter().map(read).collect())
    }

    /// Which counters these are; none where they end with the agent.
    pub fn counters_id(&self) -> Option<CountersId> {
        books::counters_id(&self.pins.as_ref()?.map("COUNTERS")).ok()
    }

    /// Whether every program is still attached to the guarded root, as the kernel tells it.
    pub fn check(&self) -> Result<(), CheckError> {
        load::check(&self.ebpf, &self.root)
    }

    /// Whether the guarded root has had a pinned link at every hook all the while: whoever's programs they lead to.
    pub fn check_pinned(&self) -> bool {
        self.pins.as_ref().is_some_and(|pins| load::is_linked(pins, &self.root))
    }

    /// Attaches again what is not attached any more. Says whether anything was amiss.
    pub fn reattach(&mut self) -> Result<bool, LoadError> {
        let is_detached = self.check().is_err();
        if is_detached {
            self.attach()?;
        }
        Ok(is_detached)
    }

    /// Pins again what has lost its pin. Says whether anything had.
    pub fn repin(&mut self) -> Result<bool, PinError> {
        self.pins.as_mut().map_or(Ok(false), |pins| pins.mend(&self.links))
    }

    /// Removes what is pinned: the programs are detached when this is dropped.
    pub fn unpin(&mut self) -> Result<(), PinError> {
        self.pins.take().map_or(Ok(()), |pins| pins.remove())
    }

    /// Attaches the programs that ring when the cgroup tree changes.
    pub fn attach_bells(&mut self) -> Result<CgroupBell, LoadError> {
        load::attach_bells(&mut self.ebpf)?;
        CgroupBell::new(take(&mut self.ebpf, "CGROUP_CHANGES")?)
    }

    /// The stream of events. It can be taken once.
    pub fn take_events(&mut self) -> Result<Events, LoadError> {
        Events::new(take(&mut self.ebpf, "EVENTS")?, "EVENTS")
    }

    /// The stream of requests. It can be taken once.
    pub fn take_requests(&mut self) -> Result<Requests, LoadError> {
        Requests::new(take(&mut self.ebpf, "REQUESTS")?, "REQUESTS")
    }

    /// The counters. They can be taken once.
    pub fn take_counters(&mut self) -> Result<Counters, LoadError> {
        Counters::new(
            take(&mut self.ebpf, "COUNTERS")?,
            take(&mut self.ebpf, "OVERFLOW")?,
            take(&mut self.ebpf, "LOST")?,
        )
    }

    /// The rulings as the kernel holds them, that for unidentified pods included.
    pub fn rulings(&self) -> Result<BTreeMap<CgroupId, PodEntry>, MapError> {
        self.pods.iter().collect()
    }

    /// The names of rules by their ids, as former agents have written them down.
    pub fn rule_names(&self) -> Result<StdHashMap<RuleId, String>, MapError> {
        books::rules(&self.rules)
    }

    /// Writes down what a rule is called. It must be known before its id is used.
    pub fn set_rule(&mut self, id: RuleId, name: &str) -> Result<(), WriteError> {
        let label = RuleLabel::new(name).expect("a rule's name has at most 63 bytes");
        self.rules
            .insert(id, label, 0)
            .map_err(|source| WriteError::SetRule { name: name.to_owned(), source: Box::new(source) })
    }

    /// The ports that are gates', this agent's and others'.
    pub fn gates(&self) -> Result<Vec<GateKey>, MapError> {
        self.gates.keys().collect()
    }

    /// Writes the rulings of one cgroup, in one step: a program sees the old ones or the new ones.
    pub fn set_pod(&mut self, cgroup: CgroupId, entry: &PodEntry) -> Result<(), WriteError> {
        self.pods
            .insert(cgroup, entry, 0)
            .map_err(|source| WriteError::Set { cgroup, source: Box::new(source) })
    }

    /// Removes a cgroup: if it still lives, it is unidentified from now on.
    pub fn remove_pod(&mut self, cgroup: CgroupId) -> Result<(), WriteError> {
        match self.pods.remove(&cgroup) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(source) => Err(WriteError::Remove { cgroup, source: Box::new(source) }),
        }
    }

    /// Keeps everybody but the hook away from a gate's port. It must be written before a pod is sent there.
    pub fn set_gate(&mut self, gate: Gate) -> Result<(), WriteError> {
        self.gates
            .insert(GateKey::from(gate), 1, 0)
            .map_err(|source| WriteError::SetGate { gate, source: Box::new(source) })
    }

    /// Gives a gate's port back, when no pod is sent there any more.
    pub fn remove_gate(&mut self, gate: GateKey) -> Result<(), WriteError> {
        match self.gates.remove(&gate) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(source) => Err(WriteError::RemoveGate { gate, source: Box::new(source) }),
        }
    }

    /// Has nothing sent on to these endpoints any more, whoever sends it, and to the others again.
    pub fn set_forwarded(&mut self, denied: impl Iterator<Item = EndpointId>) -> Result<(), WriteError> {
        let endpoints = denied.fold(0_u32, |bits, endpoint| bits | 1 << endpoint);
        self.forwarded.set(0, endpoints, 0).map_err(|source| WriteError::SetForwarded(Box::new(source)))
    }

    /// Attaches the last lock to the devices that lead out of the host. The calling thread must be in its network.
    pub fn attach_uplinks(&mut self, uplinks: &BTreeSet<Uplink>) -> Result<(), UplinkError> {
        uplink::attach(&mut self.ebpf, self.pins.as_ref(), &mut self.uplinks, uplinks)
    }

    /// Whether the kernel took the program that keeps denied pods from frames past the queues.
    pub fn judges_options(&self) -> bool {
        load::is_loaded(&self.ebpf, load::OPTIONS)
    }

    /// The programs of others at the guard's hooks, at the guarded root and above it.
    pub fn others(&self) -> io::Result<Vec<Attachment>> {
        let own: Vec<_> = self.ebpf.programs().filter_map(|(_, own)| Some(own.info().ok()?.id())).collect();
        let mut found = load::attachments(&self.root)?;
        for attachment in &mut found {
            attachment.programs.retain(|program| !own.contains(&program.id));
        }
        found.retain(|attachment| !attachment.programs.is_empty());
        Ok(found)
    }

    /// The guarded root that the programs were loaded for.
    pub fn root(&self) -> &GuardedRoot {
        &self.root
    }
}

/// Takes the last lock's filters away from devices, where it is no link. The calling thread must be in the host's network.
pub fn remove_uplink_filters(devices: &[String]) {
    uplink::remove_filters(devices);
}

fn typed<K: aya::Pod, V: aya::Pod>(
    map: Map,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, LoadError> {
    map.try_into().map_err(|source| LoadError::Map { name, source: Box::new(source) })
}

/// The names of rules: a map that no program reads, so that it is not in the object.
fn rules_map(pins: Option<&Pins>) -> Result<HashMap<MapData, RuleId, RuleLabel>, MapError> {
    const BPF_F_NO_PREALLOC: u32 = 1;
    let make = || HashMap::create(MAX_RULES, BPF_F_NO_PREALLOC);
    let Some(path) = pins.map(|pins| pins.map("RULES")) else { return make() };
    if !path.exists() {
        make()?.pin(&path).map_err(|error| MapError::PinError { name: Some("RULES".to_owned()), error })?;
    }
    Map::from_map_data(MapData::from_pin(&path)?)?.try_into()
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    ebpf.take_map(name).ok_or(LoadError::Missing { what: "map", name })
}
