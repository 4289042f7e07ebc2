//! A pinned map of the guard's, as the bare system call sees it: for whoever wants to spoil it.

use std::ffi::{CString, c_long};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::hook::{Attribute, bpf, descriptor, owned};

/// A map whose keys are eight bytes long.
#[derive(Debug)]
pub struct PinnedMap {
    map: OwnedFd,
    value_len: usize,
}

const BPF_MAP_UPDATE_ELEM: c_long = 2;
const BPF_MAP_DELETE_ELEM: c_long = 3;
const BPF_OBJ_GET: c_long = 7;

/// The part of `union bpf_attr` that `BPF_OBJ_GET` needs.
#[repr(C)]
#[derive(Default)]
struct Get {
    path: u64,
    object: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that the commands on elements need.
#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
// SAFETY: laid out as in linux/bpf.h; its pointer is to the caller's path.
unsafe impl Attribute for Get {}

#[expect(unsafe_code, reason = "bpf(2) trusts its caller")]
// SAFETY: laid out as in linux/bpf.h; its pointers are to a key and a value as long as the map's.
unsafe impl Attribute for Element {}

impl PinnedMap {
    /// Opens the map at a path, whose values are so long.
    pub fn open(path: &Path, value_len: usize) -> Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let mut get = Get { path: name.as_ptr().expose_provenance() as u64, ..Get::default() };
        let map = bpf(BPF_OBJ_GET, &mut get).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { map: owned(map), value_len })
    }

    /// Puts zeroes under keys from `first` on until there is no room, and returns how many.
    pub fn fill(&self, first: u64) -> Result<u64> {
        let value = vec![0_u8; self.value_len];
        for count in 0..1 << 20 {
            let key = first + count;
            match self.command(BPF_MAP_UPDATE_ELEM, &key, Some(&value)) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::E2BIG) => return Ok(count),
                Err(error) => return Err(error).context("fill a map"),
            }
        }
        ensure!(false, "the map has no end");
        Ok(0)
    }

    /// Removes `count` keys from `first` on.
    pub fn remove(&self, first: u64, count: u64) -> Result<()> {
        for key in first..first + count {
            self.command(BPF_MAP_DELETE_ELEM, &key, None).context("empty a map")?;
        }
        Ok(())
    }

    fn command(&self, command: c_long, key: &u64, value: Option<&[u8]>) -> io::Result<()> {
        let mut element = Element {
            map: descriptor(self.map.as_raw_fd()),
            key: std::ptr::from_ref(key).expose_provenance() as u64,
            value: value.map_or(0, |value| value.as_ptr().expose_provenance() as u64),
            ..Element::default()
        };
        bpf(command, &mut element).map(drop)
    }
}
