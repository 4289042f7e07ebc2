//! The program at the devices that lead out of the host. Where the kernel has TCX (Linux 6.6) its links are pinned like
//! those at the guarded root, and first in their row; elsewhere it is a filter of the queueing discipline `clsact`, which
//! stays by itself. The calling thread must be in the host's network namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io, mem,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use aya::{
    Ebpf,
    programs::{
        ProgramError, SchedClassifier, TcAttachType,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
    },
};

use super::{
    link::{QueryInfo, Update},
    pin::{PinError, Pins},
    raw::{Attributes, Object, bpf, bpf_fd, number},
};
use crate::backstop::Uplink;

/// The program's name, which those who list filters see.
pub(super) const PROGRAM: &str = "uplink";

/// What the names of the pinned links begin with; the device's index follows.
const PINNED: &str = "link_uplink_";

/// `BPF_TCX_EGRESS`.
const TCX_EGRESS: u32 = 47;

/// Before all that are there (`BPF_F_BEFORE`, with no other named).
const FIRST: u32 = 1 << 3;

/// The place of the filter, the same every time, so that each agent finds what the last one left.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x1d5);

/// Why a device has no program.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    #[error("the kernel does not take the program `{PROGRAM}`")]
    NotLoaded,
    #[error("attach the program `{PROGRAM}` to the device {device}")]
    Link {
        device: String,
        #[source]
        source: io::Error,
    },
    #[error("attach the program `{PROGRAM}` to the device {device}")]
    Filter {
        device: String,
        #[source]
        source: Box<ProgramError>,
    },
    #[error(transparent)]
    Pin(#[from] PinError),
}

/// The links that are held, by the devices' indices.
pub(super) type Links = BTreeMap<u32, Object>;

/// Attaches the program to every device that does not have it, and forgets the devices that are gone.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    pins: Option<&Pins>,
    links: &mut Links,
    uplinks: &BTreeSet<Uplink>,
) -> Result<(), UplinkError> {
    let program = program(ebpf).ok_or(UplinkError::NotLoaded)?;
    if program.fd().is_err() {
        return Err(UplinkError::NotLoaded);
    }
    links.retain(|index, link| uplinks.iter().any(|uplink| uplink.index == *index) && leads_to(link, *index));
    if let Some(pins) = pins {
        sweep(pins, uplinks);
    }
    let mut outcome = Ok(());
    for uplink in uplinks {
        let held = links.remove(&uplink.index);
        match attached(program, pins, held, uplink).and_then(|link| kept(link, pins, uplink)) {
            Ok(Some(link)) => drop(links.insert(uplink.index, link)),
            Ok(None) => {}
            // The others get theirs all the same.
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    outcome
}

/// Pins a device's link, if it is not.
fn kept(link: Option<Object>, pins: Option<&Pins>, uplink: &Uplink) -> Result<Option<Object>, UplinkError> {
    if let (Some(link), Some(pins)) = (&link, pins) {
        let path = pins.map(&format!("{PINNED}{}", uplink.index));
        if !path.exists() {
            link.pin(&path).map_err(|source| PinError::Pin { path, source })?;
        }
    }
    Ok(link)
}

/// The link of a device: the one that is held, another agent's, or a new one. None if it is a filter.
fn attached(
    program: &mut SchedClassifier,
    pins: Option<&Pins>,
    held: Option<Object>,
    uplink: &Uplink,
) -> Result<Option<Object>, UplinkError> {
    if held.is_some() {
        return Ok(held);
    }
    let failed = |source| UplinkError::Link { device: uplink.name.clone(), source };
    let fd = program.fd().map_err(|_| UplinkError::NotLoaded)?;
    if let Some(link) = take_over(fd.as_fd(), pins, uplink.index).map_err(failed)? {
        return Ok(Some(link));
    }
    match create(fd.as_fd(), uplink.index) {
        Ok(link) => Ok(Some(link)),
        // Before Linux 6.6 there is no such thing.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let failed =
                |source| UplinkError::Filter { device: uplink.name.clone(), source: Box::new(source) };
            filter(program, &uplink.name).map_err(failed)?;
            Ok(None)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Takes the filters away from devices; links go with their pins.
pub(super) fn remove_filters(devices: &[String]) {
    for device in devices {
        if let Ok(link) = placed(device) {
            // A device that has no such filter is as it should be.
            let _ = aya::programs::Link::detach(link);
        }
    }
}

fn program(ebpf: &mut Ebpf) -> Option<&mut SchedClassifier> {
    ebpf.program_mut(PROGRAM)?.try_into().ok()
}

/// The link that another agent has pinned for a device, with our program in the place of its own.
fn take_over(program: BorrowedFd<'_>, pins: Option<&Pins>, index: u32) -> io::Result<Option<Object>> {
    let Some(pins) = pins else { return Ok(None) };
    let name = format!("{PINNED}{index}");
    let others = pins.others().unwrap_or_default().into_iter().map(|folder| folder.join(&name));
    for path in [pins.map(&name)].into_iter().chain(others) {
        if let Some(link) = Object::open(&path)?.filter(|link| leads_to(link, index)) {
            let mut update =
                Update { link: number(link.0.as_fd()), program: number(program), ..Update::default() };
            bpf(&mut update)?;
            return Ok(Some(link));
        }
    }
    Ok(None)
}

fn create(program: BorrowedFd<'_>, device: u32) -> io::Result<Object> {
    let mut create = Create {
        program: number(program),
        device,
        attach_type: TCX_EGRESS,
        flags: FIRST,
        ..Create::default()
    };
    bpf_fd(&mut create).map(Object)
}

/// Whether the link is of this device, which is still there.
fn leads_to(link: &Object, device: u32) -> bool {
    let mut info = Info::default();
    let mut query = QueryInfo {
        object: number(link.0.as_fd()),
        length: u32::try_from(size_of::<Info>()).expect("a small structure"),
        info: (&raw mut info).expose_provenance() as u64,
    };
    bpf(&mut query).is_ok() && info.device == device
}

/// Removes the pins of links whose devices are gone, or whose index is another device's now.
fn sweep(pins: &Pins, uplinks: &BTreeSet<Uplink>) {
    let folder = pins.map("");
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(index) = name.to_str().and_then(|name| name.strip_prefix(PINNED)) else { continue };
        let stands = index.parse().is_ok_and(|index| {
            uplinks.iter().any(|uplink| uplink.index == index) && pinned_leads_to(&entry.path(), index)
        });
        if !stands && let Err(error) = fs::remove_file(entry.path()) {
            tracing::debug!(%error, pin = %entry.path().display(), "a pin of a device that is gone stays");
        }
    }
}

fn pinned_leads_to(path: &Path, device: u32) -> bool {
    matches!(Object::open(path), Ok(Some(link)) if leads_to(&link, device))
}

/// Puts the filter at a device, in the place of the one that a former agent put there.
fn filter(program: &mut SchedClassifier, device: &str) -> Result<(), ProgramError> {
    let there = placed(device).map_err(TcError::IoError)?;
    let attached = program.attach_to_link(there).or_else(|_| {
        // One that is there already is as good; whatever else is wrong, attaching says.
        let _ = qdisc_add_clsact(device);
        let place = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
        program.attach_with_options(device, TcAttachType::Egress, TcAttachOptions::Netlink(place))
    })?;
    // Dropped, it would detach.
    mem::forget(program.take_link(attached)?);
    Ok(())
}

fn placed(device: &str) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(device, TcAttachType::Egress, PRIORITY, HANDLE, None)
}

#[repr(C)]
#[derive(Default)]
struct Create {
    program: u32,
    device: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    padding: u32,
    revision: u64,
}

/// `struct bpf_link_info` of a device's link.
#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    device: u32,
    attach_type: u32,
}

#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
// SAFETY: laid out as in linux/bpf.h; no pointers.
unsafe impl Attributes for Create {
    const COMMAND: libc::c_int = 28;
}
