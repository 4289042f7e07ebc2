//! Talk with the kernel over netlink, one question after the other: the kernel has answered when the call that asks returns.

mod attribute;

use std::{cell::Cell, io, os::fd::AsRawFd};

use netlink_sys::{Socket, SocketAddr};

pub(super) use attribute::{Attributes, find, text};

// linux/netlink.h
const ERROR: u16 = 2;
const DONE: u16 = 3;
pub(super) const REQUEST: u16 = 1;
pub(super) const ACKNOWLEDGE: u16 = 4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

/// The length of a message's header.
const HEADER: usize = 16;

/// A socket to one part of the kernel, in the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Talk {
    socket: Socket,
    sequence: Cell<u32>,
}

/// Messages that are being written, all with one number.
#[derive(Debug)]
pub(super) struct Messages {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Talk {
    /// Opens it in the namespace that the calling thread is in.
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        Ok(Self { socket, sequence: Cell::new(1) })
    }

    pub(super) fn begin(&self) -> Messages {
        let sequence = self.sequence.get();
        self.sequence.set(sequence.wrapping_add(1));
        Messages { bytes: Vec::new(), sequence }
    }

    /// Sends what the kernel is to do; one of the messages asks for an acknowledgement.
    pub(super) fn order(&self, messages: &Messages) -> io::Result<()> {
        self.socket.send(&messages.bytes, 0)?;
        let mut acknowledged = false;
        while let Some(answer) = self.receive()? {
            for (kind, payload) in parse(&answer, messages.sequence) {
                if kind == ERROR {
                    errno(payload)?;
                    acknowledged = true;
                }
            }
        }
        if acknowledged { Ok(()) } else { Err(io::Error::other("the kernel does not answer")) }
    }

    /// Sends one question, and returns what the kernel answers, without netlink's own header.
    pub(super) fn ask(&self, question: &Messages) -> io::Result<Vec<Vec<u8>>> {
        self.socket.send(&question.bytes, 0)?;
        let mut answers = Vec::new();
        while let Some(answer) = self.receive()? {
            for (kind, payload) in parse(&answer, question.sequence) {
                match kind {
                    DONE => return Ok(answers),
                    ERROR => errno(payload)?,
                    _ => answers.push(payload.to_vec()),
                }
            }
        }
        Ok(answers)
    }

    /// The next answer that is there.
    fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        let mut answer = Vec::with_capacity(64 << 10);
        match self.socket.recv_from(&mut answer, libc::MSG_DONTWAIT) {
            Ok((_, sender)) if sender.port_number() != 0 => {
                Err(io::Error::other("somebody else than the kernel answers"))
            }
            Ok(_) => Ok(Some(answer)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Messages {
    /// Appends a message; `header` is that of its protocol.
    pub(super) fn add(&mut self, kind: u16, flags: u16, header: &[u8], attributes: Attributes) {
        let attributes = attributes.into_bytes();
        let length = u32::try_from(HEADER + header.len() + attributes.len()).expect("a message is short");
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(header);
        self.bytes.extend(attributes);
    }
}

/// A socket on which the kernel tells of changes. What it tells is not read: it is a bell.
#[derive(Debug)]
pub(super) struct Changes(Socket);

impl Changes {
    /// Hears what is told to `groups`, in the namespace that the calling thread is in.
    pub(super) fn open(protocol: isize, groups: u32) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind(&SocketAddr::new(0, groups))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Takes everything that was told. Whatever had no room is forgotten, too: that something changed is all that counts.
    pub(super) fn drain(&self) -> io::Result<()> {
        let mut told = Vec::with_capacity(64 << 10);
        loop {
            told.clear();
            match self.0.recv_from(&mut told, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

/// The kinds and payloads of the messages with a number.
fn parse(mut bytes: &[u8], expected: u32) -> impl Iterator<Item = (u16, &[u8])> {
    let all = std::iter::from_fn(move || {
        let (header, _) = bytes.split_first_chunk::<HEADER>()?;
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = usize::try_from(word(0)).ok()?;
        let payload = bytes.get(HEADER..length)?;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((word(8), kind, payload))
    });
    all.filter(move |(sequence, ..)| *sequence == expected).map(|(_, kind, payload)| (kind, payload))
}

/// What an error message says; 0 is none.
fn errno(payload: &[u8]) -> io::Result<()> {
    match payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::Error::other("an error that is cut short")),
    }
}
