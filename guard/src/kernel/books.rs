//! What another generation has counted, to be carried over before it is removed: the part of the ABI that never changes.

use std::{collections::HashMap as StdHashMap, fs, net::IpAddr, path::Path};

use aya::maps::{HashMap, Map, MapData, MapError, MapInfo};
use guard_common::{Address, EndpointId, RuleId, RuleLabel};

use super::counters::{Counters, Reading};
use crate::endpoints::Endpoints;

/// Which counters a reading is of: those of another boot, or of another map, begin anew.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CountersId {
    boot: String,
    map: u32,
}

impl CountersId {
    /// Whether both are of one run of the kernel, in which no id of a cgroup means two.
    pub fn is_same_boot(&self, other: &Self) -> bool {
        self.boot == other.boot
    }
}

/// The books of a generation, in its own terms.
#[derive(Debug)]
pub struct Books {
    pub counters: CountersId,
    pub reading: Reading,
    rules: StdHashMap<RuleId, String>,
    endpoints: Vec<(Address, EndpointId)>,
}

impl Books {
    /// Reads the books that are pinned in the folder of a generation.
    pub(super) fn read(folder: &Path) -> Result<Self, MapError> {
        let endpoints: HashMap<_, Address, EndpointId> = open(folder, "ENDPOINTS")?.try_into()?;
        Ok(Self {
            counters: counters_id(&folder.join("COUNTERS"))?,
            reading: Counters::of_generation(folder)?.read()?,
            rules: rules(&open(folder, "RULES")?.try_into()?)?,
            endpoints: endpoints.iter().collect::<Result<_, _>>()?,
        })
    }

    /// The name of a rule.
    pub fn rule(&self, id: RuleId) -> Option<&str> {
        self.rules.get(&id).map(String::as_str)
    }

    /// What an endpoint is called in our table, which knows it by one of its addresses.
    pub fn endpoint(&self, id: EndpointId, ours: &Endpoints) -> Option<EndpointId> {
        let same = |address: &IpAddr| self.endpoints.contains(&(Address::from(*address), id));
        ours.iter().find(|(_, endpoint)| endpoint.addresses.iter().any(same)).map(|(id, _)| id)
    }
}

/// The names of rules in a map `RULES`.
pub(super) fn rules(
    map: &HashMap<MapData, RuleId, RuleLabel>,
) -> Result<StdHashMap<RuleId, String>, MapError> {
    map.iter()
        .map(|entry| entry.map(|(id, label)| (id, label.as_str().unwrap_or_default().to_owned())))
        .collect()
}

/// Which counters are pinned at a path.
pub(super) fn counters_id(path: &Path) -> Result<CountersId, MapError> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Ok(CountersId { boot: boot.trim().to_owned(), map: MapInfo::from_pin(path)?.id() })
}

pub(super) fn open(folder: &Path, name: &str) -> Result<Map, MapError> {
    Map::from_map_data(MapData::from_pin(folder.join(name))?)
}
