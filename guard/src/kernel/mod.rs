//! The kernel programs as the agent sees them: load, attach, write rulings down, read counts and events up. The only
//! module that names aya. It decides nothing.

mod counters;
mod events;
mod load;
pub mod probe;
mod query;

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, MapError},
};
use guard_common::{CgroupId, Gate, GateKey, PodEntry};

pub use counters::{Counters, Reading};
pub use events::{CgroupBell, Events, KernelLog, Requests};
pub use load::{CheckError, GuardedRoot, LoadError};

use crate::endpoints::Endpoints;

/// The loaded programs and the map of rulings. Dropping it detaches the programs.
pub struct Kernel {
    ebpf: Ebpf,
    root: GuardedRoot,
    pods: HashMap<MapData, CgroupId, PodEntry>,
    gates: HashMap<MapData, GateKey, u8>,
}

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
    #[error("write down that port {} is a gate's", .gate.port)]
    SetGate {
        gate: Gate,
        #[source]
        source: Box<MapError>,
    },
    #[error("write down that port {} is no gate's any more", .gate.port)]
    RemoveGate {
        gate: Gate,
        #[source]
        source: Box<MapError>,
    },
}

impl Kernel {
    /// Loads the programs for a guarded root. Nothing is attached yet.
    pub fn load(root: GuardedRoot, endpoints: &Endpoints) -> Result<Self, LoadError> {
        let mut ebpf = load::load(&root, endpoints)?;
        let pods = HashMap::try_from(take(&mut ebpf, "PODS")?)
            .map_err(|source| LoadError::Map { name: "PODS", source: Box::new(source) })?;
        let gates = HashMap::try_from(take(&mut ebpf, "GATES")?)
            .map_err(|source| LoadError::Map { name: "GATES", source: Box::new(source) })?;
        Ok(Self { ebpf, root, pods, gates })
    }

    /// Attaches all programs to the guarded root. The rulings must be written before, the one for unidentified pods
    /// above all.
    pub fn attach(&mut self) -> Result<(), LoadError> {
        load::attach(&mut self.ebpf, &self.root)
    }

    /// Whether every program is still attached to the guarded root, as the kernel tells it.
    pub fn check(&self) -> Result<(), CheckError> {
        load::check(&self.ebpf, &self.root)
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

    /// The stream of the programs' own log. It can be taken once.
    pub fn take_log(&mut self) -> Result<KernelLog, LoadError> {
        KernelLog::new(&mut self.ebpf)
    }

    /// The counters. They can be taken once.
    pub fn take_counters(&mut self) -> Result<Counters, LoadError> {
        Counters::new(
            take(&mut self.ebpf, "COUNTERS")?,
            take(&mut self.ebpf, "OVERFLOW")?,
            take(&mut self.ebpf, "LOST")?,
        )
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
    pub fn remove_gate(&mut self, gate: Gate) -> Result<(), WriteError> {
        match self.gates.remove(&GateKey::from(gate)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(source) => Err(WriteError::RemoveGate { gate, source: Box::new(source) }),
        }
    }

    /// The guarded root that the programs were loaded for.
    pub fn root(&self) -> &GuardedRoot {
        &self.root
    }
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    ebpf.take_map(name).ok_or(LoadError::Missing { what: "map", name })
}
