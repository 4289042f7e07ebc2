use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::case::{Case, Part, Then};
use super::report::HttpReport;

/// How long a connection is left open in which nothing happens.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most that a case may take: some send slowly.
const LONGEST: Duration = Duration::from_secs(10);
/// Connections at a time: a gate gives a pod no more than 64.
const AT_ONCE: usize = 48;
/// Nobody sends so much back to such requests.
const MOST: usize = 4 * 1024 * 1024;

/// Performs all `cases` against one address, many at a time, telling `each` report as it comes.
pub fn besiege(cases: Vec<Case>, address: SocketAddr, mut each: impl FnMut(HttpReport)) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(async {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let mut running = JoinSet::new();
        for case in cases {
            let room = Arc::clone(&room);
            running.spawn(async move {
                let _place = room.acquire_owned().await.expect("nobody closes it");
                perform(&case, address).await
            });
        }
        while let Some(report) = running.join_next().await {
            each(report.context("a case panicked")?);
        }
        Ok(())
    })
}

async fn perform(case: &Case, address: SocketAddr) -> HttpReport {
    let stream = match timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return HttpReport::new(case, None, &[], Some(error.to_string())),
        Err(_) => return HttpReport::new(case, None, &[], Some("no connection in time".to_owned())),
    };
    let local = stream.local_addr().ok();
    // Every part is a segment of its own.
    let delayed = stream.set_nodelay(true).err();
    let (reader, writer) = stream.into_split();
    let (tell, told) = watch::channel(0);
    let mut received = Vec::new();
    // A peer that closes early fails the sending; what came back until then counts.
    let exchange =
        async { tokio::join!(send(writer, &case.parts, told), receive(reader, &mut received, &tell)) };
    let error = match timeout(LONGEST, exchange).await {
        Err(_) => Some("took too long".to_owned()),
        Ok((sent, read)) => sent.err().or(read.err()).or(delayed).map(|error| error.to_string()),
    };
    HttpReport::new(case, local, &received, error)
}

/// Sends the parts, and gives the half back that keeps the connection open.
async fn send(
    mut writer: OwnedWriteHalf,
    parts: &[Part],
    mut received: watch::Receiver<usize>,
) -> io::Result<OwnedWriteHalf> {
    for Part { bytes, then } in parts {
        let before = *received.borrow_and_update();
        timeout(PATIENCE, writer.write_all(bytes)).await??;
        match then {
            Then::GoOn => {}
            Then::Pause(pause) => tokio::time::sleep(*pause).await,
            // Whoever is not answered goes on all the same.
            Then::AwaitAnswer => {
                let _ = timeout(PATIENCE, received.wait_for(|count| *count > before)).await;
            }
        }
    }
    Ok(writer)
}

/// Reads until the peer ends the connection or has been silent for as long as our patience lasts.
async fn receive(
    mut reader: OwnedReadHalf,
    received: &mut Vec<u8>,
    tell: &watch::Sender<usize>,
) -> io::Result<()> {
    while received.len() < MOST {
        match timeout(PATIENCE, reader.read_buf(received)).await {
            Err(_) | Ok(Ok(0)) => break,
            Ok(read) => tell.send_replace(read.map(|_| received.len())?),
        };
    }
    Ok(())
}
