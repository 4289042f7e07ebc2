//! A real Prometheus scrapes the agent, loads the alerts and answers the dashboard.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use guard_cluster::guard::{Answer, Guard, ask_imds, deploy};
use guard_cluster::prometheus::Prometheus;
use guard_cluster::{Cluster, Namespace, node};
use guard_tests::process::successful;
use guard_tests::simulator::{IMDS_V4, NODE_ROLE};
use serde_json::{Value, json};

/// Who asks, each with a service account of that name.
const PODS: [&str; 3] = ["denied", "audited", "allowed"];

#[test]
fn each_alert_fires_when_it_should_and_only_then() -> Result<()> {
    let mut promtool = Cluster::attach()?.in_node("timeout")?;
    promtool.args(["60", "promtool", "test", "rules"]).arg(deploy().join("prometheus/alerts_test.yaml"));
    successful(promtool.output().context("start promtool in the node")?).map(drop)
}

/// The whole story, in one installation.
#[test]
fn every_alert_is_loaded_and_every_panel_has_data() -> Result<()> {
    let cluster = Cluster::attach()?;
    let shop = Namespace::create(&cluster, "shop")?;
    for pod in PODS {
        shop.add_account(pod)?;
        shop.add_pod(pod, &format!("serviceAccountName: {pod}"))?;
    }
    let guard = Guard::install(&cluster, "base", &policy(shop.name()))?;
    let prometheus = Prometheus::start(&cluster, &configuration(&guard)?)?;
    let scene = Scene { cluster: &cluster, shop: &shop, guard: &guard, prometheus: &prometheus };

    the_target_has_its_labels(&scene)?;
    the_policy_is_in_force(&scene)?;
    every_query_has_data(&scene)?;
    who_asked_is_named_not_who_tells(&scene)?;
    the_variables_have_values(&scene)?;
    every_alert_is_loaded(&scene)?;

    cluster.stop_api_server()?;
    let away = trouble_is_seen(&scene);
    cluster.start_api_server()?;
    away
}

struct Scene<'a> {
    cluster: &'a Cluster,
    shop: &'a Namespace<'a>,
    guard: &'a Guard<'a>,
    prometheus: &'a Prometheus<'a>,
}

/// One is denied, one would be, and one is allowed for a time.
fn policy(shop: &str) -> String {
    format!(
        "version: 1
enforce: [{{ serviceAccounts: [{shop}/denied] }}]
default: {{ imds: deny }}
rules:
  - name: for-a-time
    match: {{ serviceAccounts: [{shop}/allowed] }}
    imds: allow
    until: 2099-12-31
    reason: a test
"
    )
}

/// The configuration that people are given for a Prometheus without the operator, made fast, with what the operator adds
/// to it, and with the alerts. Debian's Prometheus can't ask Kubernetes for targets, so it is told what Kubernetes says.
fn configuration(guard: &Guard<'_>) -> Result<String> {
    let scrape = read("prometheus/scrape.yaml")?;
    let discovery = "    kubernetes_sd_configs:
      - role: pod
        namespaces:
          names: [imds-guard]
";
    ensure!(scrape.matches(discovery).count() == 1, "scrape.yaml finds pods in one place:\n{scrape}");
    let targets = format!("    static_configs: {}\n", targets(guard)?);
    let scrape = scrape.replace(discovery, &targets);
    let alerts = deploy().join("prometheus/alerts.yaml");
    let alerts = alerts.display();
    // A PodMonitor gives its targets the name of the port as `endpoint`, which our metrics have too.
    Ok(format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: ['{alerts}']\n{scrape}\
         \x20     - target_label: endpoint\n        replacement: metrics\n"
    ))
}

/// What the discovery of pods says of the agent, and of three targets that are none.
fn targets(guard: &Guard<'_>) -> Result<Value> {
    let pod = guard.pod()?;
    let container = &pod["spec"]["containers"][0];
    let agent = json!({
        "__meta_kubernetes_namespace": pod["metadata"]["namespace"],
        "__meta_kubernetes_pod_name": pod["metadata"]["name"],
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": pod["metadata"]["labels"]["app.kubernetes.io/name"],
        "__meta_kubernetes_pod_phase": pod["status"]["phase"],
        "__meta_kubernetes_pod_node_name": pod["spec"]["nodeName"],
        "__meta_kubernetes_pod_container_name": container["name"],
        "__meta_kubernetes_pod_container_port_name": container["ports"][0]["name"],
    });
    let other = |label: &str, value: &str| {
        let mut labels = agent.clone();
        labels[label] = value.into();
        json!({ "targets": ["127.0.0.1:1"], "labels": labels })
    };
    Ok(json!([
        { "targets": [guard.address()?], "labels": agent },
        other("__meta_kubernetes_pod_label_app_kubernetes_io_name", "other"),
        other("__meta_kubernetes_pod_container_port_name", "other"),
        other("__meta_kubernetes_pod_phase", "Succeeded"),
    ]))
}

fn read(path: &str) -> Result<String> {
    let path = deploy().join(path);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

fn the_target_has_its_labels(scene: &Scene<'_>) -> Result<()> {
    let up = scene.cluster.wait_for("Prometheus to scrape the agent", |_| {
        let mut up = scene.prometheus.query("up")?;
        ensure!(up.len() == 1 && up[0].value() == "1", "{up:?}");
        Ok(up.pop())
    })?;
    assert_eq!(up.metric, expected(scene, [("__name__", "up"), ("endpoint", "metrics")])?);
    Ok(())
}

fn the_policy_is_in_force(scene: &Scene<'_>) -> Result<()> {
    for (pod, expected) in PODS.into_iter().zip([Answer::Denied, Answer::Answered, Answer::Answered]) {
        scene.cluster.wait_for(&format!("{pod} to be {expected:?}"), |cluster| {
            let answer = ask_imds(cluster, scene.shop.name(), pod, None)?;
            Ok((answer == expected).then_some(()))
        })?;
    }
    Ok(())
}

/// The labels of a series of the agent's only target, with `more` in addition or instead.
fn expected<const N: usize>(scene: &Scene<'_>, more: [(&str, &str); N]) -> Result<BTreeMap<String, String>> {
    let pod = scene.guard.pod()?;
    let address = scene.guard.address()?;
    let target = [
        ("job", "imds-guard"),
        ("instance", &address),
        ("namespace", "imds-guard"),
        ("pod", pod["metadata"]["name"].as_str().context("the pod has a name")?),
        ("container", "imds-guard"),
        ("node", node::NAME),
    ];
    Ok(target.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// The metrics' own labels win, and nothing is put aside under another name.
fn who_asked_is_named_not_who_tells(scene: &Scene<'_>) -> Result<()> {
    for (account, verdict, mode) in
        [("denied", "deny", "enforce"), ("audited", "deny", "audit"), ("allowed", "allow", "audit")]
    {
        let shop = scene.shop.name();
        let name = "imds_guard_attempts_total";
        let selector = format!(
            "{name}{{namespace='{shop}', service_account='{account}', verdict='{verdict}', mode='{mode}'}}"
        );
        let mut found = scene.prometheus.query(&selector)?;
        ensure!(found.len() == 1, "{selector}: {found:?}");
        let own = [
            ("__name__", name),
            ("namespace", shop),
            ("service_account", account),
            ("endpoint", "imds"),
            ("verdict", verdict),
            ("mode", mode),
        ];
        assert_eq!(found.pop().map(|series| series.metric), Some(expected(scene, own)?));
    }
    Ok(())
}

/// Waits until all queries of the dashboard have data; names all those that have none.
fn every_query_has_data(scene: &Scene<'_>) -> Result<()> {
    let mut queries = Dashboard::read()?.queries()?;
    queries.retain(|query| !query.needs_trouble());
    ensure!(!queries.is_empty(), "the dashboard has queries");
    scene.cluster.wait_for("every query of the dashboard to have data", |_| {
        scene.everyone_tries()?;
        let mut complaints = Vec::new();
        for query in &queries {
            complaints.extend(query.complaint(scene.prometheus)?);
        }
        ensure!(
            complaints.is_empty(),
            "{} of {}:\n{}",
            complaints.len(),
            queries.len(),
            complaints.join("\n")
        );
        Ok(Some(()))
    })
}

impl Scene<'_> {
    /// Attempts to get the credentials of the node's role, and packets that no other hook judges. What becomes of them
    /// is not looked at here.
    fn everyone_tries(&self) -> Result<()> {
        let imds = IMDS_V4.to_string();
        let credentials = format!("http://{imds}/latest/meta-data/iam/security-credentials/{NODE_ROLE}");
        for pod in PODS {
            self.cluster.exec(
                self.shop.name(),
                pod,
                &["curl", "--silent", "--max-time", "5", &credentials],
            )?;
            self.cluster.exec(self.shop.name(), pod, &["ping", "-c", "1", "-W", "1", &imds])?;
        }
        Ok(())
    }
}

/// What the dashboard offers to choose from.
fn the_variables_have_values(scene: &Scene<'_>) -> Result<()> {
    let offered = Dashboard::read()?.variables()?;
    let expected = [("namespace", scene.shop.name()), ("node", node::NAME)];
    assert_eq!(offered.keys().map(String::as_str).collect::<Vec<_>>(), expected.map(|(name, _)| name));
    for (variable, value) in expected {
        let (selector, label) = &offered[variable];
        let values = scene.prometheus.label_values(selector, label)?;
        ensure!(values.iter().any(|one| one == value), "{variable} offers {values:?}, not {value}");
    }
    Ok(())
}

fn every_alert_is_loaded(scene: &Scene<'_>) -> Result<()> {
    let text = read("prometheus/alerts.yaml")?;
    let written: BTreeSet<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    ensure!(!written.is_empty(), "there are alerts:\n{text}");
    let alerts = scene.cluster.wait_for("every alert to be evaluated", |_| {
        let alerts = scene.prometheus.alerts()?;
        let bad: Vec<&Value> = alerts.iter().filter(|alert| alert["health"] != "ok").collect();
        ensure!(bad.is_empty(), "{bad:?}");
        Ok(Some(alerts))
    })?;
    let loaded: BTreeSet<&str> = alerts.iter().filter_map(|alert| alert["name"].as_str()).collect();
    assert_eq!(loaded, written);
    Ok(())
}

/// What shows up only when something is wrong: here the API server is away.
fn trouble_is_seen(scene: &Scene<'_>) -> Result<()> {
    let mut queries = Dashboard::read()?.queries()?;
    queries.retain(Query::needs_trouble);
    ensure!(!queries.is_empty(), "the dashboard lists troubles");
    scene.cluster.wait_for("what lists troubles to have data", |_| {
        for query in &queries {
            if let Some(complaint) = query.complaint(scene.prometheus)? {
                bail!(complaint);
            }
        }
        Ok(Some(()))
    })?;
    scene.cluster.wait_for("the alert to be pending", |_| {
        let alerts = scene.prometheus.alerts()?;
        let alert = alerts.iter().find(|alert| alert["name"] == "ImdsGuardKubernetesApiUnreachable");
        Ok(alert.is_some_and(|alert| alert["state"] == "pending").then_some(()))
    })
}

/// The dashboard, as it is imported.
struct Dashboard(Value);

/// A query of a panel.
struct Query {
    panel: String,
    expression: String,
    /// The labels that its legend or its table shows.
    labels: Vec<String>,
}

impl Dashboard {
    fn read() -> Result<Self> {
        serde_json::from_str(&read("grafana/imds-guard.json")?).map(Self).context("parse the dashboard")
    }

    /// The queries of all panels, with nothing chosen in the dashboard.
    fn queries(&self) -> Result<Vec<Query>> {
        let mut queries = Vec::new();
        let mut panels: Vec<&Value> = self.0["panels"].as_array().into_iter().flatten().collect();
        while let Some(panel) = panels.pop() {
            // The panels of a row that is folded.
            panels.extend(panel["panels"].as_array().into_iter().flatten());
            for target in panel["targets"].as_array().into_iter().flatten() {
                queries.push(Query::of(panel, target)?);
            }
        }
        Ok(queries)
    }

    /// The variables that come from Prometheus: their selectors and labels, by their names.
    fn variables(&self) -> Result<BTreeMap<String, (String, String)>> {
        let all = self.0["templating"]["list"].as_array().into_iter().flatten();
        all.filter(|variable| variable["type"] == "query")
            .map(|variable| {
                let query = variable["query"]["query"].as_str().context("a variable has a query")?;
                let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
                let (selector, label) =
                    inner.and_then(|inner| inner.rsplit_once(", ")).context(query.to_owned())?;
                let name = variable["name"].as_str().context("a variable has a name")?;
                Ok((name.to_owned(), (selector.to_owned(), label.to_owned())))
            })
            .collect()
    }
}

impl Query {
    fn of(panel: &Value, target: &Value) -> Result<Self> {
        let panel_name = panel["title"].as_str().context("a panel has a title")?;
        let expression =
            target["expr"].as_str().with_context(|| format!("{panel_name} has an expression"))?;
        let replaced =
            [("$__rate_interval", "30s"), ("$__range", "5m"), ("$namespace", ".*"), ("$node", ".*")];
        let expression =
            replaced.into_iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
        ensure!(!expression.contains('$'), "{panel_name} has an unknown variable: {expression}");
        let legend = target["legendFormat"].as_str().unwrap_or_default();
        let in_legend = legend.split("{{").skip(1).filter_map(|part| part.split("}}").next());
        let columns = panel["transformations"][0]["options"]["indexByName"].as_object();
        let in_table = columns.into_iter().flat_map(|columns| columns.keys().map(String::as_str));
        let labels = in_legend.chain(in_table).filter(|label| *label != "Value").map(str::to_owned).collect();
        Ok(Self { panel: panel_name.to_owned(), expression, labels })
    }

    /// Whether it lists troubles alone: empty is what it should be.
    fn needs_trouble(&self) -> bool {
        self.panel == "Degraded"
    }

    /// What is wrong with the answer to it.
    fn complaint(&self, prometheus: &Prometheus<'_>) -> Result<Option<String>> {
        let Self { panel, expression, labels } = self;
        let series = prometheus.query(expression)?;
        if series.is_empty() {
            return Ok(Some(format!("{panel}: no data: {expression}")));
        }
        let absent: Vec<&String> =
            labels.iter().filter(|label| !series.iter().any(|one| one.metric.contains_key(*label))).collect();
        Ok((!absent.is_empty()).then(|| format!("{panel}: no label {absent:?}: {expression}")))
    }
}
