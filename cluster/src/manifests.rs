use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use guard_tests::process::successful;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::guard::{NAMESPACE, deploy};

/// Objects in the cluster. Dropping them deletes them, and waits until they are gone.
#[derive(Debug)]
pub struct Made<'a> {
    cluster: &'a Cluster,
    manifests: String,
}

impl<'a> Made<'a> {
    /// Makes the objects that `manifests` describe.
    pub fn apply(cluster: &'a Cluster, manifests: String) -> Result<Self> {
        // Before the first one is there: it may be the second that fails.
        let made = Self { cluster, manifests };
        cluster.let_go_of(NAMESPACE)?;
        cluster.apply(&made.manifests)?;
        Ok(made)
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        let delete = ["delete", "--filename", "-", "--ignore-not-found", "--timeout=100s"];
        if let Err(error) = self.cluster.kubectl_with_input(&delete, &self.manifests) {
            eprintln!("left behind: {error:#}");
        }
    }
}

/// What kustomize renders of the base with components, laid out as users are told to.
pub fn kustomized(cluster: &Cluster, components: &[&str]) -> Result<Vec<Value>> {
    let folder = TempDir::new().context("make a folder")?;
    let copy = folder.path().join("deploy");
    let copied = Command::new("cp").arg("--recursive").arg(deploy()).arg(&copy).output();
    successful(copied.context("start cp")?)?;
    let list = |folder: &str, names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("deploy/kustomize/{folder}{name}")).collect()
    };
    // JSON is YAML.
    let kustomization =
        json!({ "resources": list("", &["base"]), "components": list("components/", components) })
            .to_string();
    fs::write(folder.path().join("kustomization.yaml"), kustomization).context("write kustomization.yaml")?;
    let path = folder.path().to_str().context("the folder's path is text")?;
    objects(cluster, &cluster.kubectl(&["kustomize", path])?)
}

/// The objects that YAML describes, as values. No API server is asked, so their kinds may be unknown to it.
pub fn objects(cluster: &Cluster, yaml: &str) -> Result<Vec<Value>> {
    let patch = ["patch", "--local", "--type=merge", "--patch={}", "--output=json", "--filename=-"];
    let printed = cluster.kubectl_with_input(&patch, yaml)?;
    serde_json::Deserializer::from_str(&printed)
        .into_iter()
        .collect::<Result<_, _>>()
        .context("parse what kubectl printed")
}

/// Objects as one that kubectl takes.
pub fn list(objects: &[Value]) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": objects })
}
