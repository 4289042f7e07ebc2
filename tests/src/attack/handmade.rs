//! A TCP client of our own: it speaks to IMDS without any socket that is connected to it, over whatever carries its
//! packets.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process;
use std::str::FromStr;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::frame::{ACK, Ends, FIN, PSH, RST, SYN, SYN_ACK, Segment};
use super::{PATIENCE, Target, link, stream};

/// What is sent where a datagram is enough.
pub(super) const DATAGRAM: &[u8] = b"anybody there?";

/// Our end of a conversation.
pub(super) struct Client {
    ends: Ends,
    /// Holds our port, where it is an address of ours, and keeps the kernel from resetting what it knows nothing of.
    _mute: Option<Socket>,
}

impl Client {
    /// A client on a port of its own of the address `own`.
    pub(super) fn new(own: IpAddr, peer: SocketAddr) -> io::Result<Self> {
        let mute = mute_listener((own, 0).into())?;
        let address = mute.local_addr()?.as_socket();
        let own = address.ok_or_else(|| io::Error::other("a socket without an address"))?;
        Ok(Self { ends: Ends { own, peer }, _mute: Some(mute) })
    }

    /// A client at an address that is not ours.
    pub(super) fn in_the_name_of(own: SocketAddr, peer: SocketAddr) -> Self {
        Self { ends: Ends { own, peer }, _mute: None }
    }

    /// A client that takes the place of one before it.
    fn in_place_of(ends: Ends) -> io::Result<Self> {
        Ok(Self { ends, _mute: Some(mute_listener(ends.own)?) })
    }

    /// Its own address and port, and the peer's.
    pub(super) fn ends(&self) -> Ends {
        self.ends
    }
}

/// An open connection: whoever knows this can go on with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    ends: Ends,
    /// The number of the next byte that we say.
    next: u32,
    /// The number of the next byte that the peer says.
    expected: u32,
}

impl fmt::Display for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Conversation {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(text)
    }
}

/// A port on which the kernel has no socket, other for every attacker: for addresses that are not ours.
pub(super) fn port_of_nobody() -> u16 {
    let process = u16::try_from(process::id() % 20_000).unwrap_or_default();
    10_000 + process
}

/// Opens a connection through the link to IMDS and leaves it at that.
pub fn begin_conversation(target: &Target) -> io::Result<Conversation> {
    let link = link::Link::toward(target.ipv4)?;
    let client = link.client(target.v4())?;
    let send = |ends: Ends, segment: &Segment| link.send_segment(ends, segment);
    open(&client, send, |deadline| link.hear_segment(client.ends, deadline), Instant::now() + PATIENCE)
}

/// Goes on, through the link to IMDS, with a conversation that somebody else began at our address.
pub(super) fn go_on(target: &Target) -> io::Result<usize> {
    let conversation = super::props::needed(target.props.conversation.as_ref(), "a conversation")?;
    let link = link::Link::toward(target.ipv4)?;
    let client = Client::in_place_of(conversation.ends)?;
    let send = |ends: Ends, segment: &Segment| link.send_segment(ends, segment);
    let hear = |deadline| link.hear_segment(client.ends, deadline);
    ask(conversation, send, hear, Instant::now() + PATIENCE)
}

/// Opens a connection, asks for the role's name, and counts the bytes of the answer.
pub(super) fn fetch(
    client: &Client,
    send: impl Fn(Ends, &Segment) -> io::Result<()>,
    hear: impl Fn(Instant) -> io::Result<Segment>,
) -> io::Result<usize> {
    let deadline = Instant::now() + PATIENCE;
    let conversation = open(client, &send, &hear, deadline)?;
    ask(&conversation, send, hear, deadline)
}

fn open(
    client: &Client,
    send: impl Fn(Ends, &Segment) -> io::Result<()>,
    hear: impl Fn(Instant) -> io::Result<Segment>,
    deadline: Instant,
) -> io::Result<Conversation> {
    // A number of our own, so that no conversation at the same ports is taken for this one.
    let start = process::id() << 12;
    let next = start.wrapping_add(1);
    let say = |sequence, acknowledged, flags| {
        send(client.ends, &Segment { sequence, acknowledged, flags, payload: Vec::new() })
    };
    say(start, 0, SYN)?;
    let answer =
        until(deadline, hear, |segment| segment.flags & SYN_ACK == SYN_ACK && segment.acknowledged == next)?;
    let expected = answer.sequence.wrapping_add(1);
    say(next, expected, ACK)?;
    Ok(Conversation { ends: client.ends, next, expected })
}

fn ask(
    conversation: &Conversation,
    send: impl Fn(Ends, &Segment) -> io::Result<()>,
    hear: impl Fn(Instant) -> io::Result<Segment>,
    deadline: Instant,
) -> io::Result<usize> {
    let Conversation { ends, next, mut expected } = *conversation;
    let say = |sequence, acknowledged, flags, payload: &[u8]| {
        send(ends, &Segment { sequence, acknowledged, flags, payload: payload.to_vec() })
    };
    say(next, expected, PSH | ACK, stream::REQUEST)?;
    let after = next.wrapping_add(u32::try_from(stream::REQUEST.len()).unwrap_or_default());
    let mut won = 0;
    // What comes again, or out of turn, is passed over: the peer sends it until it is acknowledged.
    while let Ok(segment) = until(deadline, &hear, |segment| segment.sequence == expected) {
        let length = segment.payload.len();
        won += length;
        expected = expected.wrapping_add(u32::try_from(length).unwrap_or_default());
        if segment.flags & FIN == FIN {
            break;
        }
        if length > 0 {
            say(after, expected, ACK, &[])?;
        }
    }
    // Nobody waits for us.
    say(after, expected, RST | ACK, &[])?;
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

/// A listener that takes no packet: the kernel gives what comes for our port to it, it drops what has come over any hop,
/// without a word, and so no reset goes out. It takes no capability.
fn mute_listener(own: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(own), Type::STREAM, Some(Protocol::TCP))?;
    let (level, option) = match own {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MINTTL),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT),
    };
    link::set_option(&socket, level, option, &255_i32.to_ne_bytes())?;
    socket.bind(&own.into())?;
    socket.listen(1)?;
    Ok(socket)
}
