use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::folder::Folder;

/// What the node can be asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    StopApiServer,
    StartApiServer,
}

impl Ask {
    const ALL: [Self; 2] = [Self::StopApiServer, Self::StartApiServer];

    const fn word(self) -> &'static str {
        match self {
            Self::StopApiServer => "stop-api-server",
            Self::StartApiServer => "start-api-server",
        }
    }
}

/// What has come in.
pub(super) enum Request {
    Stop(Done),
    Start(Done),
}

/// Where the outcome is told.
pub(super) struct Done(UnixStream);

impl Done {
    pub(super) fn tell(mut self, outcome: Result<()>) {
        let text = outcome.map_or_else(|error| format!("{error:#}"), |()| "done".to_owned());
        // Whoever asked may be gone.
        let _ = self.0.write_all(text.as_bytes());
    }
}

/// Takes requests from the folder's socket, one at a time.
pub(super) fn listen(folder: &Folder) -> Result<Receiver<Request>> {
    let path = folder.control();
    let listener = UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that says nothing sensible, or is gone already, gets no answer.
            let _ = take(stream, &tell);
        }
    });
    Ok(told)
}

fn take(stream: UnixStream, tell: &Sender<Request>) -> Result<()> {
    let mut word = String::new();
    BufReader::new(&stream).read_line(&mut word)?;
    let request = match Ask::ALL.into_iter().find(|ask| ask.word() == word.trim_end()) {
        Some(Ask::StopApiServer) => Request::Stop(Done(stream)),
        Some(Ask::StartApiServer) => Request::Start(Done(stream)),
        None => bail!("unknown request {word:?}"),
    };
    tell.send(request).context("the node is ending")
}

/// Asks the running node for something and waits until it is done.
pub(crate) fn ask(folder: &Folder, what: Ask) -> Result<()> {
    let path = folder.control();
    let mut stream = UnixStream::connect(&path).with_context(|| format!("connect to {}", path.display()))?;
    writeln!(stream, "{}", what.word()).context("ask the node")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the node's answer")?;
    if answer != "done" {
        bail!("{}: {answer}", what.word());
    }
    Ok(())
}
