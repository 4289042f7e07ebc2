//! Pods that come and go in waves, each of which asks IMDS with the first thing that it does.

use anyhow::{Context, Result, ensure};
use guard_cluster::guard::{Guard, unique_path};
use guard_cluster::{CLIENT_IMAGE, Cluster, Namespace};
use serde_json::Value;

const WAVES: usize = 10;
/// Of each kind.
const PODS_A_WAVE: usize = 5;

const POLICY: &str = "\
version: 1
enforce: all
unidentified: deny
default: { imds: deny }
rules:
  - { name: trusted, match: { serviceAccounts: [\"waves-*/trusted\"] }, imds: allow }
";

#[test]
fn no_newcomer_is_let_through_or_turned_away_by_mistake() -> Result<()> {
    let cluster = Cluster::attach()?;
    let waves = Namespace::create(&cluster, "waves")?;
    waves.add_account("trusted")?;
    waves.add_account("stranger")?;
    let guard = Guard::install(&cluster, "base", POLICY)?;
    let mut forbidden = Vec::new();
    for wave in 0..WAVES {
        let mut pods = String::new();
        for number in 0..PODS_A_WAVE {
            // It connects, says nothing, and ends well if it was not refused.
            pods += &pod(waves.name(), &format!("trusted-{wave}-{number}"), "nc -w 10 169.254.169.254 80");
            let path = unique_path();
            let ask = format!("curl --silent --max-time 10 http://169.254.169.254{path}");
            pods += &pod(waves.name(), &format!("stranger-{wave}-{number}"), &ask);
            forbidden.push(path);
        }
        cluster.apply(&pods)?;
        for (name, code) in ended(&cluster, waves.name())? {
            let (expected, what) =
                if name.starts_with("trusted") { (0, "turned away") } else { (7, "not refused at once") };
            ensure!(code == expected, "{name} was {what}: it ended with {code}\n{}", guard.log()?);
        }
        cluster.kubectl(&["delete", "pods", "--all", "--namespace", waves.name(), "--wait=false"])?;
        cluster.wait_for("the wave to be gone", |cluster| {
            let pods = cluster.get(&["pods", "--namespace", waves.name()])?;
            Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
        })?;
    }
    let seen = cluster.imds_requests()?;
    let passed: Vec<_> = seen.iter().filter(|request| forbidden.contains(&request.path)).collect();
    ensure!(passed.is_empty(), "IMDS saw requests of pods that are denied: {passed:?}");
    let attempts = |account, verdict| {
        let labels = [("namespace", waves.name()), ("service_account", account), ("verdict", verdict)];
        guard.metrics().map(|metrics| metrics.count("imds_guard_attempts_total", &labels))
    };
    let all = u64::try_from(WAVES * PODS_A_WAVE)?;
    ensure!(
        (attempts("trusted", "allow")?, attempts("stranger", "deny")?) == (all, all),
        "each counts, by its name"
    );
    Ok(())
}

/// A pod whose first container does nothing but `command`.
fn pod(namespace: &str, name: &str, command: &str) -> String {
    let account = name.split('-').next().unwrap_or_default();
    let words: Vec<_> = command.split(' ').map(|word| format!("'{word}'")).collect();
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{serviceAccountName: {account}, restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: \
         [{{name: client, image: '{CLIENT_IMAGE}', command: [{}]}}]}}\n",
        words.join(", ")
    )
}

/// The exit codes of all pods, once all have ended.
fn ended(cluster: &Cluster, namespace: &str) -> Result<Vec<(String, i64)>> {
    cluster.wait_for("the wave to end", |cluster| {
        let pods = cluster.get(&["pods", "--namespace", namespace])?;
        let pods = pods["items"].as_array().context("a list of pods")?;
        Ok(pods.iter().map(exit).collect())
    })
}

fn exit(pod: &Value) -> Option<(String, i64)> {
    let code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_i64()?;
    Some((pod["metadata"]["name"].as_str()?.to_owned(), code))
}
