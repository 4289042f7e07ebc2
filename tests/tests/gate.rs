//! The gate, from inside its pods: what it answers, and to whom.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_tests::attack::gate::Said;
use guard_tests::simulator::{IMDS_V4, IMDS_V6};
use guard_tests::{Agent, Driver, Node, Outcome, Place, PodSpec, Vector, wait_until};
use serde_json::Value;

const READY: Duration = Duration::from_secs(20);

const POLICY: &str = "version: 1
enforce: all
help: https://wiki.example/aws
default: { imds: deny }
rules:
  - name: metadata-only
    match: { serviceAccounts: [shop/web] }
    imds: { filter: { allow: [region] } }
  - name: v2-only
    match: { serviceAccounts: [shop/strict] }
    imds: { filter: { allow: [all], tokens: required } }
  - name: trusted
    match: { serviceAccounts: [shop/api] }
    imds: allow
";

const ROLE: &str = "meta-data/iam/security-credentials/";
const REGION: &str = "meta-data/placement/region";

/// An answer as curl shows it, its head included.
struct Answer {
    status: u16,
    text: String,
}

impl Answer {
    /// The header's lines, in order.
    fn headers(&self) -> Vec<String> {
        let head = self.text.split("\r\n\r\n").next().unwrap_or_default();
        let mut lines: Vec<_> = head.lines().map(str::to_lowercase).collect();
        lines.sort();
        lines
    }
}

fn curl(place: &Place, arguments: &[&str]) -> Result<Answer> {
    let mut curl = Command::new("curl");
    curl.args(["--disable", "--silent", "--show-error", "--noproxy", "*", "--max-time", "8", "--include"])
        .args(arguments);
    let output = place.run(curl)?;
    ensure!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Answer { status: status.with_context(|| format!("no answer: {text}"))?, text })
}

fn url(path: &str) -> String {
    format!("http://{IMDS_V4}/latest/{path}")
}

fn get(place: &Place, path: &str) -> Result<Answer> {
    curl(place, &[&url(path)])
}

#[test]
fn each_verdict_is_answered_on_every_network_over_both_families() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let spec = |account: &str| PodSpec::new("shop", account);
    let pods = [
        (node.pod(spec("cart"))?, node.pod(spec("web"))?, node.pod(spec("api"))?),
        (
            node.pod(spec("cart").on_host_network())?,
            node.pod(spec("web").on_host_network())?,
            node.pod(spec("api").on_host_network())?,
        ),
    ];
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    node.simulator().forget();
    for (denied, filtered, allowed) in &pods {
        for host in [IMDS_V4.to_string(), format!("[{IMDS_V6}]"), "[::ffff:169.254.169.254]".to_owned()] {
            let url = |path: &str| format!("http://{host}/latest/{path}");
            let answer = curl(denied, &[&url(REGION)])?;
            ensure!(answer.status == 403, "{}", answer.text);
            for words in [
                "content-type: text/plain",
                "x-imds-guard-rule: default",
                "shop/cart may not use IMDS",
                "https://wiki.example/aws",
                "(denial ",
            ] {
                ensure!(answer.text.contains(words), "`{words}` is missing in: {}", answer.text);
            }
            let answer = curl(filtered, &[&url(REGION)])?;
            ensure!(answer.status == 200 && answer.text.ends_with("eu-west-1"), "{}", answer.text);
            let answer = curl(filtered, &[&url(ROLE)])?;
            ensure!(answer.status == 403 && answer.text.contains("`credentials`"), "{}", answer.text);
            let answer = curl(allowed, &[&url(ROLE)])?;
            ensure!(answer.status == 200 && answer.text.ends_with("node-role"), "{}", answer.text);
        }
    }
    // What IMDS saw is what was allowed, and nothing else.
    let seen = node.simulator().seen();
    ensure!(seen.requests.len() == 12, "IMDS saw {:?}", seen.requests);
    ensure!(seen.requests.iter().all(|request| !request.headers.contains(&"x-forwarded-for".to_owned())));
    let metrics = agent.metrics()?;
    let requests = |labels: &[(&str, &str)]| metrics.count("imds_guard_requests_total", labels);
    for (account, class, version, verdict, code) in [
        ("cart", "region", "unknown", "deny", "403"),
        ("web", "region", "v1", "filter", "200"),
        ("web", "credentials", "unknown", "deny", "403"),
        ("api", "credentials", "v1", "allow", "200"),
    ] {
        let labels = [
            ("namespace", "shop"),
            ("service_account", account),
            ("path_class", class),
            ("imds_version", version),
            ("verdict", verdict),
            ("code", code),
        ];
        ensure!(requests(&labels) == 6, "{labels:?}: {}", requests(&labels));
    }
    ensure!(requests(&[]) == 24, "{} requests are counted", requests(&[]));
    agent.stop()
}

#[test]
fn an_answer_comes_through_as_imds_gave_it() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let allowed = node.pod(PodSpec::new("shop", "api"))?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    let token_url = url("api/token");
    let lifetime = "X-aws-ec2-metadata-token-ttl-seconds: 60";
    let (role, nothing) = (url(ROLE), url("meta-data/nothing"));
    let requests: [&[&str]; 4] =
        [&["-X", "PUT", "-H", lifetime, &token_url], &["-X", "PUT", &token_url], &[&role], &[&nothing]];
    for request in requests {
        let (direct, through) = (curl(node.outside(), request)?, curl(&allowed, request)?);
        // A token and the second of the day differ; everything else is the same.
        let without_date = |answer: &Answer| {
            answer.headers().into_iter().filter(|line| !line.starts_with("date:")).collect::<Vec<_>>()
        };
        ensure!(without_date(&direct) == without_date(&through), "{} then {}", direct.text, through.text);
    }
    agent.stop()
}

#[test]
fn a_token_is_required_where_the_policy_says_so() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs)?;
    let strict = node.pod(PodSpec::new("shop", "strict"))?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    let answer = get(&strict, ROLE)?;
    ensure!(answer.status == 401, "{}", answer.text);
    let put =
        curl(&strict, &["-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60", &url("api/token")])?;
    ensure!(put.status == 200, "{}", put.text);
    let token = put.text.rsplit("\r\n").next().unwrap_or_default();
    let header = format!("X-aws-ec2-metadata-token: {token}");
    let answer = curl(&strict, &["-H", &header, &url(ROLE)])?;
    ensure!(answer.status == 200, "{}", answer.text);
    // A header that a proxy should drop takes the token along, and what is left would be a request of version 1.
    let answer = curl(&strict, &["-H", &header, "-H", "Connection: X-aws-ec2-metadata-token", &url(ROLE)])?;
    ensure!(answer.status == 400, "{}", answer.text);
    agent.stop()
}

#[test]
fn each_request_of_a_connection_is_decided_by_the_policy_of_its_moment() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("shop", "web"))?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    let mut client = pod.begin_attack_on_gate(&["converse", &format!("{IMDS_V4}:80")])?;
    let mut ask = |path: &str| -> Result<Said> {
        client.write_line(&format!("/latest/{path}"))?;
        serde_json::from_str(&client.read_line()?).context("read what was said")
    };
    let said = ask(ROLE)?;
    ensure!(said.peer.to_string() == "169.254.169.254:80", "the socket shows {}", said.peer);
    ensure!(said.status == 403 && ask(REGION)?.status == 200 && ask(ROLE)?.status == 403);
    let mut becomes = |policy: &str, path: &str, status: u16| -> Result<()> {
        agent.set_policy(policy)?;
        wait_until(READY, &format!("{status} for {path}"), || {
            ask(path).is_ok_and(|said| said.status == status)
        })
    };
    becomes(&POLICY.replace("{ filter: { allow: [region] } }", "allow"), ROLE, 200)?;
    becomes(&POLICY.replace("{ filter: { allow: [region] } }", "deny"), REGION, 403)?;
    // Audited, the pod goes straight, and its gate ends the conversation.
    agent.set_policy(&POLICY.replace("enforce: all", "enforce: none"))?;
    wait_until(READY, "the end of the conversation", || ask(ROLE).is_err())?;
    ensure!(get(&pod, ROLE)?.status == 200);
    agent.stop()
}

#[test]
fn a_sandbox_that_is_made_again_gets_a_gate_of_its_own() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let mut pod = node.pod(PodSpec::new("shop", "web"))?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    ensure!(get(&pod, REGION)?.status == 200);
    let before = Place::clone(&pod);
    node.restart_sandbox(&mut pod)?;
    wait_until(READY, "the new sandbox's gate", || {
        get(&pod, REGION).is_ok_and(|answer| answer.status == 200)
    })?;
    ensure!(get(&pod, ROLE)?.status == 403);
    // What is left of the old one has the same cgroup, another network, and no gate.
    let outcome = before.attack(Vector::Tcp)?.outcome;
    ensure!(outcome == Outcome::Errno("ECONNREFUSED".to_owned()), "{outcome:?}");
    agent.stop()
}

#[test]
fn a_sandbox_without_a_process_is_found_by_the_runtimes_mount() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let mounts = tempfile::tempdir()?;
    let crio = node.pod(PodSpec { has_pause: false, ..PodSpec::new("shop", "web") })?;
    let folder = mounts.path().to_string_lossy().into_owned();
    let mut agent = Agent::start_with(&node, POLICY, &["--pod-networks", &folder])?;
    agent.wait_ready(READY)?;
    let mut sleep = Command::new("sleep");
    sleep.arg("infinity");
    let _container = crio.spawn(sleep)?;
    // Before the mount is there nobody can tell whose the network is.
    let outcome = crio.attack(Vector::Tcp)?.outcome;
    ensure!(outcome == Outcome::Errno("ECONNREFUSED".to_owned()), "{outcome:?}");
    let _mount = Mount::bind(&crio.namespace().path(), &mounts.path().join("a-sandbox"))?;
    wait_until(READY, "the gate", || get(&crio, REGION).is_ok_and(|answer| answer.status == 200))?;
    ensure!(get(&crio, ROLE)?.status == 403);
    agent.stop()
}

/// A bind mount of one file. Dropping it takes it away.
struct Mount(std::path::PathBuf);

impl Mount {
    fn bind(what: &str, path: &std::path::Path) -> Result<Self> {
        use nix::mount::{MsFlags, mount};
        fs::write(path, "")?;
        mount(Some(what), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("mount a namespace")?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = nix::mount::umount(&self.0) {
            eprintln!("left behind: {}: {error}", self.0.display());
        }
    }
}

#[test]
fn who_asks_in_a_loop_starves_nobody() -> Result<()> {
    const BUDGET: u64 = 40;
    let node = Node::new(Driver::Cgroupfs)?;
    let loopers = (0..6).map(|_| node.pod(PodSpec::new("shop", "api"))).collect::<Result<Vec<_>>>()?;
    let victim = node.pod(PodSpec::new("shop", "api"))?;
    let mut agent = Agent::start_with(&node, POLICY, &["--imds-requests-per-second", &BUDGET.to_string()])?;
    agent.wait_ready(READY)?;
    let sieges = loopers.iter().map(|pod| pod.besiege(Vector::Tcp)).collect::<Result<Vec<_>>>()?;
    wait_until(READY, "the budget to be used up", || {
        node.simulator().seen().requests.len() as u64 > 2 * BUDGET + 10 * 6
    })?;
    node.simulator().forget();
    let started = Instant::now();
    // What an SDK asks to get credentials, and then the region.
    for path in [ROLE, &format!("{ROLE}node-role"), REGION] {
        let answer = get(&victim, path)?;
        ensure!(answer.status == 200, "the victim got {} after {:?}", answer.status, started.elapsed());
    }
    thread::sleep(Duration::from_secs(3).saturating_sub(started.elapsed()));
    let (seconds, seen) = (started.elapsed().as_secs() + 1, node.simulator().seen().requests.len() as u64);
    // What may come at once, what waits, and what each pod may always ask.
    let most = BUDGET * (seconds + 2) + 7 * (10 + seconds);
    ensure!(seen <= most, "IMDS got {seen} requests in {seconds} s, of at most {most}");
    for siege in sieges {
        siege.lift()?;
    }
    agent.stop()
}

#[test]
fn silent_clients_hold_up_nobody_else() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let silent = (0..3).map(|_| node.pod(PodSpec::new("shop", "cart"))).collect::<Result<Vec<_>>>()?;
    let other = node.pod(PodSpec::new("shop", "web"))?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    let mut held = Vec::new();
    for pod in &silent {
        let mut holder = pod.begin_attack_on_gate(&["hold", &format!("{IMDS_V4}:80"), "150"])?;
        ensure!(holder.read_line()? == "ready");
        held.push(holder);
    }
    ensure!(get(&other, REGION)?.status == 200);
    for holder in &mut held {
        holder.write_line("enough")?;
        let count: usize = holder.read_line()?.parse()?;
        ensure!(count > 64, "only {count} connections were held");
    }
    agent.stop()
}

#[test]
fn an_imds_that_is_away_is_said_to_be() -> Result<()> {
    let node = Node::without_imds(Driver::Cgroupfs)?;
    let pod = node.pod(PodSpec::new("shop", "api"))?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    let answer = get(&pod, ROLE)?;
    ensure!(answer.status == 502 && answer.text.contains("IMDS can't be reached"), "{}", answer.text);
    // Its neighbour's address is now nobody's: whatever is sent is lost.
    node.namespace().run(|| {
        let lose = [
            "neigh",
            "replace",
            "10.214.0.1",
            "lladdr",
            "02:00:00:00:00:ff",
            "dev",
            "uplink",
            "nud",
            "permanent",
        ];
        let status = Command::new("ip").args(lose).status()?;
        ensure!(status.success());
        Ok(())
    })?;
    let answer = get(&pod, ROLE)?;
    ensure!(answer.status == 504 && answer.text.contains("IMDS does not answer"), "{}", answer.text);
    agent.stop()
}

#[test]
fn a_denial_bears_the_same_id_in_its_answer_and_in_the_log() -> Result<()> {
    let node = Node::new(Driver::Systemd)?;
    let pod = node.pod(PodSpec::new("shop", "cart"))?;
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    let answer = get(&pod, ROLE)?;
    let id = answer.text.rsplit("(denial ").next().and_then(|end| end.get(..8)).context("an id")?.to_owned();
    let is_request = |event: &Value| event["event.name"] == "imds_guard.request";
    let event = guard_tests::wait_for(READY, "the request in the log", || {
        agent.events().ok()?.into_iter().find(is_request)
    })?;
    for (field, expected) in [
        ("k8s.namespace.name", "shop"),
        ("imds_guard.service_account", "cart"),
        ("imds_guard.path_class", "credentials"),
        ("http.request.method", "GET"),
        ("imds_guard.rule", "default"),
        ("imds_guard.verdict", "deny"),
        ("imds_guard.denial_id", &id),
    ] {
        ensure!(event[field] == expected, "{field} is {} in {event}, not {expected}", event[field]);
    }
    ensure!(event["http.response.status_code"] == 403, "{event}");
    agent.stop()
}

#[test]
fn nothing_secret_stays_behind_at_a_gate() -> Result<()> {
    const PLANTED: [&str; 5] =
        ["planted-header", "planted-query", "planted-body", "simulated-node-secret", "simulated-node-token"];
    let node = Node::new(Driver::Cgroupfs)?;
    let (allowed, denied) = (node.pod(PodSpec::new("shop", "api"))?, node.pod(PodSpec::new("shop", "cart"))?);
    let mut agent = Agent::start(&node, POLICY)?;
    agent.wait_ready(READY)?;
    let put =
        curl(&allowed, &["-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60", &url("api/token")])?;
    let token = put.text.rsplit("\r\n").next().unwrap_or_default().to_owned();
    ensure!(token.len() > 20, "{}", put.text);
    let (header, cookie) = (format!("X-aws-ec2-metadata-token: {token}"), "Cookie: planted-header");
    let credentials = url(&format!("{ROLE}node-role?planted-query"));
    let answer = curl(&allowed, &["-H", &header, "-H", cookie, &credentials])?;
    ensure!(answer.text.contains("simulated-node-secret"), "{}", answer.text);
    ensure!(curl(&denied, &["-H", &header, "-H", cookie, &credentials])?.status == 403);
    ensure!(curl(&allowed, &["-d", "planted-body", "-X", "PUT", &url("api/token")])?.status == 400);
    wait_until(READY, "all requests to be logged", || {
        agent.events().is_ok_and(|events| {
            events.iter().filter(|event| event["event.name"] == "imds_guard.request").count() == 4
        })
    })?;
    let told = agent.everything_told()?;
    for secret in PLANTED.into_iter().chain([token.as_str()]) {
        ensure!(told.iter().all(|told| !told.contains(secret)), "`{secret}` is told");
    }
    let issued = [("service_account", "api"), ("imds_version", "v2"), ("role", "node-role")];
    ensure!(agent.metrics()?.count("imds_guard_credentials_issued_total", &issued) == 1);
    ensure!(agent.metrics()?.count("imds_guard_credentials_issued_total", &[]) == 1);
    agent.stop()
}
