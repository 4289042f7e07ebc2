use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::node;

/// A namespace of Kubernetes for one test. Dropping it has it deleted, with all that is in it.
#[derive(Debug)]
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Namespace<'a> {
    /// Makes a namespace whose name begins with `what`, and waits until pods can be made in it.
    pub fn create(cluster: &'a Cluster, what: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        cluster.kubectl(&["create", "namespace", &name])?;
        let namespace = Self { cluster, name };
        namespace.wait_for_account("default")?;
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes a service account, and waits until pods can use it.
    pub fn add_account(&self, account: &str) -> Result<()> {
        self.cluster.kubectl(&["create", "serviceaccount", account, "--namespace", &self.name])?;
        self.wait_for_account(account)
    }

    /// Makes a pod that does nothing until a test runs a program in it, and waits until it is ready. `spec` is more of
    /// the pod's `spec`, as YAML in one line: `hostNetwork: true, serviceAccountName: web`.
    pub fn add_pod(&self, pod: &str, spec: &str) -> Result<Value> {
        self.cluster.apply(&client_pod(&self.name, pod, spec))?;
        self.cluster.wait_until_ready(&self.name, pod)
    }

    /// Has a pod deleted, and waits until it is gone.
    pub fn delete_pod(&self, pod: &str) -> Result<()> {
        self.cluster.kubectl(&["delete", "pod", pod, "--namespace", &self.name, "--wait=false"])?;
        self.cluster.wait_until_gone(&self.name, pod)
    }

    fn wait_for_account(&self, account: &str) -> Result<()> {
        let account = format!("serviceaccount/{account}");
        // Pods mount both, and one that finds them missing is tried again only after seconds.
        let needed = ["get", "--namespace", &self.name, &account, "configmap/kube-root-ca.crt"];
        self.cluster.wait_for(&format!("{account} in {}", self.name), |cluster| {
            cluster.kubectl(&needed).map(|_| Some(()))
        })
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]) {
            eprintln!("left behind: {error:#}");
        }
    }
}

/// The YAML of a pod that does nothing until a test runs a program in it, with more of its `spec` in one line. It
/// tolerates every taint: what a guarded cluster does at start is the business of those who test that.
pub fn client_pod(namespace: &str, pod: &str, spec: &str) -> String {
    let image = crate::CLIENT_IMAGE;
    let comma = if spec.is_empty() { "" } else { ", " };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: {namespace}}}\n\
         spec: {{terminationGracePeriodSeconds: 1, tolerations: [{{operator: Exists}}], \
         containers: [{{name: client, image: '{image}'}}]{comma}{spec}}}\n"
    )
}

/// A pod that the kubelet runs because a file on the node says so. Dropping it removes the file.
#[derive(Debug)]
pub struct StaticPod {
    file: PathBuf,
    name: String,
}

impl StaticPod {
    /// Gives the kubelet the pod `pod`, described by `yaml`.
    pub fn create(cluster: &Cluster, pod: &str, yaml: &str) -> Result<Self> {
        let file = cluster.folder().static_pods().join(format!("{pod}.yaml"));
        // A name that begins with a dot is not read.
        let aside = file.with_file_name(format!(".{pod}.yaml"));
        fs::write(&aside, yaml)
            .and_then(|()| fs::rename(&aside, &file))
            .with_context(|| format!("write {}", file.display()))?;
        Ok(Self { file, name: format!("{pod}-{}", node::NAME) })
    }

    /// The name by which the API server knows it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for StaticPod {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.file) {
            eprintln!("left behind: {}: {error}", self.file.display());
        }
    }
}
