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
    let (mut allowed, mut forbidden, mut turned_away) = (Vec::new(), Vec::new(), Vec::new());
    for wave in 0..WAVES {
        let mut pods = String::new();
        for number in 0..PODS_A_WAVE {
            for (account, paths) in [("trusted", &mut allowed), ("stranger", &mut forbidden)] {
                let path = unique_path();
                // Nothing is there, and who is denied is told so: both end with 22.
                let ask = format!("curl --silent --fail --max-time 10 http://169.254.169.254{path}");
                pods += &pod(waves.name(), &format!("{account}-{wave}-{number}"), &ask);
                paths.push(path);
            }
        }
        cluster.apply(&pods)?;
        turned_away.extend(ended(&cluster, waves.name())?.into_iter().filter(|(_, code)| *code != 22));
        cluster.kubectl(&["delete", "pods", "--all", "--namespace", waves.name(), "--wait=false"])?;
        cluster.wait_for("the wave to be gone", |cluster| {
            let pods = cluster.get(&["pods", "--namespace", waves.name()])?;
            Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
        })?;
    }
    ensure!(
        turned_away.is_empty(),
        "{} of {} pods were not answered: {turned_away:?}\n{}",
        turned_away.len(),
        allowed.len() + forbidden.len(),
        guard.log()?
    );
    let seen = cluster.imds_requests()?;
    let seen = |path: &&String| seen.iter().any(|request| request.path == **path);
    let passed: Vec<_> = forbidden.iter().filter(seen).collect();
    ensure!(passed.is_empty(), "IMDS saw requests of pods that are denied: {passed:?}");
    let stopped: Vec<_> = allowed.iter().filter(|path| !seen(path)).collect();
    ensure!(stopped.is_empty(), "IMDS never saw requests of pods that are allowed: {stopped:?}");
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
