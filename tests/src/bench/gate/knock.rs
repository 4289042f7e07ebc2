use std::env;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::place::Place;
use crate::process::Process;
use crate::simulator::IMDS_V4;

/// The hidden argument that makes `guard-bench` knock.
const ARGUMENT: &str = "knock";

const BETWEEN: Duration = Duration::from_millis(1);
/// Whoever drops packets is asked again soon.
const CONNECT_WITHIN: Duration = Duration::from_millis(20);
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

const REQUEST: &[u8] = b"GET /latest/meta-data/placement/region HTTP/1.0\r\nHost: 169.254.169.254\r\n\r\n";

/// A process that asks for the region until it is answered.
#[derive(Debug)]
pub(super) struct Knocking(Process);

impl Knocking {
    pub(super) fn start(place: &Place) -> Result<Self> {
        let mut command = Command::new(env::current_exe().context("find the running executable")?);
        command.arg(ARGUMENT).stdin(Stdio::null()).stdout(Stdio::piped());
        place.spawn(command).map(Self)
    }

    /// Waits for the status of the first answer. Whoever is never answered ends by itself, with an error.
    pub(super) fn answer(mut self) -> Result<u16> {
        let line = self.0.read_line().context("nobody answered")?;
        line.parse().with_context(|| format!("no status: {line:?}"))
    }
}

/// Knocks, and prints the status of the first answer.
pub fn knock() -> Result<()> {
    /// Far more than any gate may take.
    const ATTEMPTS: u32 = 10_000;
    let address = SocketAddr::from((IMDS_V4, 80));
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match ask(address) {
            Ok(status) => {
                println!("{status}");
                return io::stdout().flush().context("print");
            }
            Err(error) => last = Some(error),
        }
        sleep(BETWEEN);
    }
    Err(last.context("not one attempt")?).context("knock in vain")
}

fn ask(address: SocketAddr) -> io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(REQUEST)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    status.ok_or_else(|| io::Error::other("an answer that is none"))
}
