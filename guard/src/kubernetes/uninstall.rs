//! The agent's DaemonSet, turned from guarding into cleaning up, on every node.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::PodSpec};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::ObjectName;

/// What the agent's container is told.
const ARGUMENTS: [&str; 4] = ["cleanup", "--state-dir=/var/lib/imds-guard", "--wait", "--listen=[::]:9811"];

/// How often to look how far it has got.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why nodes are not cleaned up, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    #[error("find the API server")]
    Client(#[source] Box<kube::Error>),
    #[error("{verb} the DaemonSet {namespace}/{name}")]
    DaemonSet {
        verb: &'static str,
        namespace: String,
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("the DaemonSet {namespace}/{name} has no container")]
    Empty { namespace: String, name: String },
    #[error(
        "{done} of {all} nodes are cleaned up so far, and those are not guarded any more: see the pods that are not ready; \
         then uninstall without hooks and apply deploy/cleanup.yaml, or apply the manifests again to guard them again"
    )]
    Late { done: i32, all: i32 },
}

/// Turns the pods of a DaemonSet from guarding into cleaning up, and waits until every node is clean. Returns how many
/// there are.
pub async fn clean_nodes(name: &ObjectName, within: Duration) -> Result<i32, UninstallError> {
    let client = Client::try_default().await.map_err(|source| UninstallError::Client(Box::new(source)))?;
    let api: Api<DaemonSet> = Api::namespaced(client, &name.namespace);
    let ObjectName { namespace, name } = name;
    let failed = |verb| {
        move |source| UninstallError::DaemonSet {
            verb,
            namespace: namespace.clone(),
            name: name.clone(),
            source: Box::new(source),
        }
    };
    let found = api.get(name).await.map_err(failed("read"))?;
    let spec = found.spec.and_then(|spec| spec.template.spec).and_then(cleaning);
    let spec =
        spec.ok_or_else(|| UninstallError::Empty { namespace: namespace.clone(), name: name.clone() })?;
    let patch = json!({ "spec": {
        "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": "100%", "maxSurge": null } },
        "template": { "spec": spec },
    }});
    let patched =
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map_err(failed("change"))?;
    let generation = patched.metadata.generation;
    let deadline = Instant::now() + within;
    loop {
        let status = api.get(name).await.map_err(failed("read"))?.status.unwrap_or_default();
        let all = status.desired_number_scheduled;
        let done = status.updated_number_scheduled.unwrap_or(0).min(status.number_ready);
        if status.observed_generation >= generation && done >= all {
            return Ok(all);
        }
        if Instant::now() > deadline {
            return Err(UninstallError::Late { done, all });
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// The same pod with its one container cleaning up: nothing but its arguments differ, so that whatever applies the
/// manifests again makes it guard again. It is ready when the node is clean.
fn cleaning(mut spec: PodSpec) -> Option<PodSpec> {
    let container = spec.containers.first_mut()?;
    container.args = Some(ARGUMENTS.map(str::to_owned).into());
    Some(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_cleans_up_with_the_rights_and_folders_of_the_agent() {
        let agent: PodSpec = serde_json::from_value(json!({
            "hostPID": true,
            "containers": [{
                "name": "imds-guard", "image": "imds-guard:1", "args": ["run", "--policy=/x"],
                "securityContext": { "privileged": true },
                "livenessProbe": { "httpGet": { "path": "/healthz", "port": "metrics" } },
                "volumeMounts": [{ "name": "bpf", "mountPath": "/sys/fs/bpf" }],
            }],
        }))
        .expect("a pod");
        let mut expected = serde_json::to_value(&agent).expect("plain data");
        expected["containers"][0]["args"] = json!(ARGUMENTS);
        let spec = cleaning(agent).expect("it has a container");
        assert_eq!(serde_json::to_value(spec).expect("plain data"), expected);
    }
}
