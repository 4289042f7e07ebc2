//! `AF_XDP` sockets: frames that the kernel hands to the device's driver as they are, past `tc` and netfilter.
//!
//! They need `CAP_NET_RAW`, and memory that may be locked: no program.

use std::ffi::{CString, c_void};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::yield_now;
use std::time::Instant;

use nix::net::if_::if_nametoindex;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_TX_RING, XdpDesc, XdpDescOptions, XdpRingOffset,
};
use rustix::net::{AddressFamily, SendFlags, SocketType, bind, send, socket, sockopt};

use super::frame::{self, TCP};
use super::link::{self, Link};
use super::outcome::unsupported;
use super::staged::pause;
use super::{PATIENCE, Target, compat};

/// So many frames can be sent, each from a place of its own: more than a conversation has.
const FRAMES: u32 = 16;
const FRAME: u32 = 2048;

/// Sends through an XDP socket, and hears through a packet socket.
pub(super) fn fetch(target: &Target) -> io::Result<usize> {
    let link = Link::toward(target.ipv4)?;
    Sender::on(&link, set_option)?.fetch(&link, target)
}

/// With a socket that was ready before the pause.
pub(super) fn preopened(target: &Target) -> io::Result<usize> {
    let link = Link::toward(target.ipv4)?;
    let sender = Sender::on(&link, set_option)?;
    pause()?;
    sender.fetch(&link, target)
}

/// With a socket that was made ready by a 32-bit program's system calls.
pub(super) fn by_compat_calls(target: &Target) -> io::Result<usize> {
    compat::require()?;
    let link = Link::toward(target.ipv4)?;
    let set = |socket: &OwnedFd, level, option, value: &[u8]| {
        compat::set_option(socket.as_raw_fd(), level, option, value)
    };
    Sender::on(&link, set)?.fetch(&link, target)
}

/// An XDP socket that only sends.
struct Sender {
    socket: OwnedFd,
    ring: Memory,
    offsets: XdpRingOffset,
    frames: Memory,
}

impl Sender {
    /// On the first queue of a link's device. `set` sets the options of the socket.
    fn on(link: &Link, set: impl Fn(&OwnedFd, i32, i32, &[u8]) -> io::Result<()>) -> io::Result<Self> {
        let index = if_nametoindex(CString::new(link.device())?.as_c_str())?;
        let socket = socket(AddressFamily::XDP, SocketType::RAW, None).map_err(|error| match error {
            Errno::AFNOSUPPORT => unsupported("AF_XDP", &error.into()),
            error => error.into(),
        })?;
        let frames = Memory::of((FRAMES * FRAME) as usize)?;
        let set = |option, value: &[u8]| set(&socket, libc::SOL_XDP, option, value);
        set(libc::XDP_UMEM_REG, &area(&frames))?;
        for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_TX_RING] {
            set(ring, &FRAMES.to_ne_bytes())?;
        }
        let offsets = sockopt::xdp_mmap_offsets(&socket)?.tx;
        let length = offsets.desc + u64::from(FRAMES) * size_of::<XdpDesc>() as u64;
        let ring = Memory::of_socket(&socket, length, XDP_PGOFF_TX_RING)?;
        bind_when_free(&socket, &SocketAddrXdp::new(SocketAddrXdpFlags::XDP_COPY, index, 0))?;
        Ok(Self { socket, ring, offsets, frames })
    }

    fn fetch(&self, link: &Link, target: &Target) -> io::Result<usize> {
        link.fetch_in(&link.client(target.v4())?, |ends, segment| {
            self.send(&link.frame(&frame::ip(ends, TCP, &segment.to_bytes(ends))))
        })
    }

    #[expect(unsafe_code, reason = "the ring is memory that the kernel reads")]
    fn send(&self, frame: &[u8]) -> io::Result<()> {
        let place = |offset: u64| usize::try_from(offset).map_err(io::Error::other);
        // SAFETY: the kernel gave this offset of a u32 in the ring, which lives as long as `self`.
        let producer = unsafe { &*self.ring.at(place(self.offsets.producer)?).cast::<AtomicU32>() };
        let number = producer.load(Ordering::Relaxed);
        if number >= FRAMES || frame.len() > FRAME as usize {
            return Err(io::Error::other("more frames, or longer ones, than there is room for"));
        }
        let start = (number * FRAME) as usize;
        let described = XdpDesc {
            addr: start as u64,
            len: u32::try_from(frame.len()).unwrap_or_default(),
            options: XdpDescOptions::empty(),
        };
        let entry = place(self.offsets.desc)? + number as usize * size_of::<XdpDesc>();
        // SAFETY: both places are within their memory, as was just seen, nobody else writes there, and the kernel reads
        // them only once the producer has moved on.
        unsafe {
            self.frames.at(start).cast::<u8>().copy_from(frame.as_ptr(), frame.len());
            self.ring.at(entry).cast::<XdpDesc>().write(described);
        }
        producer.store(number + 1, Ordering::Release);
        send(&self.socket, &[], SendFlags::DONTWAIT)?;
        Ok(())
    }
}

/// A queue has one socket, and is free again some time after that is closed. One that stays taken says nothing of a guard.
fn bind_when_free(socket: &OwnedFd, address: &SocketAddrXdp) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match bind(socket, address) {
            Err(Errno::BUSY) if Instant::now() < deadline => yield_now(),
            Err(Errno::BUSY) => return Err(io::Error::other("the queue is another socket's")),
            bound => return Ok(bound?),
        }
    }
}

/// `struct xdp_umem_reg` of an area of frames: where it is and how long, the length of a frame, and no more.
fn area(frames: &Memory) -> Vec<u8> {
    let place = [frames.start.as_ptr() as u64, frames.length as u64].map(u64::to_ne_bytes).concat();
    let rest = [FRAME, 0, 0, 0].map(u32::to_ne_bytes).concat();
    [place, rest].concat()
}

fn set_option(socket: &OwnedFd, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    link::set_option(socket, level, option, value)
}

/// Mapped memory, unmapped when dropped.
struct Memory {
    start: NonNull<u8>,
    length: usize,
}

#[expect(unsafe_code, reason = "memory that the kernel shares")]
impl Memory {
    const ACCESS: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

    fn of(length: usize) -> io::Result<Self> {
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { mmap_anonymous(null_mut(), length, Self::ACCESS, MapFlags::PRIVATE)? };
        Self::from_start(start, length)
    }

    fn of_socket(socket: &OwnedFd, length: u64, offset: u64) -> io::Result<Self> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { mmap(null_mut(), length, Self::ACCESS, flags, socket, offset)? };
        Self::from_start(start, length)
    }

    fn from_start(start: *mut c_void, length: usize) -> io::Result<Self> {
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, length })
    }

    /// A place that must be within it.
    fn at(&self, offset: usize) -> *mut c_void {
        assert!(offset < self.length, "a place outside the mapping");
        // SAFETY: within the mapping, which lives as long as `self`.
        unsafe { self.start.as_ptr().add(offset).cast() }
    }
}

impl Drop for Memory {
    #[expect(unsafe_code, reason = "memory that the kernel shares")]
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and nothing refers to it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}
