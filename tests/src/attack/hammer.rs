use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Outcome, Report, Target, Vector, datagram};

/// One attempt among many. It waits for no answer: what counts is that it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Blow {
    /// A non-blocking connect, closed at once.
    Tcp,
    /// The same through an IPv4-mapped address.
    TcpMapped,
    /// The same over IPv6.
    TcpIpv6,
    /// An unconnected datagram.
    Udp,
    /// The same through an IPv4-mapped address.
    UdpMapped,
    /// The same over IPv6.
    UdpIpv6,
}

/// What many attempts came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Attempts that were made.
    pub attempts: u64,
    /// Those that met with no error.
    pub passed: u64,
    /// Bytes that ever came back; always none where nobody waits for them.
    pub bytes: u64,
    /// Those that met with an error, by its name or what it says, `timeout` and `denied`.
    pub errors: BTreeMap<String, u64>,
}

impl Blow {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn address(self, target: &Target) -> SocketAddr {
        match self {
            Self::Tcp | Self::Udp => target.v4(),
            Self::TcpMapped | Self::UdpMapped => target.mapped(),
            Self::TcpIpv6 | Self::UdpIpv6 => target.v6(),
        }
    }
}

/// Makes exactly `attempts` attempts, as fast as it can.
pub fn hammer(blow: Blow, target: &Target, attempts: u64) -> io::Result<Tally> {
    let address = blow.address(target);
    let (domain, destination) = (Domain::for_address(address), SockAddr::from(address));
    let mut tally = Tally::default();
    match blow {
        Blow::Tcp | Blow::TcpMapped | Blow::TcpIpv6 => {
            for _ in 0..attempts {
                tally.count_attempt(&begin_connection(domain, &destination)?);
            }
        }
        Blow::Udp | Blow::UdpMapped | Blow::UdpIpv6 => {
            let socket = datagram::open(domain)?;
            for _ in 0..attempts {
                tally.count_attempt(&socket.send_to(b"x", &destination).map(drop));
            }
        }
    }
    Ok(tally)
}

/// Performs `vector` over and over until `enough`, telling `each` report as it comes.
pub fn siege(
    vector: Vector,
    target: &Target,
    mut each: impl FnMut(&Report),
    mut enough: impl FnMut() -> bool,
) -> Tally {
    let mut tally = Tally::default();
    while !enough() {
        let report = vector.perform(target);
        tally.count_outcome(&report.outcome);
        each(&report);
    }
    tally
}

/// The outer error is one of making the socket, the inner one is the attempt's.
fn begin_connection(domain: Domain, destination: &SockAddr) -> io::Result<io::Result<()>> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Reset at close: connections in TIME_WAIT would use up the ports.
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(match socket.connect(destination) {
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => Ok(()),
        connected => connected,
    })
}

impl Tally {
    fn count_attempt(&mut self, attempt: &io::Result<()>) {
        self.attempts += 1;
        match attempt {
            Ok(()) => self.passed += 1,
            Err(error) => {
                let name = Errno::from_raw(error.raw_os_error().unwrap_or_default());
                *self.errors.entry(format!("{name:?}")).or_default() += 1;
            }
        }
    }

    fn count_outcome(&mut self, outcome: &Outcome) {
        self.attempts += 1;
        match outcome {
            Outcome::Bytes(count) => {
                self.passed += 1;
                self.bytes += count;
            }
            Outcome::Timeout | Outcome::Denied => {
                *self.errors.entry(outcome.to_string()).or_default() += 1;
            }
            Outcome::Errno(name) | Outcome::Unsupported(name) | Outcome::Broken(name) => {
                *self.errors.entry(name.clone()).or_default() += 1;
            }
        }
    }
}
