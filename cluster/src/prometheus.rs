use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use guard_tests::process::successful;
use guard_tests::wait_for;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::Cluster;

/// Where it listens: in the node, for the node.
const ADDRESS: &str = "127.0.0.1:9090";

/// How long it may take to end when asked to.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Debian's Prometheus, in the node. Dropping it ends it, and removes all that it stored.
#[derive(Debug)]
pub struct Prometheus<'a> {
    cluster: &'a Cluster,
    process: Child,
    folder: TempDir,
}

/// One series of an answer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Series {
    /// Its labels, and its name if it has one.
    pub metric: BTreeMap<String, String>,
    /// When, and the value then as text.
    value: (f64, String),
}

impl Series {
    /// Its value.
    pub fn value(&self) -> &str {
        &self.value.1
    }
}

impl<'a> Prometheus<'a> {
    /// Starts it with a configuration, and waits until it answers.
    pub fn start(cluster: &'a Cluster, configuration: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("imds-guard-prometheus-").tempdir();
        let folder = folder.context("make a folder for Prometheus")?;
        let file = folder.path().join("prometheus.yaml");
        fs::write(&file, configuration).with_context(|| format!("write {}", file.display()))?;
        let log = File::create(folder.path().join("log")).context("make the log of Prometheus")?;
        let mut command = cluster.in_node("prometheus")?;
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .args(["--web.enable-lifecycle", "--log.level=warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let process = command.spawn().context("start Prometheus in the node")?;
        let mut prometheus = Self { cluster, process, folder };
        prometheus.wait_until_ready()?;
        Ok(prometheus)
    }

    /// What an expression gives now.
    pub fn query(&self, expression: &str) -> Result<Vec<Series>> {
        #[derive(Deserialize)]
        struct Answer {
            result: Vec<Series>,
        }
        let answer: Answer = self.get("query", &[("query", expression)])?;
        Ok(answer.result)
    }

    /// The values of a label among the series that `selector` chooses.
    pub fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>> {
        self.get(&format!("label/{label}/values"), &[("match[]", selector)])
    }

    /// The alerts it has loaded, as it describes them.
    pub fn alerts(&self) -> Result<Vec<Value>> {
        #[derive(Deserialize)]
        struct Rules {
            groups: Vec<Group>,
        }
        #[derive(Deserialize)]
        struct Group {
            rules: Vec<Value>,
        }
        let rules: Rules = self.get("rules", &[("type", "alert")])?;
        Ok(rules.groups.into_iter().flat_map(|group| group.rules).collect())
    }

    fn get<T: DeserializeOwned>(&self, path: &str, parameters: &[(&str, &str)]) -> Result<T> {
        #[derive(Deserialize)]
        struct Answer<T> {
            data: T,
        }
        let mut curl = self.cluster.in_node("curl")?;
        curl.args(["--silent", "--show-error", "--max-time", "10", "--get"]);
        for (name, value) in parameters {
            curl.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        let output = curl.arg(format!("http://{ADDRESS}/api/v1/{path}")).output();
        let text = successful(output.context("start curl in the node")?)
            .with_context(|| format!("ask Prometheus for {path}"))?;
        let answer: Answer<T> =
            serde_json::from_str(&text).with_context(|| format!("{path} of Prometheus: {text}"))?;
        Ok(answer.data)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let cluster = self.cluster;
        cluster
            .wait_for("Prometheus to be ready", |cluster| {
                if let Some(status) = self.process.try_wait()? {
                    // No use in waiting on: this is told at once.
                    return Ok(Some(Err(status)));
                }
                let mut curl = cluster.in_node("curl")?;
                curl.args(["--silent", "--fail", "--max-time", "5", &format!("http://{ADDRESS}/-/ready")]);
                successful(curl.output()?).map(|_| Some(Ok(())))
            })?
            .or_else(|status| bail!("Prometheus ended ({status}): {}", self.log()))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Asks it to end, so that nothing is written any more when its folder is removed.
    fn stop(&mut self) -> Result<()> {
        let mut curl = self.cluster.in_node("curl")?;
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "10", "--request", "POST"]);
        successful(curl.arg(format!("http://{ADDRESS}/-/quit")).output()?)
            .context("ask Prometheus to end")?;
        let status = wait_for(STOP_WITHIN, "Prometheus to end", || self.process.try_wait().transpose())??;
        ensure!(status.success(), "Prometheus ended badly ({status}): {}", self.log());
        Ok(())
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("Prometheus is killed: {error:#}");
            // Both fail only for a process that has ended and been waited for.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}
