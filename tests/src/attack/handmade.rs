//! A TCP client of our own: it speaks to IMDS without any socket that is connected to it, over whatever carries its
//! packets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::frame::{ACK, Ends, FIN, PSH, RST, SYN, SYN_ACK, Segment};
use super::{PATIENCE, stream};

/// Where our own sequence numbers begin; nobody else is on the port.
const START: u32 = 0x1000;

/// Our end of a conversation.
pub(super) struct Client {
    ends: Ends,
    /// Holds our port, where it is an address of ours, and keeps the kernel from resetting what it knows nothing of.
    _mute: Option<Socket>,
}

impl Client {
    /// A client on a port of its own of the address `own`.
    pub(super) fn new(own: IpAddr, peer: SocketAddr) -> io::Result<Self> {
        let mute = mute_listener(own)?;
        let address = mute.local_addr()?.as_socket();
        let own = address.ok_or_else(|| io::Error::other("a socket without an address"))?;
        Ok(Self { ends: Ends { own, peer }, _mute: Some(mute) })
    }

    /// Its own address and port, and the peer's.
    pub(super) fn ends(&self) -> Ends {
        self.ends
    }
}

/// A listener that takes no packet: the kernel gives what comes for our port to it, its filter swallows everything,
/// and so no reset goes out. It takes no capability.
fn mute_listener(own: IpAddr) -> io::Result<Socket> {
    let address = SocketAddr::new(own, 0);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    let nothing = SockFilter::new(RETURN, 0, 0, 0);
    socket.attach_filter(&[nothing])?;
    socket.bind(&address.into())?;
    socket.listen(1)?;
    Ok(socket)
}

/// The classic BPF instruction "keep so many bytes of it" (`BPF_RET | BPF_K`).
const RETURN: u16 = 0x06;

/// Opens a connection, asks for the role's name, and counts the bytes of the answer.
pub(super) fn fetch(
    client: &Client,
    send: impl Fn(Ends, &Segment) -> io::Result<()>,
    hear: impl Fn(Instant) -> io::Result<Segment>,
) -> io::Result<usize> {
    let ends = client.ends;
    let deadline = Instant::now() + PATIENCE;
    let say = |flags, sequence, acknowledged, payload: &[u8]| {
        send(ends, &Segment { sequence, acknowledged, flags, payload: payload.to_vec() })
    };
    say(SYN, START, 0, &[])?;
    let opened = until(deadline, &hear, |segment| segment.flags & SYN_ACK == SYN_ACK)?;
    let mut next = opened.sequence.wrapping_add(1);
    let asked = START.wrapping_add(1);
    say(PSH | ACK, asked, next, stream::REQUEST)?;
    let after = asked.wrapping_add(u32::try_from(stream::REQUEST.len()).unwrap_or_default());

    let mut won = 0;
    // What comes again, or out of turn, is passed over: the peer sends it until it is acknowledged.
    while let Ok(segment) = until(deadline, &hear, |segment| segment.sequence == next) {
        let length = segment.payload.len();
        won += length;
        next = next.wrapping_add(u32::try_from(length).unwrap_or_default());
        if segment.flags & FIN == FIN {
            break;
        }
        if length > 0 {
            say(ACK, after, next, &[])?;
        }
    }
    // Nobody waits for us.
    say(RST | ACK, after, next, &[])?;
    if won > 0 { Ok(won) } else { Err(io::ErrorKind::TimedOut.into()) }
}

/// The next segment that is `wanted`; a reset ends the conversation.
fn until(
    deadline: Instant,
    hear: impl Fn(Instant) -> io::Result<Segment>,
    wanted: impl Fn(&Segment) -> bool,
) -> io::Result<Segment> {
    loop {
        let segment = hear(deadline)?;
        if segment.flags & RST == RST {
            return Err(io::Error::from_raw_os_error(libc::ECONNRESET));
        }
        if wanted(&segment) {
            return Ok(segment);
        }
    }
}
