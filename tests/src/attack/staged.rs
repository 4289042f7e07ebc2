use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;

use super::{Blow, Conversation, Held, Outcome, PATIENCE, Props, Report, Tally, Vector};
use crate::binary::binary;
use crate::place::Place;
use crate::process::{Process, piped, successful};

/// What an attacker prints when it has come to its pause.
const READY: &str = "ready";

/// How long a whole attack may take, start-up included: several waits, each within the attack's patience.
const ATTACK_WITHIN: Duration = Duration::from_secs(30);

/// How long a flood may take.
const FLOOD_WITHIN: Duration = Duration::from_mins(5);

/// The attacker's side of the pause: says that it is ready, and waits for a line.
pub(super) fn pause() -> io::Result<()> {
    println!("{READY}");
    io::stdout().flush()?;
    io::stdin().read_line(&mut String::new()).map(drop)
}

/// An attack that has come to its pause, if it has one, and waits for leave to go on. Dropping it ends it.
#[derive(Debug)]
pub struct Staged {
    attacker: Process,
    /// The report of an attack that was stopped before its pause.
    early: Option<Report>,
    vector: Vector,
    /// Lives until the attack is over, as a pod does that hands its socket over.
    giver: Option<Process>,
}

impl Staged {
    pub(crate) fn start(place: &Place, vector: Vector) -> Result<Self> {
        Self::start_with(place, vector, &Props::default())
    }

    pub(crate) fn start_with(place: &Place, vector: Vector, props: &Props) -> Result<Self> {
        if vector == Vector::ScmRights {
            return Self::start_handover(place, place);
        }
        let mut command = command(place, vector)?;
        command.args(props.to_arguments());
        let mut attacker = place.spawn(piped(command))?;
        let early = match vector.pauses().then(|| attacker.read_line()).transpose()? {
            Some(line) if line != READY => Some(parse(&line)?),
            _ => None,
        };
        Ok(Self { attacker, early, vector, giver: None })
    }

    fn start_handover(giver: &Place, taker: &Place) -> Result<Self> {
        let (giving, taking) = UnixStream::pair().context("make a socket pair")?;
        let mut give = Command::new(binary("guard-attack")?);
        give.arg("give-socket").stdin(Stdio::from(OwnedFd::from(giving)));
        let mut take = command(taker, Vector::ScmRights)?;
        take.stdin(Stdio::from(OwnedFd::from(taking))).stdout(Stdio::piped()).stderr(Stdio::piped());
        let giver = Some(giver.spawn(give)?);
        Ok(Self { attacker: taker.spawn(take)?, early: None, vector: Vector::ScmRights, giver })
    }

    /// Lets it go on, and waits for what becomes of it.
    pub fn proceed(mut self) -> Result<Report> {
        if let Some(report) = self.early {
            return Ok(report);
        }
        if self.vector.pauses() {
            self.attacker.write_line("go")?;
        }
        let printed = successful(self.attacker.output(ATTACK_WITHIN)?)?;
        drop(self.giver);
        parse(&printed)
    }
}

impl Place {
    /// Connects here, with [`Vector::ScmRights`], a socket that a process in another place made and handed over.
    pub fn attack_with_socket_of(&self, giver: &Self) -> Result<Report> {
        Staged::start_handover(giver, self)?.proceed()
    }

    /// Opens a connection to IMDS by hand from here, and leaves it to whoever comes after.
    pub fn begin_conversation(&self) -> Result<Conversation> {
        let mut command = Command::new(binary("guard-attack")?);
        command.arg("begin-conversation");
        parse(&successful(self.run(command)?)?)
    }

    /// Starts a process here that holds sockets, for as long as it lives.
    pub fn hold_sockets(&self) -> Result<(Process, Held)> {
        let mut command = Command::new(binary("guard-attack")?);
        command.arg("hold-sockets");
        let mut holder = self.spawn(piped(command))?;
        let held = parse(&holder.read_line()?)?;
        Ok((holder, held))
    }

    /// Makes exactly so many attempts, as fast as one process can.
    pub fn hammer(&self, blow: Blow, attempts: u64) -> Result<Tally> {
        let mut command = Command::new(binary("guard-attack")?);
        command.args(["hammer", "--kind", &blow.name(), "--attempts", &attempts.to_string()]);
        parse(&successful(self.spawn(piped(command))?.output(FLOOD_WITHIN)?)?)
    }

    /// Starts to attack over and over, until the siege is lifted.
    pub fn besiege(&self, vector: Vector) -> Result<Siege> {
        let mut command = Command::new(binary("guard-attack")?);
        command.args(["siege", &vector.name()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut besieger = self.spawn(command)?;
        let line = besieger.read_line()?;
        ensure!(line == READY, "the siege did not begin: {line}");
        let won = Arc::new(AtomicU64::new(0));
        let (lines, counted) = (besieger.take_lines()?, Arc::clone(&won));
        let reader = thread::spawn(move || read_siege(lines, &counted));
        Ok(Siege { besieger, won, reader })
    }
}

/// An attack that is made over and over. Dropping it ends it.
#[derive(Debug)]
pub struct Siege {
    besieger: Process,
    won: Arc<AtomicU64>,
    reader: JoinHandle<Result<Tally>>,
}

impl Siege {
    /// The bytes that have come back so far.
    pub fn bytes(&self) -> u64 {
        self.won.load(Ordering::Relaxed)
    }

    /// Ends it, and says what it came to.
    pub fn lift(mut self) -> Result<Tally> {
        self.besieger.write_line("enough")?;
        self.besieger.wait(10 * PATIENCE)?;
        self.reader.join().unwrap_or_else(|panic| resume_unwind(panic))
    }
}

/// Reads on while the siege goes on: a full pipe would hold it up. The last line is the tally, those before are
/// reports of attacks that won something.
fn read_siege(lines: BufReader<ChildStdout>, won: &AtomicU64) -> Result<Tally> {
    let mut last = None;
    for line in lines.lines() {
        let line = line.context("read from a siege")?;
        if let Ok(Report { outcome: Outcome::Bytes(bytes), .. }) = serde_json::from_str(&line) {
            won.fetch_add(bytes, Ordering::Relaxed);
        }
        last = Some(line);
    }
    parse(&last.context("the siege printed nothing")?)
}

fn command(place: &Place, vector: Vector) -> Result<Command> {
    let mut command = Command::new(binary("guard-attack")?);
    command.args(["run", &vector.name()]).arg("--cgroup").arg(place.cgroup());
    Ok(command)
}

fn parse<T: DeserializeOwned>(printed: &str) -> Result<T> {
    serde_json::from_str(printed).with_context(|| format!("guard-attack printed {printed:?}"))
}
