use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Blow, PATIENCE, Report, Tally, Vector};
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
    vector: Vector,
    /// Lives until the attack is over, as a pod does that hands its socket over.
    giver: Option<Process>,
}

impl Staged {
    pub(crate) fn start(place: &Place, vector: Vector) -> Result<Self> {
        if vector == Vector::ScmRights {
            return Self::start_handover(place, place);
        }
        let mut attacker = place.spawn(piped(command(place, vector)?))?;
        if vector.pauses() {
            // An attack that is stopped before its pause reports at once; `proceed` reads that line then.
            let line = attacker.read_line()?;
            ensure!(line == READY, "{} ended before its pause: {line}", vector.name());
        }
        Ok(Self { attacker, vector, giver: None })
    }

    fn start_handover(giver: &Place, taker: &Place) -> Result<Self> {
        let (giving, taking) = UnixStream::pair().context("make a socket pair")?;
        let mut give = Command::new(binary("guard-attack")?);
        give.arg("give-socket").stdin(Stdio::from(OwnedFd::from(giving)));
        let mut take = command(taker, Vector::ScmRights)?;
        take.stdin(Stdio::from(OwnedFd::from(taking))).stdout(Stdio::piped()).stderr(Stdio::piped());
        let giver = Some(giver.spawn(give)?);
        Ok(Self { attacker: taker.spawn(take)?, vector: Vector::ScmRights, giver })
    }

    /// Lets it go on, and waits for what becomes of it.
    pub fn proceed(mut self) -> Result<Report> {
        if self.vector.pauses() {
            self.attacker.write_line("go")?;
        }
        let printed = successful(self.attacker.output(ATTACK_WITHIN)?)?;
        drop(self.giver);
        serde_json::from_str(&printed).with_context(|| format!("no report: {printed}"))
    }
}

impl Place {
    /// Connects here, with [`Vector::ScmRights`], a socket that a process in another place made and handed over.
    pub fn attack_with_socket_of(&self, giver: &Self) -> Result<Report> {
        Staged::start_handover(giver, self)?.proceed()
    }

    /// Makes exactly so many attempts, as fast as one process can.
    pub fn hammer(&self, blow: Blow, attempts: u64) -> Result<Tally> {
        let mut command = Command::new(binary("guard-attack")?);
        command.args(["hammer", "--kind", &blow.name(), "--attempts", &attempts.to_string()]);
        let printed = successful(self.spawn(piped(command))?.output(FLOOD_WITHIN)?)?;
        serde_json::from_str(&printed).with_context(|| format!("no tally: {printed}"))
    }

    /// Starts to attack over and over, until the siege is lifted.
    pub fn besiege(&self, vector: Vector) -> Result<Siege> {
        let mut command = Command::new(binary("guard-attack")?);
        command.args(["siege", &vector.name()]);
        let mut besieger = self.spawn(piped(command))?;
        let line = besieger.read_line()?;
        ensure!(line == READY, "the siege did not begin: {line}");
        Ok(Siege { besieger })
    }
}

/// An attack that is made over and over. Dropping it ends it.
#[derive(Debug)]
pub struct Siege {
    besieger: Process,
}

impl Siege {
    /// Ends it, and says what it came to.
    pub fn lift(mut self) -> Result<Tally> {
        self.besieger.write_line("enough")?;
        let printed = successful(self.besieger.output(10 * PATIENCE)?)?;
        let last = printed.lines().last().context("no tally")?;
        serde_json::from_str(last).with_context(|| format!("no tally: {last}"))
    }
}

fn command(place: &Place, vector: Vector) -> Result<Command> {
    let mut command = Command::new(binary("guard-attack")?);
    command.args(["run", &vector.name()]).arg("--cgroup").arg(place.cgroup());
    Ok(command)
}
