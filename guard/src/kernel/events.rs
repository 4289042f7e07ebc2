//! The streams that come up: events, requests, cgroup changes.
#![expect(unsafe_code, reason = "tokio watches ring buffers by their file descriptor")]

use std::{io, marker::PhantomData, os::fd::AsRawFd};

use aya::maps::{Map, MapData, RingBuf};
use guard_common::{AttemptEvent, RequestRecord};
use tokio::io::{Interest, unix::AsyncFd};
use zerocopy::FromBytes;

use super::load::LoadError;

/// Samples of attempts.
pub type Events = Records<AttemptEvent>;

/// Requests that went straight to IMDS and were answered.
pub type Requests = Records<RequestRecord>;

/// The records of a ring buffer.
pub struct Records<T> {
    ring: AsyncFd<RingBuf<MapData>>,
    record: PhantomData<T>,
}

impl<T: FromBytes> Records<T> {
    pub(super) fn new(map: Map, name: &'static str) -> Result<Self, LoadError> {
        Ok(Self { ring: watch(ring(map, name)?, name)?, record: PhantomData })
    }

    /// Waits until there are records and hands each to `take`. Those of another size than ours are counted as
    /// unreadable and returned.
    pub async fn drain(&mut self, mut take: impl FnMut(T)) -> io::Result<u64> {
        let mut ready = self.ring.readable_mut().await?;
        let ring = ready.get_inner_mut();
        let mut unreadable = 0;
        while let Some(record) = ring.next() {
            match T::read_from_bytes(&record) {
                Ok(record) => take(record),
                Err(_) => unreadable += 1,
            }
        }
        ready.clear_ready();
        Ok(unreadable)
    }
}

/// Rings when a cgroup was made or removed, anywhere on the node.
pub struct CgroupBell(AsyncFd<RingBuf<MapData>>);

impl CgroupBell {
    pub(super) fn new(map: Map) -> Result<Self, LoadError> {
        Ok(Self(watch(ring(map, "CGROUP_CHANGES")?, "CGROUP_CHANGES")?))
    }

    /// Waits for the next ring. All rings since the last call are one.
    pub async fn rang(&mut self) -> io::Result<()> {
        let mut ready = self.0.readable_mut().await?;
        while ready.get_inner_mut().next().is_some() {}
        ready.clear_ready();
        Ok(())
    }
}

fn ring(map: Map, name: &'static str) -> Result<RingBuf<MapData>, LoadError> {
    map.try_into().map_err(|source| LoadError::Map { name, source: Box::new(source) })
}

fn watch<T: AsRawFd>(inner: T, name: &'static str) -> Result<AsyncFd<T>, LoadError> {
    // SAFETY: `inner` owns its descriptor, keeps it open for as long as it lives, and is owned by the `AsyncFd`.
    unsafe { AsyncFd::register_with_interest(inner, Interest::READABLE) }
        .map_err(|error| LoadError::Watch { name, source: error.into() })
}
