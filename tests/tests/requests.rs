//! What is told of requests that go straight to IMDS: each that is answered counts once, by what it asks for, and
//! nothing of it is told but that.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::agent::Metrics;
use guard_tests::process::successful;
use guard_tests::simulator::{NODE_ROLE, Versions};
use guard_tests::{Agent, Driver, Node, Place, PodSpec, Vector, wait_until};

const AUDIT: &str = "\
version: 1
enforce: none
default: { imds: deny }
";

const ENFORCE: &str = "\
version: 1
enforce: all
default: { imds: deny }
rules:
  - name: node-agents
    match: { serviceAccounts: [kube-system/agent] }
    imds: allow
";

const READY: Duration = Duration::from_secs(20);

/// How a client in bash speaks to IMDS: over descriptor 3, one line of the answer at a time.
const V4: &str = "exec 3<>/dev/tcp/169.254.169.254/80\n";
const V6: &str = "exec 3<>/dev/tcp/fd00:ec2::254/80\n";
const MAPPED: &str = "exec 3<>/dev/tcp/::ffff:169.254.169.254/80\n";
const ANSWER: &str = "read -r -t 10 status <&3\n";
const MAC: &str = "printf 'GET /latest/meta-data/mac HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n' | send\n";

/// `path_class`, `imds_version`, `code`, and how many.
type Expected<'a> = &'a [(&'a str, &'a str, &'a str, u64)];

#[test]
fn every_answered_request_counts_once_by_what_it_asked_for() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("shop", "cart"))?;
    // Connected before there is a guard.
    let mut connected = bash(&format!("{V4}echo connected\nread -r go\n{MAC}{ANSWER}"));
    connected.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut connected = pod.spawn(connected)?;
    connected.read_line()?;
    let mut agent = Agent::start(&node, AUDIT)?;
    agent.wait_ready(READY)?;

    let role = format!("/latest/meta-data/iam/security-credentials/{NODE_ROLE}");
    let credentials = curl(&pod, &role, &[])?;
    ensure!(credentials.contains("SecretAccessKey"), "{credentials}");
    let token = curl(&pod, "/latest/api/token", &["-X", "PUT", "-H", TTL])?;
    let token = format!("x-aws-ec2-METADATA-token: {token}");
    curl(&pod, &role, &["-H", &token])?;
    curl(&pod, "/latest/meta-data/nothing", &[])?;
    node.simulator().serve_versions(Versions::V2Only);
    curl(&pod, "/latest/meta-data/mac", &[])?;
    node.simulator().serve_versions(Versions::V1AndV2);
    let of_curl = [
        ("credentials", "v1", "200", 1),
        ("token", "v2", "200", 1),
        ("credentials", "v2", "200", 1),
        ("other", "unknown", "404", 1),
        ("network", "unknown", "401", 1),
    ];
    counted(&agent, "cart", &of_curl)?;
    for version in ["v1", "v2"] {
        let labels = [("service_account", "cart"), ("imds_version", version), ("role", NODE_ROLE)];
        ensure!(agent.metrics()?.count("imds_guard_credentials_issued_total", &labels) == 1, "{version}");
    }

    let cases: [(&str, String, Expected<'_>); 7] = [
        (
            "kept alive",
            format!("{V4}{MAC}{ANSWER}{MAC}{ANSWER}{MAC}{ANSWER}"),
            &[("network", "v1", "200", 3)],
        ),
        ("IPv6", format!("{V6}{MAC}{ANSWER}"), &[("network", "v1", "200", 1)]),
        ("mapped", format!("{MAPPED}{MAC}{ANSWER}"), &[("network", "v1", "200", 1)]),
        (
            "split",
            format!(
                "{V4}printf 'GET /latest/meta-data/mac HTTP/1.1\\r\\n' | send\nsleep 0.3\n\
                 printf 'Host: h\\r\\n\\r\\n' | send\n{ANSWER}"
            ),
            &[("unparsed", "unknown", "200", 1)],
        ),
        (
            "pipelined",
            format!(
                "{V4}r='GET /latest/meta-data/mac HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n'\nprintf \"$r$r\" | send\n{ANSWER}"
            ),
            &[("unparsed", "unknown", "200", 1)],
        ),
        (
            "longer than the budget",
            format!(
                "{V4}printf 'GET /latest/meta-data/mac HTTP/1.1\\r\\nHost: h\\r\\nA: %01000d\\r\\n\\r\\n' 0 | send\n{ANSWER}"
            ),
            &[("unparsed", "unknown", "200", 1)],
        ),
        (
            "nearly as long as the budget",
            format!(
                "{V4}printf 'GET /latest/meta-data/mac HTTP/1.1\\r\\nHost: h\\r\\nA: %0900d\\r\\n\\r\\n' 0 | send\n{ANSWER}"
            ),
            &[("network", "v1", "200", 1)],
        ),
    ];
    for (case, script, expected) in cases {
        let pod = node.pod(PodSpec::new("shop", &case.replace(' ', "-")))?;
        agent.set_pods(&node)?;
        wait_named(&agent, &case.replace(' ', "-"))?;
        successful(pod.run(bash(&script))?).context(case)?;
        counted(&agent, &case.replace(' ', "-"), expected).context(case)?;
    }

    connected.write_line("go")?;
    ensure!(connected.wait(READY)?.success());
    counted(&agent, "cart", &[&of_curl[..], &[("network", "v1", "200", 1)]].concat())?;
    agent.stop()
}

#[test]
fn enforced_only_what_is_allowed_is_told_of() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let allowed = node.pod(PodSpec::new("kube-system", "agent").on_host_network())?;
    let denied = node.pod(PodSpec::new("shop", "cart").on_host_network())?;
    let staged = denied.stage(Vector::all().iter().copied().find(|it| it.pauses()).context("one pauses")?)?;
    let mut agent = Agent::start(&node, ENFORCE)?;
    agent.wait_ready(READY)?;
    let report = staged.proceed()?;
    ensure!(!report.outcome.got_bytes(), "{report:?}");
    ensure!(!denied.attack(Vector::Tcp)?.outcome.got_bytes());
    curl(&allowed, "/latest/meta-data/mac", &[])?;
    counted(&agent, "agent", &[("network", "v1", "200", 1)])?;
    let labels = [("service_account", "agent"), ("verdict", "allow")];
    let metrics = agent.metrics()?;
    // The gate answered the denied pod, and the connection from before the guard got nowhere.
    let denials = [("service_account", "cart"), ("verdict", "deny"), ("code", "403")];
    ensure!(metrics.count(REQUESTS, &labels) == 1 && metrics.count(REQUESTS, &denials) == 1, "{metrics:?}");
    ensure!(metrics.count(REQUESTS, &[]) == 2, "{metrics:?}");
    agent.stop()
}

#[test]
fn nothing_is_told_of_a_request_but_its_class() -> Result<()> {
    const SECRETS: [&str; 5] =
        ["planted-header", "planted-body", "planted-query", "simulated-node-secret", "simulated-node-token"];
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("shop", "cart"))?;
    let mut agent = Agent::start(&node, AUDIT)?;
    agent.wait_ready(READY)?;
    let token = curl(&pod, "/latest/api/token", &["-X", "PUT", "-H", TTL])?;
    let header = format!("X-aws-ec2-metadata-token: {token}");
    let role = format!("/latest/meta-data/iam/security-credentials/{NODE_ROLE}?planted-query");
    curl(&pod, &role, &["-H", &header, "-H", "Authorization: planted-header"])?;
    curl(&pod, role.trim_end_matches("?planted-query"), &["-H", &header, "-H", "Cookie: planted-header"])?;
    curl(&pod, "/latest/api/token", &["-X", "PUT", "-H", TTL, "-d", "planted-body"])?;
    // A body that looks like a request of its own.
    let script = format!(
        "{V4}printf 'GET /planted-body HTTP/1.1\\r\\nContent-Length: 13\\r\\n\\r\\n' | send\n{ANSWER}\
         printf 'planted-body\\n' | send\nsleep 0.2\n"
    );
    successful(pod.run(bash(&script))?)?;
    wait_until(READY, "all requests to be logged", || {
        agent.events().is_ok_and(|events| {
            events.iter().filter(|event| event["event.name"] == "imds_guard.request").count() >= 5
        })
    })?;
    let told = agent.everything_told()?;
    for secret in SECRETS.into_iter().chain([token.trim()]) {
        ensure!(!told.iter().any(|text| text.contains(secret)), "`{secret}` is told:\n{told:?}");
    }
    agent.stop()
}

const REQUESTS: &str = "imds_guard_requests_total";
const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds: 60";

fn curl(place: &Place, path: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "10", "--noproxy", "*"]).args(arguments);
    command.arg(format!("http://169.254.169.254{path}"));
    successful(place.run(command)?)
}

fn bash(script: &str) -> Command {
    let mut command = Command::new("bash");
    // In one write, and so in one packet, which bash itself makes of each line.
    let send = "send() { dd bs=64k iflag=fullblock status=none >&3; }\n";
    command.args(["-euc", &format!("{send}{script}")]);
    command
}

/// Waits until just so much was counted for a service account, and nothing else.
fn counted(agent: &Agent, account: &str, expected: Expected<'_>) -> Result<()> {
    let count = |metrics: &Metrics, (class, version, code, _): (&str, &str, &str, u64)| {
        let labels =
            [("service_account", account), ("path_class", class), ("imds_version", version), ("code", code)];
        metrics.count(REQUESTS, &labels)
    };
    let mut last = Metrics::default();
    wait_until(READY, "the requests to be counted", || {
        agent.metrics().is_ok_and(|metrics| {
            last = metrics;
            let all: u64 = expected.iter().map(|row| row.3).sum();
            last.count(REQUESTS, &[("service_account", account)]) == all
                && expected.iter().all(|row| count(&last, *row) == row.3)
        })
    })
    .with_context(|| format!("{account}: {:?}", last.select(REQUESTS, &[]).collect::<Vec<_>>()))
}

fn wait_named(agent: &Agent, account: &str) -> Result<()> {
    wait_until(READY, "the pod to be named", || {
        agent.status().is_ok_and(|status| {
            let pods = status["pods"].as_array().map_or(&[][..], Vec::as_slice);
            pods.iter().any(|pod| pod["service_account"] == account)
        })
    })
}
