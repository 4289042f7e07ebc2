//! What the agent and the canary's process say to each other: a vector's name a line one way, what became of it a line the
//! other way. It ends when the agent says no more.

use std::{
    io::{self, BufRead, Write},
    os::fd::OwnedFd,
    os::unix::net::UnixStream as StdStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::{Entrance, Outcome, Target, Vector};

/// How long the process may take to start, and to answer.
const PATIENCE: Duration = Duration::from_secs(5);

const READY: &str = "ready";
const FAILED: &str = "failed ";
const REFUSED: &str = "refused";
const PASSED: &str = "passed";
const IMPOSSIBLE: &str = "impossible ";

/// Why the canary could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    #[error("start the canary's process")]
    Start(#[source] io::Error),
    #[error("the canary's process: {0}")]
    Failed(String),
    #[error("talk to the canary's process")]
    Talk(#[source] io::Error),
    #[error("the canary's process did not answer within {} s", PATIENCE.as_secs())]
    Silent,
}

/// The agent's side: the process, which ends with it.
#[derive(Debug)]
pub struct Conversation {
    process: Child,
    say: OwnedWriteHalf,
    hear: BufReader<OwnedReadHalf>,
}

impl Conversation {
    /// Starts the process and waits until it has entered its place.
    pub async fn begin(entrance: &Entrance, target: &Target) -> Result<Self, ConversationError> {
        let (process, stream) = start(entrance, target).map_err(ConversationError::Start)?;
        let (hear, say) = stream.into_split();
        let mut conversation = Self { process, say, hear: BufReader::new(hear) };
        match conversation.line().await?.as_str() {
            READY => Ok(conversation),
            line => Err(ConversationError::Failed(line.strip_prefix(FAILED).unwrap_or(line).to_owned())),
        }
    }

    /// Has it try one vector.
    pub async fn attempt(&mut self, vector: &Vector) -> Result<Outcome, ConversationError> {
        self.say.write_all(format!("{}\n", vector.name).as_bytes()).await.map_err(ConversationError::Talk)?;
        let line = self.line().await?;
        match line.as_str() {
            REFUSED => Ok(Outcome::Refused),
            PASSED => Ok(Outcome::Passed),
            line => match line.strip_prefix(IMPOSSIBLE) {
                Some(why) => Ok(Outcome::Impossible(why.to_owned())),
                None => Err(ConversationError::Failed(format!("said `{line}`"))),
            },
        }
    }

    async fn line(&mut self) -> Result<String, ConversationError> {
        let mut line = String::new();
        let read = timeout(PATIENCE, self.hear.read_line(&mut line)).await;
        match read.map_err(|_| ConversationError::Silent)?.map_err(ConversationError::Talk)? {
            0 => Err(ConversationError::Failed("ended".to_owned())),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // It has nothing left to do; it fails only for a process that has ended and been waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start(entrance: &Entrance, target: &Target) -> io::Result<(Child, UnixStream)> {
    let (own, its) = StdStream::pair()?;
    own.set_nonblocking(true)?;
    let its = OwnedFd::from(its);
    let mut command = Command::new("/proc/self/exe");
    command.arg("canary").arg("--cgroup").arg(&entrance.cgroup).arg("--network").arg(&entrance.network);
    if let Some(v4) = target.v4 {
        command.args(["--ipv4", &v4.to_string()]);
    }
    if let Some(v6) = target.v6 {
        command.args(["--ipv6", &v6.to_string()]);
    }
    command.env_clear().stdin(Stdio::from(its.try_clone()?)).stdout(Stdio::from(its));
    let process = command.spawn()?;
    Ok((process, UnixStream::from_std(own)?))
}

/// The process's side: enters its place, and tries what it is told until it is told no more.
pub fn converse(
    entrance: &Entrance,
    target: &Target,
    hear: impl BufRead,
    mut say: impl Write,
) -> io::Result<()> {
    match entrance.enter() {
        Ok(()) => writeln!(say, "{READY}")?,
        Err(error) => return writeln!(say, "{FAILED}{}", crate::agent::chain(&error)),
    }
    for line in hear.lines() {
        let line = line?;
        let outcome = match Vector::named(&line) {
            Some(vector) => vector.attempt(target),
            None => Outcome::Impossible(format!("no vector is called {line}")),
        };
        match outcome {
            Outcome::Refused => writeln!(say, "{REFUSED}")?,
            Outcome::Passed => writeln!(say, "{PASSED}")?,
            Outcome::Impossible(why) => writeln!(say, "{IMPOSSIBLE}{why}")?,
        }
    }
    Ok(())
}
