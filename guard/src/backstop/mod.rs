//! The backstop: what stops packets that no hook of a socket sees. Packet sockets (`AF_PACKET`) and their kin write frames
//! themselves; they are met where they leave, in the host's network namespace.
//!
//! ```text
//!  a pod's own network ─ frame ─▶ host ─ forward, postrouting (table inet imds_guard) ─▶ IMDS
//!  hostNetwork pod ─ frame ─────────────── netdev egress ─ tc egress, on each uplink ──▶ IMDS
//! ```
//!
//! [`Wanted`] says what the policy asks for, [`ruleset`] what that is as rules, [`nft`] writes them, [`links`] knows the
//! devices. The program at the uplinks is the kernel's matter (`kernel/uplink.rs`); here is only where it is to be.
//!
//! What stands here stays when the agent ends, however it ends: only [`remove`] takes it away. Its sockets and threads are
//! in the host's namespace; nothing of it needs to run.

mod links;
mod netlink;
mod nft;
mod ruleset;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    thread,
};

use guard_common::NamespaceCookie;
use nix::sched::{CloneFlags, setns, unshare};
use tokio::io::{Interest, unix::AsyncFd};

pub use links::{LinksError, Uplink};
pub use nft::NftError;
pub use wanted::{Forwarded, Known, Wanted};

use crate::{
    agent::chain,
    endpoints::Endpoints,
    gate,
    kernel::{self, Kernel},
};
use links::Links;
use nft::{Nft, Standing};
use ruleset::{Bypass, Counter, Forward, Source, Table};

/// Why the backstop does not stand.
#[derive(Debug, thiserror::Error)]
pub enum BackstopError {
    #[error("enter the host's network namespace {path}")]
    Host {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Links(#[from] LinksError),
    #[error(transparent)]
    Nft(#[from] NftError),
}

/// Where packets were met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Where the host sends on what pods sent.
    Forward,
    /// Where frames leave past the queues.
    Bypass,
}

impl Place {
    /// Its name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Bypass => "bypass",
        }
    }
}

/// Packets that were met since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Met {
    pub place: Place,
    pub dropped: bool,
    pub packets: u64,
}

/// What became of each part of the backstop, or why it does not stand.
#[derive(Debug)]
pub struct Parts {
    pub forward: Result<(), String>,
    pub uplink: Result<(), String>,
    pub bypass: Result<(), String>,
}

impl Parts {
    /// Whether all of it stands.
    pub fn stand(&self) -> bool {
        self.forward.is_ok() && self.uplink.is_ok() && self.bypass.is_ok()
    }
}

/// The backstop of one host.
#[derive(Debug)]
pub struct Backstop {
    host: File,
    path: PathBuf,
    nft: Nft,
    links: Links,
    forward: Kept,
    bypass: Kept,
    uplinks: BTreeSet<Uplink>,
    seen: BTreeMap<Counter, u64>,
}

/// A table as it was last written.
#[derive(Debug, Default)]
struct Kept(Option<(Table, Standing)>);

/// Rings when a link or a route of the host changes.
pub struct LinksBell(AsyncFd<netlink::Changes>);

impl Backstop {
    /// Opens the host's packet filter and links. Nothing is changed yet.
    pub fn open(host_network: &Path) -> Result<(Self, LinksBell), BackstopError> {
        let path = host_network.to_owned();
        let failed = |source| BackstopError::Host { path: path.clone(), source };
        let host = File::open(&path).map_err(failed)?;
        // Sockets stay in the namespace in which they are opened.
        let open = || Ok::<_, BackstopError>((Nft::open()?, Links::open()?, Links::changes()?));
        let (nft, links, changes) = inside(&host, open).map_err(failed)??;
        #[expect(unsafe_code, reason = "tokio trusts whoever names a descriptor")]
        // SAFETY: `Changes` owns its socket and keeps it open until it is dropped.
        let bell = unsafe { AsyncFd::register_with_interest(changes, Interest::READABLE) };
        let bell = bell.map_err(|error| LinksError::Open(error.into()))?;
        let backstop = Self {
            host,
            path,
            nft,
            links,
            forward: Kept::default(),
            bypass: Kept::default(),
            uplinks: BTreeSet::new(),
            seen: BTreeMap::new(),
        };
        Ok((backstop, LinksBell(bell)))
    }

    /// The host's network, by its id; none where the kernel tells none.
    pub fn host(&self) -> Result<Option<NamespaceCookie>, BackstopError> {
        self.inside(|| gate::own_namespace().ok())
    }

    /// Has all its parts do what is wanted. `pods` are the addresses of pods: what leads to them alone is no way out.
    pub fn keep(
        &mut self,
        kernel: &mut Kernel,
        wanted: &Wanted,
        endpoints: &Endpoints,
        pods: &BTreeSet<IpAddr>,
    ) -> Parts {
        let all: BTreeSet<IpAddr> =
            endpoints.iter().flat_map(|(_, endpoint)| endpoint.addresses.iter().copied()).collect();
        let dropped = endpoints.iter().filter(|(_, endpoint)| {
            wanted.forwarded == Forwarded::Drop
                && endpoint.addresses.iter().all(|address| wanted.endpoints.contains(address))
        });
        let forward = self.keep_forward(wanted).map_err(|error| chain(&error));
        let sent_on = kernel.set_forwarded(dropped.map(|(id, _)| id)).map_err(|error| chain(&error));
        let uplinks = self.find_uplinks(&all, pods).cloned().map_err(|error| chain(&error));
        let attached = uplinks.and_then(|uplinks| {
            let attached = self.inside(|| kernel.attach_uplinks(&uplinks));
            attached.map_err(|error| chain(&error))?.map_err(|error| chain(&error))
        });
        let bypass = self.keep_bypass(wanted).map_err(|error| chain(&error));
        Parts { forward, uplink: attached.and(sent_on), bypass }
    }

    /// Has what pods send past their sockets' hooks end where the host would send it on.
    fn keep_forward(&mut self, wanted: &Wanted) -> Result<(), BackstopError> {
        let sources = |addresses: &BTreeSet<IpAddr>| -> Result<BTreeSet<Source>, LinksError> {
            let devices = self.links.devices_of(addresses)?;
            Ok(devices.into_iter().map(|(address, interface)| Source { interface, address }).collect())
        };
        let forwarded = match &wanted.forwarded {
            Forwarded::Pass => ruleset::Forwarded::Pass,
            Forwarded::Drop => ruleset::Forwarded::Drop,
            Forwarded::DropBut(addresses) => ruleset::Forwarded::DropBut(sources(addresses)?),
            Forwarded::DropFrom(addresses) => ruleset::Forwarded::DropFrom(sources(addresses)?),
        };
        let table = Forward { endpoints: wanted.endpoints.clone(), forwarded }.table();
        Ok(self.forward.keep(&self.nft, table)?)
    }

    /// The same for frames that leave from packet sockets past the queues, at each uplink.
    fn keep_bypass(&mut self, wanted: &Wanted) -> Result<(), BackstopError> {
        let table = Bypass {
            endpoints: wanted.endpoints.clone(),
            uplinks: self.uplinks.iter().map(|uplink| uplink.name.clone()).collect(),
            drops: wanted.everyone,
        };
        Ok(self.bypass.keep(&self.nft, table.table())?)
    }

    /// Looks which devices lead out of the host to `endpoints`, and not just to `pods`, and returns them.
    fn find_uplinks(
        &mut self,
        endpoints: &BTreeSet<IpAddr>,
        pods: &BTreeSet<IpAddr>,
    ) -> Result<&BTreeSet<Uplink>, BackstopError> {
        self.uplinks = self.links.uplinks(endpoints, pods)?;
        Ok(&self.uplinks)
    }

    /// Forgets what was written where somebody else has changed it, so that it is written again. Says whether that was so.
    pub fn look_again(&mut self) -> Result<bool, BackstopError> {
        let forward = self.forward.look_again(&self.nft)?;
        Ok(self.bypass.look_again(&self.nft)? || forward)
    }

    /// What was met since the last look.
    pub fn met(&mut self) -> Result<Vec<Met>, BackstopError> {
        let now = self.nft.counters()?;
        let added = now.iter().map(|(counter, packets)| {
            let (place, dropped) = match counter {
                Counter::ForwardDropped => (Place::Forward, true),
                Counter::ForwardPassed => (Place::Forward, false),
                Counter::BypassDropped => (Place::Bypass, true),
                Counter::BypassPassed => (Place::Bypass, false),
            };
            // One that has gone back was made anew.
            let before = self.seen.get(counter).copied().filter(|before| before <= packets);
            Met { place, dropped, packets: packets - before.unwrap_or_default() }
        });
        let added = added.collect();
        self.seen = now;
        Ok(added)
    }

    /// Does `work` on a thread that is in the host's network namespace.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, BackstopError> {
        inside(&self.host, work).map_err(|source| BackstopError::Host { path: self.path.clone(), source })
    }
}

/// Takes the backstop away from the host, but for what is pinned.
pub fn remove(host_network: &Path) -> Result<(), BackstopError> {
    let failed = |source| BackstopError::Host { path: host_network.to_owned(), source };
    let host = File::open(host_network).map_err(failed)?;
    inside(&host, || {
        Nft::open()?.remove()?;
        kernel::remove_uplink_filters(&Links::open()?.names()?);
        Ok(())
    })
    .map_err(failed)?
}

/// Tries both tables in a network namespace of their own, which ends with this: that of what is sent on, and that of what
/// leaves past the queues.
pub fn try_tables() -> (io::Result<()>, io::Result<()>) {
    let imds = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
    let endpoints = BTreeSet::from([imds]);
    let forward = Forward { endpoints: endpoints.clone(), forwarded: ruleset::Forwarded::Drop };
    let bypass = Bypass { endpoints, uplinks: ["lo".to_owned()].into(), drops: true };
    let attempt = |table: Table| {
        thread::scope(|scope| {
            let work = || {
                unshare(CloneFlags::CLONE_NEWNET)?;
                Nft::open().and_then(|nft| nft.replace(&table)).map_err(NftError::into_cause)?;
                Ok(())
            };
            let worker = thread::Builder::new().spawn_scoped(scope, work)?;
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    };
    (attempt(forward.table()), attempt(bypass.table()))
}

impl Kept {
    fn keep(&mut self, nft: &Nft, table: Table) -> Result<(), NftError> {
        if self.0.as_ref().is_some_and(|(written, _)| *written == table) {
            return Ok(());
        }
        // What is not known to stand is written again.
        self.0 = None;
        let standing = nft.replace(&table)?;
        self.0 = Some((table, standing));
        Ok(())
    }

    fn look_again(&mut self, nft: &Nft) -> Result<bool, NftError> {
        let Some((_, standing)) = &self.0 else { return Ok(true) };
        let stands = nft.has(standing)?;
        if !stands {
            self.0 = None;
        }
        Ok(!stands)
    }
}

impl LinksBell {
    /// Waits until something has changed.
    pub async fn rang(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        ready.get_inner().drain()?;
        ready.clear_ready();
        Ok(())
    }
}

/// Does `work` on a thread of its own in another network namespace.
fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let enter = || setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        let worker = thread::Builder::new()
            .name("backstop".to_owned())
            .spawn_scoped(scope, move || enter().map(|()| work()))?;
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
