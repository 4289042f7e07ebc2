use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use http_body_util::BodyExt;
use serde_json::Value;

use super::{block_on, style};
use crate::{client, request::RequestLine, text::escape};

/// Show attempts as they happen.
///
/// Events are samples: each pod has a budget of 20 a second. The counts in /metrics are exact.
#[derive(Args, Debug)]
pub(super) struct Watch {
    /// The running agent's socket
    #[arg(long, value_name = "PATH", default_value = client::SOCKET)]
    socket: PathBuf,

    /// Print each event as JSON, as the event log has it
    #[arg(long)]
    json: bool,
}

impl Watch {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        block_on(self.follow())?;
        Ok(ExitCode::SUCCESS)
    }

    async fn follow(self) -> anyhow::Result<()> {
        let mut body = client::get(&self.socket, "/events").await?;
        let colour = io::stdout().is_terminal();
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            // An agent that ends breaks the stream off.
            let Ok(frame) = frame else { break };
            let Ok(data) = frame.into_data() else { continue };
            pending.extend_from_slice(&data);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                match self.show(&line, colour) {
                    // The reader of a pipe has gone: that is an end like any other.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    shown => shown?,
                }
            }
        }
        eprintln!("the agent has ended");
        Ok(())
    }

    fn show(&self, line: &[u8], colour: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            out.write_all(line)?;
        } else if let Ok(event) = serde_json::from_slice::<Value>(line) {
            writeln!(out, "{}", readable(&event, colour))?;
        }
        out.flush()
    }
}

/// One event in one line: when, what became of it, who, what, by which rule.
fn readable(event: &Value, colour: bool) -> String {
    if let Some(missed) = event.get("missed") {
        return format!("… {missed} events missed: this terminal is too slow");
    }
    let field = |name: &str| match &event[name] {
        Value::String(text) => escape_once(name, text),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let outcome = style::outcome(&field("imds_guard.verdict"), &field("imds_guard.mode"));
    let who = match field("k8s.namespace.name") {
        namespace if namespace.is_empty() => "an unidentified pod".to_owned(),
        namespace => {
            format!("{namespace}/{} (pod {})", field("imds_guard.service_account"), field("k8s.pod.name"))
        }
    };
    let process = match field("process.executable.name") {
        name if name.is_empty() => String::new(),
        name => format!(" {name}[{}]", field("process.pid")),
    };
    let creator = match field("imds_guard.socket_creator") {
        creator if creator.is_empty() => String::new(),
        creator => format!(", on a socket of {creator}"),
    };
    // Of `2026-01-31T12:34:56.123456789Z` the time of the day, to the millisecond.
    let time: String = field("time").chars().skip(11).take(12).collect();
    let outcome = if colour { coloured(outcome) } else { format!("{outcome:15}") };
    if event["event.name"] == RequestLine::EVENT {
        return format!(
            "{time}  {outcome}  {who} → imds {} {} {} (IMDS {}, rule {})",
            field("http.request.method"),
            field("imds_guard.path_class"),
            field("http.response.status_code"),
            field("imds_guard.imds_version"),
            field("imds_guard.rule"),
        );
    }
    format!(
        "{time}  {outcome}  {who}{process} → {} {} ({}, rule {}{creator})",
        field("imds_guard.endpoint"),
        field("server.address"),
        field("imds_guard.hook"),
        field("imds_guard.rule"),
    )
}

/// The agent has escaped the process's name already; everything else is escaped here.
fn escape_once(field: &str, text: &str) -> String {
    if field == "process.executable.name" { text.to_owned() } else { escape(text.as_bytes()) }
}

fn coloured(outcome: &str) -> String {
    let colour = match outcome {
        "allowed" => 32,
        "denied" => 31,
        _ => 33,
    };
    format!("\x1b[{colour}m{outcome:15}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_one_readable_line() {
        let event = json!({
            "time": "2026-01-31T12:34:56.123456789Z",
            "k8s.namespace.name": "shop", "imds_guard.service_account": "cart", "k8s.pod.name": "cart-0",
            "process.executable.name": "curl", "process.pid": 42, "server.address": "169.254.169.254",
            "imds_guard.endpoint": "imds", "imds_guard.verdict": "deny", "imds_guard.mode": "audit",
            "imds_guard.rule": "default", "imds_guard.hook": "connect4",
        });
        assert_eq!(
            readable(&event, false),
            "12:34:56.123  would be denied  shop/cart (pod cart-0) curl[42] → imds 169.254.169.254 \
             (connect4, rule default)"
        );
    }

    #[test]
    fn nothing_in_an_event_steers_the_terminal() {
        let event = json!({ "k8s.namespace.name": "a\u{1b}[2J", "imds_guard.verdict": "deny" });
        assert!(!readable(&event, false).contains('\u{1b}'));
    }
}
