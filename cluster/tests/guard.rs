//! The agent, installed from the manifests, guards what a kubelet runs, and says so where people look.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_cluster::guard::{self, Answer, Guard, ask_for, ask_imds, denial_id, is_tainted, unique_path};
use guard_cluster::{CLIENT_IMAGE, Cluster, Namespace, StaticPod, client_pod};
use guard_tests::process::successful;
use guard_tests::simulator::NODE_ROLE;

/// How soon a change of the ConfigMap must count: seconds, where the volume may take minutes.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn with_all_privileges_it_guards_every_kind_of_pod() -> Result<()> {
    guards("base")
}

#[test]
fn with_named_capabilities_it_guards_every_kind_of_pod() -> Result<()> {
    guards("overlays/capabilities")
}

/// The whole story, in one installation.
fn guards(profile: &str) -> Result<()> {
    let cluster = Cluster::attach()?;
    let shop = Namespace::create(&cluster, "shop")?;
    for account in ["cart", "scraper", "prober", "reader", "catalog", "orders", "web", "early"] {
        shop.add_account(account)?;
    }
    shop.add_pod("early", "serviceAccountName: early")?;
    let role = "eks.amazonaws.com/role-arn=arn:aws:iam::111122223333:role/catalog";
    cluster.kubectl(&["annotate", "serviceaccount", "catalog", role, "--namespace", shop.name()])?;
    cluster.kubectl(&["label", "namespace", shop.name(), "team=shop"])?;

    let guard = Guard::install(&cluster, profile, &policy("all"))?;
    cluster
        .wait_for("the start-up taint to be lifted", |cluster| Ok((!is_tainted(cluster)?).then_some(())))?;
    let scene = Scene::set(&cluster, &shop)?;

    verdicts_are_the_policys(&scene)?;
    everyone_is_named(&scene, &guard)?;
    events_tell_it_at_the_pod(&scene)?;
    a_denial_has_one_id_everywhere(&scene, &guard)?;
    a_filter_lets_through_what_it_allows(&scene, &guard)?;
    a_gate_serves_its_own_pod_alone(&scene, &guard)?;
    the_command_line_works_in_the_pod(&scene, &guard)?;
    a_change_of_the_config_map_counts_at_once(&scene, &guard)?;
    a_bad_config_map_changes_nothing(&scene, &guard)?;
    the_requests_are_few(&scene, &guard)
}

/// Everyone is enforced or audited; three are allowed, each found in another way, and one may read the region.
fn policy(enforce: &str) -> String {
    format!(
        "version: 1
help: https://wiki.example/aws
enforce: {enforce}
default: {{ imds: deny }}
rules:
  - {{ name: on-the-node, match: {{ serviceAccounts: [\"shop-*/prober\"] }}, imds: deny }}
  - {{ name: region-only, match: {{ serviceAccounts: [\"shop-*/reader\"] }}, imds: {{ filter: {{ allow: [region] }} }} }}
  - {{ name: by-account, match: {{ serviceAccounts: [\"shop-*/orders\"] }}, imds: allow }}
  - {{ name: by-label, match: {{ namespaceLabels: {{ team: shop }}, hostNetwork: true }}, imds: allow }}
  - {{ name: by-owner, match: {{ namespaceLabels: {{ team: shop }}, workloads: [deployment/web] }}, imds: allow }}
"
    )
}

/// Pods of seven service accounts, a static one, and one from before the guard.
struct Scene<'a> {
    cluster: &'a Cluster,
    shop: &'a Namespace<'a>,
    web: String,
    fixed: StaticPod,
}

impl<'a> Scene<'a> {
    fn set(cluster: &'a Cluster, shop: &'a Namespace<'a>) -> Result<Self> {
        // All are asked for first, so that they start beside each other.
        let namespace = shop.name();
        cluster.apply(&client_pod(namespace, "cart", "serviceAccountName: cart"))?;
        cluster.apply(&client_pod(namespace, "scraper", "serviceAccountName: scraper, hostNetwork: true"))?;
        cluster.apply(&client_pod(namespace, "prober", "serviceAccountName: prober, hostNetwork: true"))?;
        cluster.apply(&client_pod(namespace, "reader", "serviceAccountName: reader"))?;
        cluster.apply(&client_pod(namespace, "orders", "serviceAccountName: orders"))?;
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: catalog, namespace: {namespace}}}\n\
             spec: {{serviceAccountName: catalog, terminationGracePeriodSeconds: 1, containers: \
             [{{name: first, image: '{CLIENT_IMAGE}'}}, {{name: second, image: '{CLIENT_IMAGE}'}}]}}\n"
        ))?;
        cluster.apply(&format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: {namespace}}}\n\
             spec: {{selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, \
             spec: {{serviceAccountName: web, terminationGracePeriodSeconds: 1, \
             containers: [{{name: client, image: '{CLIENT_IMAGE}'}}]}}}}}}\n"
        ))?;
        let fixed = StaticPod::create(cluster, "fixed", &client_pod("default", "fixed", ""))?;
        for pod in ["cart", "scraper", "prober", "reader", "orders", "catalog"] {
            cluster.wait_until_ready(namespace, pod)?;
        }
        cluster.wait_until_ready("default", fixed.name())?;
        cluster.kubectl(&[
            "rollout",
            "status",
            "deployment/web",
            "--timeout=60s",
            "--namespace",
            namespace,
        ])?;
        let web = cluster.get(&["pods", "--namespace", namespace, "--selector=app=web"])?;
        let web =
            web["items"][0]["metadata"]["name"].as_str().context("the Deployment has a pod")?.to_owned();
        let scene = Self { cluster, shop, web, fixed };
        scene.restart_container("orders")?;
        Ok(scene)
    }

    /// Ends the first process of a pod's container, and waits until the kubelet has started another.
    fn restart_container(&self, pod: &str) -> Result<()> {
        let before = self.cluster.container(self.shop.name(), pod)?;
        self.cluster.exec(self.shop.name(), pod, &["kill", "1"])?;
        self.cluster.wait_for(&format!("the container of {pod} to be started again"), |cluster| {
            Ok((cluster.container(self.shop.name(), pod)? != before).then_some(()))
        })?;
        self.cluster.wait_until_ready(self.shop.name(), pod).map(drop)
    }

    /// Who asks, and whether the policy allows it. Nobody asks for the region here.
    fn cast(&self) -> [(&str, &str, Option<&str>, bool); 10] {
        let shop = self.shop.name();
        [
            (shop, "cart", None, false),
            (shop, "early", None, false),
            (shop, "catalog", Some("first"), false),
            (shop, "catalog", Some("second"), false),
            ("default", self.fixed.name(), None, false),
            (shop, "prober", None, false),
            (shop, "reader", None, false),
            (shop, "scraper", None, true),
            (shop, "orders", None, true),
            (shop, &self.web, None, true),
        ]
    }

    fn ask_all(&self, expected: impl Fn(bool) -> Answer) -> Result<()> {
        for (namespace, pod, container, allowed) in self.cast() {
            let answer = ask_imds(self.cluster, namespace, pod, container)?;
            let expected = expected(allowed);
            ensure!(answer == expected, "{namespace}/{pod}: {answer:?}, not {expected:?}");
        }
        Ok(())
    }
}

fn by_policy(allowed: bool) -> Answer {
    if allowed { Answer::Answered } else { Answer::Denied }
}

fn verdicts_are_the_policys(scene: &Scene<'_>) -> Result<()> {
    scene.ask_all(by_policy)
}

/// Each attempt counts under its own namespace and service account; who was there before is named.
fn everyone_is_named(scene: &Scene<'_>, guard: &Guard<'_>) -> Result<()> {
    let metrics = guard.metrics()?;
    let shop = scene.shop.name();
    for (namespace, account, verdict, attempts) in [
        (shop, "cart", "deny", 1),
        (shop, "early", "deny", 1),
        (shop, "catalog", "deny", 2),
        ("default", "default", "deny", 1),
        (shop, "prober", "deny", 1),
        (shop, "reader", "filter", 1),
        (shop, "scraper", "allow", 1),
        (shop, "orders", "allow", 1),
        (shop, "web", "allow", 1),
    ] {
        let labels = [
            ("namespace", namespace),
            ("service_account", account),
            ("endpoint", "imds"),
            ("verdict", verdict),
            ("mode", "enforce"),
        ];
        let counted = metrics.count("imds_guard_attempts_total", &labels);
        ensure!(counted == attempts, "{namespace}/{account}: {counted} attempts, not {attempts}");
    }
    let early = |account| {
        let labels = [("namespace", shop), ("service_account", account)];
        metrics.count("imds_guard_pods_started_unguarded", &labels)
    };
    ensure!((early("early"), early("cart")) == (1, 0), "one pod was there before the guard");
    let degraded = guard.status()?["degraded"].clone();
    ensure!(degraded.as_array().is_some_and(Vec::is_empty), "it lacks {degraded}");
    let unidentified = metrics.count("imds_guard_pods", &[("state", "unidentified")]);
    ensure!(unidentified == 0, "{unidentified} pods have no name");
    // Each has one but the agent's own, which needs none, and scraper: both go straight.
    let gates = |state| metrics.count("imds_guard_gates", &[("state", state)]);
    // Those of an earlier scene may still be on their way out.
    ensure!(
        gates("open") >= 8 && gates("missing") == 0,
        "{} open, {} missing",
        gates("open"),
        gates("missing")
    );
    Ok(())
}

/// `kubectl describe pod` tells of each denial, with what to do about it.
fn events_tell_it_at_the_pod(scene: &Scene<'_>) -> Result<()> {
    let shop = scene.shop.name();
    let own_role = "Give the service account a role of its own";
    for (namespace, pod, remedy) in [
        (shop, "cart", own_role),
        (shop, "early", own_role),
        (shop, "catalog", "role/catalog by IRSA"),
        ("default", scene.fixed.name(), own_role),
        (shop, "prober", own_role),
    ] {
        let described = describe(scene.cluster, namespace, pod, "IMDSDenied")?;
        for part in ["Warning", "to reach imds", "denied", remedy, "https://wiki.example/aws"] {
            ensure!(described.contains(part), "`{part}` is not said of {pod}:\n{described}");
        }
    }
    let quiet = scene.cluster.kubectl(&["describe", "pod", "orders", "--namespace", shop])?;
    ensure!(!quiet.contains("IMDS"), "nothing is said of who is allowed:\n{quiet}");
    Ok(())
}

/// The answer, the event log and the Event at the pod bear the same id.
fn a_denial_has_one_id_everywhere(scene: &Scene<'_>, guard: &Guard<'_>) -> Result<()> {
    let shop = scene.shop.name();
    for pod in ["cart", "prober"] {
        let answer = ask_for(scene.cluster, shop, pod, None, &unique_path())?;
        let answer = String::from_utf8_lossy(&answer.stdout);
        let id = denial_id(&answer)?;
        ensure!(answer.contains("https://wiki.example/aws"), "no help is given:\n{answer}");
        let described = describe(scene.cluster, shop, pod, "IMDSDenied")?;
        ensure!(denial_id(&described)? == id, "the Event is not of the denial {id}:\n{described}");
        scene.cluster.wait_for(&format!("the event log to have the denial {id}"), |_| {
            Ok(guard.log()?.contains(&format!(r#""imds_guard.denial_id":"{id}""#)).then_some(()))
        })?;
    }
    Ok(())
}

fn a_filter_lets_through_what_it_allows(scene: &Scene<'_>, guard: &Guard<'_>) -> Result<()> {
    const REGION: &str = "/latest/meta-data/placement/region";
    let credentials = format!("/latest/meta-data/iam/security-credentials/{NODE_ROLE}");
    let shop = scene.shop.name();
    let seen = |path: &str| -> Result<usize> {
        Ok(scene.cluster.imds_requests()?.iter().filter(|request| request.path == path).count())
    };
    let before = (seen(REGION)?, seen(&credentials)?);
    let region = ask_for(scene.cluster, shop, "reader", None, REGION)?;
    let region = String::from_utf8_lossy(&region.stdout);
    ensure!(region.starts_with("HTTP/1.1 200 ") && region.ends_with("eu-west-1"), "{region}");
    let denied = ask_for(scene.cluster, shop, "reader", None, &credentials)?;
    let denied = String::from_utf8_lossy(&denied.stdout);
    for part in ["HTTP/1.1 403 ", "x-imds-guard-rule: region-only", "may not read `credentials`"] {
        ensure!(denied.contains(part), "`{part}` is not said:\n{denied}");
    }
    ensure!((seen(REGION)?, seen(&credentials)?) == (before.0 + 1, before.1), "IMDS saw another number");

    let requests = |class, verdict, code| {
        let labels =
            [("service_account", "reader"), ("path_class", class), ("verdict", verdict), ("code", code)];
        guard.metrics().map(|metrics| metrics.count("imds_guard_requests_total", &labels))
    };
    let counted = (requests("region", "filter", "200")?, requests("credentials", "deny", "403")?);
    ensure!(counted == (1, 1), "counted {counted:?}");
    let pod = format!("{shop}/reader");
    for (path, outcome) in [(REGION, "allowed"), (&credentials, "denied")] {
        let explained = guard.run(&["explain", "--pod", &pod, "--path", path])?;
        let line = explained.lines().find(|line| line.trim_start().starts_with("outcome"));
        let said = line.is_some_and(|line| line.contains(outcome) && line.contains("region-only"));
        ensure!(said, "{path} is not said to be {outcome}:\n{explained}");
    }
    Ok(())
}

/// A forwarded port leads to the gate past the pod: from the container runtime, a process of the node.
fn a_gate_serves_its_own_pod_alone(scene: &Scene<'_>, guard: &Guard<'_>) -> Result<()> {
    let shop = scene.shop.name();
    let strangers = || guard.metrics().map(|metrics| metrics.count("imds_guard_gate_strangers_total", &[]));
    let before = strangers()?;
    let sockets = successful(scene.cluster.exec(shop, "orders", &["cat", "/proc/net/tcp"])?)?;
    let port = gate_port(&sockets).with_context(|| format!("no gate listens:\n{sockets}"))?;
    let forwarded = scene.cluster.forward_port(shop, "orders", port)?;
    let path = unique_path();
    let url = format!("http://127.0.0.1:{}{path}", forwarded.port());
    let client = scene.cluster.in_node("curl")?.args(["--silent", "--max-time", "10", &url]).output()?;
    ensure!(!client.status.success() && client.stdout.is_empty(), "the gate answers a stranger: {client:?}");
    let seen = scene.cluster.imds_requests()?.iter().any(|request| request.path == path);
    ensure!(!seen, "IMDS saw a stranger's request");
    ensure!(strangers()? > before, "no stranger was counted");
    Ok(())
}

/// The port of the listener on the loopback address above all ports that the kernel gives away, in a table of sockets
/// as the kernel prints it.
fn gate_port(sockets: &str) -> Option<u16> {
    const LISTENS: &str = "0A";
    sockets.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let port = fields.next()?.strip_prefix("0100007F:")?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (fields.nth(1)? == LISTENS && port >= 61000).then_some(port)
    })
}

/// What kubectl says of a pod, once an Event with this reason is among it.
fn describe(cluster: &Cluster, namespace: &str, pod: &str, reason: &str) -> Result<String> {
    cluster.wait_for(&format!("an Event {reason} at {pod}"), |cluster| {
        let described = cluster.kubectl(&["describe", "pod", pod, "--namespace", namespace])?;
        Ok(described.contains(reason).then_some(described))
    })
}

fn the_command_line_works_in_the_pod(scene: &Scene<'_>, guard: &Guard<'_>) -> Result<()> {
    let shop = scene.shop.name();
    let table = guard.run(&["status"])?;
    let row =
        |pod: &str| table.lines().find(|line| line.contains(pod) && line.contains(shop)).unwrap_or_default();
    for (pod, words) in [
        ("cart", ["denied", "default"]),
        ("early *", ["denied", "default"]),
        ("prober", ["denied", "on-the-node"]),
        ("reader", ["filtered", "region-only"]),
        ("scraper", ["allowed", "by-label"]),
        ("orders", ["allowed", "by-account"]),
        (&scene.web, ["allowed", "by-owner"]),
    ] {
        ensure!(words.iter().all(|word| row(pod).contains(word)), "{pod} is not {words:?}:\n{table}");
    }
    let own = table.lines().find(|line| line.contains(guard::NAMESPACE) && line.contains("self"));
    ensure!(own.is_some(), "the agent's own pod is not shown as allowed:\n{table}");
    let explained = guard.run(&["explain", "--pod", &format!("{shop}/{}", scene.web)])?;
    ensure!(explained.contains("matches  by-owner, and decides imds"), "{explained}");
    Ok(())
}

fn a_change_of_the_config_map_counts_at_once(scene: &Scene<'_>, guard: &Guard<'_>) -> Result<()> {
    let agent = guard.pod()?["metadata"]["uid"].clone();
    let changed = Instant::now();
    guard.enforce(&policy("none"))?;
    let took = changed.elapsed();
    scene.ask_all(|_| Answer::Answered)?;
    ensure!(took < CHANGE_WITHIN, "it took {took:?}");
    describe(scene.cluster, scene.shop.name(), "cart", "IMDSWouldDeny")?;
    let labels = [("service_account", "cart"), ("verdict", "deny"), ("mode", "audit")];
    ensure!(guard.metrics()?.count("imds_guard_attempts_total", &labels) == 1, "the audit counts");

    guard.enforce(&policy(&format!("[{{ namespaces: [\"{}\"] }}]", scene.shop.name())))?;
    let fixed = ask_imds(scene.cluster, "default", scene.fixed.name(), None)?;
    ensure!(fixed == Answer::Answered, "it is not selected: {fixed:?}");
    let cart = ask_imds(scene.cluster, scene.shop.name(), "cart", None)?;
    ensure!(cart == Answer::Denied, "it is selected: {cart:?}");
    let same = guard.pod()?["metadata"]["uid"] == agent && guard.restarts()? == 0;
    ensure!(same, "the agent was started again");
    Ok(())
}

fn a_bad_config_map_changes_nothing(scene: &Scene<'_>, guard: &Guard<'_>) -> Result<()> {
    guard.enforce(&policy("all"))?;
    guard.set_policy("version: 1\nenforce: al\n")?;
    let pod = guard.pod()?["metadata"]["name"].as_str().context("it has a name")?.to_owned();
    let described = describe(scene.cluster, guard::NAMESPACE, &pod, "PolicyRejected")?;
    ensure!(described.contains("policy.yaml:2:10"), "the place is not named:\n{described}");
    let metrics = guard.metrics()?;
    ensure!(metrics.count("imds_guard_policy_last_reload_successful", &[]) == 0);
    scene.ask_all(by_policy)?;
    guard.set_policy(&policy("all"))?;
    scene.cluster.wait_for("the policy to be accepted again", |_| {
        let status = guard.status()?;
        Ok(status["policy"]["refused"].is_null().then_some(()))
    })
}

/// What a node asks of the API server: two watches, a look at each object that its pods refer to, and Events.
fn the_requests_are_few(scene: &Scene<'_>, guard: &Guard<'_>) -> Result<()> {
    let requests = guard.requests()?;
    let counted = |verb: &str, resource: &str| {
        let of = |request: &&guard_cluster::records::AgentRequest| {
            let object = request.object_ref.as_ref();
            request.verb == verb && object.is_some_and(|object| object.resource == resource)
        };
        requests.iter().filter(of).count()
    };
    // A watch is written down when it begins and when it ends. Nothing broke them, so there is one of each.
    for (verb, resource, most) in [
        ("list", "pods", 1),
        ("watch", "pods", 2),
        ("list", "configmaps", 1),
        ("watch", "configmaps", 2),
        ("get", "nodes", 4),
        ("patch", "nodes", 1),
        ("create", "events", 20),
        ("patch", "events", 0),
    ] {
        let times = counted(verb, resource);
        ensure!(times <= most, "{verb} {resource}: {times} times, not {most} at most");
    }
    let about = |request: &guard_cluster::records::AgentRequest| {
        let object = request.object_ref.clone().unwrap_or_default();
        (request.verb.clone(), object.resource, object.namespace, object.name)
    };
    let in_shop = requests
        .iter()
        .map(about)
        .filter(|(_, _, namespace, name)| namespace == scene.shop.name() || name == scene.shop.name());
    let mut looks = std::collections::BTreeMap::<_, u32>::new();
    for what in in_shop.filter(|(verb, ..)| verb == "get") {
        *looks.entry(what).or_default() += 1;
    }
    ensure!(!looks.is_empty(), "the agent looks things up");
    for (what, times) in &looks {
        // Twice for what the server does not have at hand yet.
        ensure!(*times <= 2, "{what:?} was asked for {times} times");
    }
    let strays: Vec<_> = requests
        .iter()
        .map(about)
        .filter(|(verb, resource, ..)| {
            let known = match verb.as_str() {
                "list" | "watch" => ["pods", "configmaps"].contains(&resource.as_str()),
                "get" => ["namespaces", "nodes", "serviceaccounts", "replicasets", "jobs"]
                    .contains(&resource.as_str()),
                "create" | "patch" => ["events", "nodes"].contains(&resource.as_str()),
                _ => false,
            };
            !known
        })
        .collect();
    ensure!(strays.is_empty(), "requests that nobody expects: {strays:?}");
    let refused: Vec<_> = requests
        .iter()
        .filter(|request| request.response_status.as_ref().is_some_and(|status| status.code == 403))
        .collect();
    ensure!(refused.is_empty(), "requests that the agent may not make: {refused:?}");
    Ok(())
}
