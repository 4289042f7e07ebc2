//! Reading the per-CPU counters.

use std::{collections::BTreeSet, path::Path, sync::Once};

use aya::maps::{Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use guard_common::{CgroupId, CounterKey, Lost, OVERFLOW_SLOTS};

use super::{books::open, load::LoadError};

/// The counters of the kernel programs. They only ever grow.
pub struct Counters {
    decisions: PerCpuHashMap<MapData, CounterKey, u64>,
    overflow: PerCpuArray<MapData, u64>,
    lost: PerCpuArray<MapData, u64>,
    told_full: Once,
}

/// All counters at one time.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Decisions by pod, endpoint and ruling. A key without a pod counts what the map had no room for.
    pub decisions: Vec<(CounterKey, u64)>,
    /// Events that did not go up.
    pub lost: Vec<(Lost, u64)>,
}

impl Counters {
    pub(super) fn new(counters: Map, overflow: Map, lost: Map) -> Result<Self, LoadError> {
        let failed = |name| move |source| LoadError::Map { name, source: Box::new(source) };
        Ok(Self {
            decisions: counters.try_into().map_err(failed("COUNTERS"))?,
            overflow: overflow.try_into().map_err(failed("OVERFLOW"))?,
            lost: lost.try_into().map_err(failed("LOST"))?,
            told_full: Once::new(),
        })
    }

    /// Those that are pinned in the folder of another generation.
    pub(super) fn of_generation(folder: &Path) -> Result<Self, MapError> {
        Ok(Self {
            decisions: open(folder, "COUNTERS")?.try_into()?,
            overflow: open(folder, "OVERFLOW")?.try_into()?,
            lost: open(folder, "LOST")?.try_into()?,
            told_full: Once::new(),
        })
    }

    /// Reads everything.
    pub fn read(&self) -> Result<Reading, MapError> {
        let mut reading = Reading::default();
        for entry in &self.decisions {
            let (key, values) = entry?;
            reading.decisions.push((key, sum(&values)));
        }
        for slot in 0..OVERFLOW_SLOTS {
            let count = sum(&self.overflow.get(&slot, 0)?);
            if count > 0 {
                self.told_full.call_once(|| {
                    tracing::warn!(
                        "COUNTERS had no room: some attempts are counted without their pods' names"
                    );
                });
                reading.decisions.push((CounterKey::of_overflow_slot(slot), count));
            }
        }
        for reason in Lost::ALL {
            reading.lost.push((*reason, sum(&self.lost.get(&u32::from(reason.code()), 0)?)));
        }
        Ok(reading)
    }

    /// Removes the counters of pods that are gone. What they held must have been read before.
    pub fn forget(&mut self, pods: &BTreeSet<CgroupId>) -> Result<(), MapError> {
        let keys: Vec<CounterKey> = self
            .decisions
            .keys()
            .filter(|key| key.as_ref().map_or(true, |key| pods.contains(&key.cgroup)))
            .collect::<Result<_, _>>()?;
        for key in keys {
            match self.decisions.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn sum(values: &PerCpuValues<u64>) -> u64 {
    values.iter().sum()
}
