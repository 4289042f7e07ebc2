//! From the object file to attached programs.

use std::{
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapError},
    programs::{
        CgroupSkb, CgroupSock, CgroupSockAddr, CgroupSockopt, ProgramError, RawTracePoint, SchedClassifier,
    },
};
use guard_common::{Address, CgroupId, EndpointId, NamespaceCookie};
use nix::sys::resource::{Resource, setrlimit};

use super::{
    link::CgroupLink,
    pin::{self, PinError, Pins},
    probe::{self, Attachment, Support},
    query::{HOOKS, query},
    uplink,
};
use crate::endpoints::Endpoints;

/// The kernel programs, built by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("IMDS_GUARD_BPF_OBJECT"));

/// Why the kernel programs could not be brought to work.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("open the guarded root {path}")]
    Root {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the guarded root {path} does not lie below the cgroup v2 mount {mount}: name it relative to the mount"
    )]
    Outside { path: PathBuf, mount: PathBuf },
    #[error("load the kernel programs (`imds-guard doctor` tells what this host lacks)")]
    Object(#[source] Box<aya::EbpfError>),
    #[error("the kernel object has no {what} `{name}`")]
    Missing { what: &'static str, name: &'static str },
    #[error("load the program `{name}`")]
    Program {
        name: &'static str,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("attach the program `{name}` to the guarded root {path}{}", .remedy.as_deref().unwrap_or_default())]
    Attach {
        name: &'static str,
        path: PathBuf,
        remedy: Option<String>,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error("open the map `{name}`")]
    Map {
        name: &'static str,
        #[source]
        source: Box<MapError>,
    },
    #[error("watch the ring buffer `{name}`")]
    Watch {
        name: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Why the guard can't be said to stand.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("ask what is attached to the guarded root {path}")]
    Query {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the program `{name}` is not attached to the guarded root {path}")]
    Detached { name: &'static str, path: PathBuf },
}

/// The cgroup under which all pods live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardedRoot {
    pub path: PathBuf,
    pub id: CgroupId,
    /// How deep it lies below the root of the cgroup tree.
    pub level: u32,
}

impl GuardedRoot {
    /// The guarded root at `relative` below the cgroup v2 mount. A path that starts with the mount's own is taken for
    /// what lies below it.
    pub fn open(mount: &Path, relative: &Path) -> Result<Self, LoadError> {
        let path = mount.join(relative);
        let failed = |source| LoadError::Root { path: path.clone(), source };
        let canonical = path.canonicalize().map_err(failed)?;
        let id = CgroupId(fs::metadata(&canonical).map_err(failed)?.ino());
        let below = mount.canonicalize().map_err(failed)?;
        let Ok(below) = canonical.strip_prefix(&below) else {
            return Err(LoadError::Outside { path: canonical, mount: mount.to_owned() });
        };
        // The kernel counts a cgroup's level from the root of the tree, which is what is mounted.
        let level = u32::try_from(below.components().count()).expect("a path has fewer parts");
        Ok(Self { path: canonical, id, level })
    }

    /// Whether it is still there, and still the same one.
    pub fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.id.0)
    }
}

/// Loads the object for one guarded root: all maps made, or taken over from where they are pinned; no program attached,
/// the endpoints filled in.
pub(super) fn load(
    root: &GuardedRoot,
    endpoints: &Endpoints,
    host: Option<NamespaceCookie>,
    pins: Option<&Pins>,
) -> Result<Ebpf, LoadError> {
    raise_locked_memory();
    let has_set_retval = u8::from(probe::set_retval() == Support::Yes);
    let addresses = endpoints.iter().flat_map(|(_, endpoint)| &endpoint.addresses);
    let endpoint_bits = addresses.fold(0_u64, |bits, address| bits | Address::from(*address).bit());
    let imds = endpoints.id(Endpoints::IMDS).unwrap_or_default();
    let audits_requests = u8::from(request_audit() == Support::Yes);
    let mut loader = EbpfLoader::new();
    for map in pins.iter().flat_map(|_| pin::MAPS) {
        loader.map_pin_path(map, pins.expect("there are pins").map(map));
    }
    let mut ebpf = loader
        // No program reads a kernel structure, so none needs the kernel's own types, which would cost 40 MB to parse.
        .btf(None)
        .override_global("ROOT_ID", &root.id.0, true)
        .override_global("ROOT_LEVEL", &root.level, true)
        .override_global("HAS_SET_RETVAL", &has_set_retval, true)
        .override_global("ENDPOINT_BITS", &endpoint_bits, true)
        .override_global("IMDS_ENDPOINT", &imds, true)
        // No namespace has the id 0.
        .override_global("HOST_NETWORK", &host.map_or(0, |host| host.0), true)
        .override_global("AUDITS_REQUESTS", &audits_requests, true)
        .load(OBJECT)
        .map_err(|source| LoadError::Object(Box::new(source)))?;
    let map = ebpf.map_mut("ENDPOINTS").ok_or(LoadError::Missing { what: "map", name: "ENDPOINTS" })?;
    let mut table: HashMap<_, Address, EndpointId> =
        map.try_into().map_err(|source| LoadError::Map { name: "ENDPOINTS", source: Box::new(source) })?;
    for (id, endpoint) in endpoints.iter() {
        for address in &endpoint.addresses {
            table
                .insert(Address::from(*address), id, 0)
                .map_err(|source| LoadError::Map { name: "ENDPOINTS", source: Box::new(source) })?;
        }
    }
    Ok(ebpf)
}

/// Whether the kernel's verifier takes the programs that look at requests, found by loading these alone. That takes it
/// some 100 ms, so it is asked once.
pub(super) fn request_audit() -> Support {
    static FOUND: OnceLock<Support> = OnceLock::new();
    FOUND.get_or_init(try_request_audit).clone()
}

/// Whether the kernel takes the programs of the backstop: the one at uplinks, and the one for options of sockets.
pub(super) fn backstop_programs() -> (Support, Support) {
    raise_locked_memory();
    let mut ebpf = match EbpfLoader::new().btf(None).load(OBJECT) {
        Ok(ebpf) => ebpf,
        Err(error) => {
            let unknown = Support::Unknown(probe::innermost(&error));
            return (unknown.clone(), unknown);
        }
    };
    let uplink = program::<SchedClassifier>(&mut ebpf, uplink::PROGRAM).map(SchedClassifier::load);
    let options = program::<CgroupSockopt>(&mut ebpf, OPTIONS).map(CgroupSockopt::load);
    let taken = |loaded: Result<Result<(), ProgramError>, LoadError>| match loaded {
        Ok(Ok(())) => Support::Yes,
        Ok(Err(ProgramError::LoadError { io_error, .. })) if io_error.raw_os_error() != Some(libc::EPERM) => {
            Support::No
        }
        Ok(Err(error)) => Support::Unknown(probe::innermost(&error)),
        Err(error) => Support::Unknown(probe::innermost(&error)),
    };
    (taken(uplink), taken(options))
}

fn try_request_audit() -> Support {
    let unknown = |error: &dyn std::error::Error| Support::Unknown(probe::innermost(error));
    raise_locked_memory();
    let loaded = EbpfLoader::new().btf(None).override_global("AUDITS_REQUESTS", &1_u8, true).load(OBJECT);
    let mut ebpf = match loaded {
        Ok(ebpf) => ebpf,
        Err(error) => return unknown(&error),
    };
    for name in ["egress", "ingress"] {
        let loaded = match program::<CgroupSkb>(&mut ebpf, name) {
            Ok(program) => program.load(),
            Err(error) => return unknown(&error),
        };
        match loaded {
            Ok(()) => {}
            Err(ProgramError::LoadError { io_error, .. }) if io_error.raw_os_error() != Some(libc::EPERM) => {
                return Support::No;
            }
            Err(error) => return unknown(&error),
        }
    }
    Support::Yes
}

/// The program that looks at options of sockets, and its hook.
pub(super) const OPTIONS: &str = "setsockopt";
const OPTIONS_HOOK: (&str, u32) = ("cgroup/setsockopt", 22);

/// The hooks at which there are programs here: all that the guard can't do without, and what else the kernel took.
fn hooks(ebpf: &Ebpf) -> impl Iterator<Item = (&'static str, u32)> {
    HOOKS.into_iter().chain(Some(OPTIONS_HOOK).filter(|_| is_loaded(ebpf, OPTIONS)))
}

pub(super) fn is_loaded(ebpf: &Ebpf, name: &str) -> bool {
    ebpf.program(name).is_some_and(|program| program.fd().is_ok())
}

/// Loads every program: the verifier's time is spent before anything is taken over. Those of the backstop are for kernels
/// that take them.
pub(super) fn load_programs(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    macro_rules! each {
        ($kind:ty: $($name:literal),+) => {$(
            let loaded = program::<$kind>(ebpf, $name)?;
            loaded.load().map_err(|source| LoadError::Program { name: $name, source: Box::new(source) })?;
            // Linux 5.16. The verifier gives up at a million.
            let verified = loaded.info().ok().and_then(|info| info.verified_instruction_count());
            tracing::debug!(program = $name, verified, "the verifier took a program");
        )+};
    }
    each!(CgroupSock: "sock_create");
    each!(CgroupSkb: "ingress", "egress");
    each!(
        CgroupSockAddr:
        "bind4", "bind6", "getpeername4", "getpeername6", "connect4", "connect6", "sendmsg4", "sendmsg6"
    );
    let refused = |name: &str, error: &ProgramError| {
        tracing::debug!(name, error = probe::innermost(error), "the kernel does not take a program");
    };
    let _ = program::<CgroupSockopt>(ebpf, OPTIONS)?.load().inspect_err(|error| refused(OPTIONS, error));
    let _ = program::<SchedClassifier>(ebpf, uplink::PROGRAM)?
        .load()
        .inspect_err(|error| refused(uplink::PROGRAM, error));
    Ok(())
}

/// The links of the programs, by their hooks' names.
pub(super) type Links = Vec<(&'static str, CgroupLink)>;

/// Attaches every program, or puts it in the place of the one that is pinned. From the moment this returns, every attempt
/// of every guarded process is decided by these.
pub(super) fn attach(ebpf: &Ebpf, root: &GuardedRoot, pins: Option<&Pins>) -> Result<Links, LoadError> {
    let folder =
        fs::File::open(&root.path).map_err(|source| LoadError::Root { path: root.path.clone(), source })?;
    hooks(ebpf)
        .map(|(hook, attach_type)| {
            let name = program_at(hook);
            let missing = LoadError::Missing { what: "program", name };
            let program = ebpf.program(name).ok_or(missing)?;
            let program =
                program.fd().map_err(|source| LoadError::Program { name, source: Box::new(source) })?.as_fd();
            let failed = |source: io::Error| LoadError::Attach {
                name,
                path: root.path.clone(),
                remedy: remedy(&source, hook, root),
                source,
            };
            let pinned = pins.map(|pins| pins.link(name)).transpose()?.flatten();
            let link = match pinned.filter(|link| leads_to(link, root)) {
                Some(link) => link.update(program).map(|()| link),
                None => CgroupLink::create(program, folder.as_fd(), attach_type),
            };
            let link = link.map_err(failed)?;
            if let Some(pins) = pins {
                pins.keep_link(name, &link)?;
            }
            Ok((name, link))
        })
        .collect()
}

/// Whether there is a pinned link from the guarded root to a program at every hook.
pub(super) fn is_linked(pins: &Pins, root: &GuardedRoot) -> bool {
    HOOKS
        .into_iter()
        .all(|(hook, _)| matches!(pins.link(program_at(hook)), Ok(Some(link)) if leads_to(&link, root)))
}

/// The link of a guarded root that was removed leads nowhere.
fn leads_to(link: &CgroupLink, root: &GuardedRoot) -> bool {
    matches!(link.cgroup(), Ok(cgroup) if cgroup == Some(root.id))
}

/// A program bears its hook's name.
fn program_at(hook: &'static str) -> &'static str {
    hook.rsplit('/').next().expect("a name with a slash")
}

/// Asks the kernel whether each program is attached.
pub(super) fn check(ebpf: &Ebpf, root: &GuardedRoot) -> Result<(), CheckError> {
    let asked = |source| CheckError::Query { path: root.path.clone(), source };
    let folder = fs::File::open(&root.path).map_err(asked)?;
    for (hook, attach_type) in hooks(ebpf) {
        let name = program_at(hook);
        let (_, attached) = query(&folder, attach_type).map_err(asked)?;
        let own = ebpf.program(name).and_then(|program| program.info().ok()).map(|info| info.id());
        if !own.is_some_and(|own| attached.contains(&own)) {
            return Err(CheckError::Detached { name, path: root.path.clone() });
        }
    }
    Ok(())
}

/// Attaches the bells that ring when the cgroup tree changes. Without them the agent walks the tree by the clock.
pub(super) fn attach_bells(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    for name in ["cgroup_mkdir", "cgroup_rmdir"] {
        let failed = |source| LoadError::Program { name, source: Box::new(source) };
        let program = program::<RawTracePoint>(ebpf, name)?;
        program.load().map_err(failed)?;
        program.attach(name).map_err(failed)?;
    }
    Ok(())
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(LoadError::Missing { what: "program", name })?
        .try_into()
        .map_err(|source| LoadError::Program { name, source: Box::new(source) })
}

/// EPERM here has one usual cause, and the kernel does not name it.
fn remedy(error: &io::Error, hook: &str, root: &GuardedRoot) -> Option<String> {
    if error.raw_os_error() != Some(libc::EPERM) {
        return None;
    }
    let found = attachments(root).unwrap_or_default();
    let blocker = found.iter().find(|one| one.hook == hook && one.shuts_out(&found));
    Some(match blocker {
        Some(blocker) => format!(
            ": {blocker} lets no other in: its owner must attach it with BPF_F_ALLOW_MULTI, or detach it"
        ),
        None => ": a program that was attached without BPF_F_ALLOW_MULTI, here or above, shuts others out; \
                 `imds-guard doctor` names it"
            .to_owned(),
    })
}

/// What is attached to the guarded root and above it at the guard's hooks.
pub(super) fn attachments(root: &GuardedRoot) -> io::Result<Vec<Attachment>> {
    let mount = root.path.ancestors().nth(root.level as usize).unwrap_or(&root.path);
    probe::attachments(mount, root.path.strip_prefix(mount).ok())
}

/// Before Linux 5.11 maps count as locked memory, of which a process may have 64 KiB. Whoever may not raise the limit
/// learns from loading whether it was needed; `doctor` tells it beforehand.
fn raise_locked_memory() {
    let unlimited = nix::sys::resource::RLIM_INFINITY;
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, unlimited, unlimited) {
        tracing::debug!(%error, "the limit of locked memory stays");
    }
}
