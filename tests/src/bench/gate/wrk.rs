use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::pin;
use crate::place::Place;
use crate::process::{piped, successful};

const CONNECTIONS: u32 = 32;
const SECONDS: u64 = 5;
/// How long it may take beyond that.
const SLACK: Duration = Duration::from_secs(20);

/// What a server did under load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    pub(super) requests_per_second: f64,
    /// In milliseconds, as all latencies.
    pub(super) p50: f64,
    pub(super) p99: f64,
}

impl Load {
    /// Asks for `url` from a place, on one CPU. Every answer must be good, or, if `refused`, none.
    pub(super) fn measure(place: &Place, cpu: usize, url: &str, refused: bool) -> Result<Self> {
        let mut command = Command::new("wrk");
        command.args(["--threads=1", "--latency"]);
        command.arg(format!("--connections={CONNECTIONS}")).arg(format!("--duration={SECONDS}s")).arg(url);
        let client =
            pin::on(cpu, || place.spawn(piped(command))).context("`cargo xtask bench gate` installs wrk")?;
        let printed = successful(client.output(Duration::from_secs(SECONDS) + SLACK)?)?;
        parse(&printed, refused).with_context(|| format!("wrk {url} printed\n{printed}"))
    }
}

fn parse(printed: &str, refused: bool) -> Result<Load> {
    let after = |label: &str| printed.lines().find_map(|line| line.trim().strip_prefix(label)).map(str::trim);
    let number = |label: &str| after(label).and_then(|text| text.parse::<f64>().ok());
    // An answer that took too long is in the latencies: a machine with other work is no failure.
    let errors = after("Socket errors:").unwrap_or("connect 0, read 0, write 0");
    ensure!(errors.starts_with("connect 0, read 0, write 0"), "connections failed");
    let total =
        printed.lines().find_map(|line| line.trim().split_once(" requests in")?.0.parse::<f64>().ok());
    let total = total.context("no number of requests")?;
    ensure!(total > 0.0, "no request was answered");
    let bad = number("Non-2xx or 3xx responses:").unwrap_or(0.0);
    let expected = if refused { total } else { 0.0 };
    ensure!((bad - expected).abs() < 0.5, "{bad} of {total} requests were refused");
    let latency = |label| after(label).and_then(milliseconds);
    Ok(Load {
        requests_per_second: number("Requests/sec:").context("no rate")?,
        p50: latency("50%").context("no median")?,
        p99: latency("99%").context("no 99th percentile")?,
    })
}

/// `186.00us`, `1.20ms`, `2.00s` or `1.00m`.
fn milliseconds(text: &str) -> Option<f64> {
    let unit = text.find(|character: char| character.is_ascii_alphabetic())?;
    let factor = match &text[unit..] {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        _ => return None,
    };
    Some(text[..unit].parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
Running 5s test @ http://169.254.169.254/latest
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   221.46us  234.38us   6.13ms   95.86%
    Req/Sec   151.25k     6.29k  159.12k    70.59%
  Latency Distribution
     50%  186.00us
     75%  221.00us
     90%  301.00us
     99%    1.20ms
  767412 requests in 5.10s, 134.66MB read
";

    #[test]
    fn what_wrk_prints_is_read() {
        let good = format!("{PRINTED}Requests/sec: 150471.96\nTransfer/sec:     26.40MB\n");
        let load = parse(&good, false).expect("a good run");
        assert_eq!(load, Load { requests_per_second: 150_471.96, p50: 0.186, p99: 1.2 });
        assert!(parse(&good, true).is_err(), "none was refused");
        let refused = format!("{PRINTED}  Non-2xx or 3xx responses: 767412\nRequests/sec: 150471.96\n");
        assert!(parse(&refused, true).is_ok() && parse(&refused, false).is_err());
        let failed =
            format!("{PRINTED}  Socket errors: connect 0, read 3, write 0, timeout 0\nRequests/sec: 1\n");
        assert!(parse(&failed, false).is_err());
        let late = good.clone() + "  Socket errors: connect 0, read 0, write 0, timeout 7\n";
        assert_eq!(parse(&late, false).ok(), Some(load));
    }
}
