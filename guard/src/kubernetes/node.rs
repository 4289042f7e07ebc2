//! The start-up taint: a new node bears it, so that no pod is placed there before the guard stands.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{sleep, timeout};

/// The taint's key, whatever its effect.
const TAINT: &str = "imds-guard.io/agent-not-ready";

/// How soon to try again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// How long one try may take.
const TRY_WITHIN: Duration = Duration::from_secs(10);

/// Takes the taint off the node, and looks again until it is gone.
pub(super) async fn lift_startup_taint(nodes: Api<Node>, name: String) {
    let (mut pause, longest) = RETRY;
    loop {
        match timeout(TRY_WITHIN, lift(&nodes, &name)).await {
            Ok(Ok(Lifted::NotThere)) => return,
            // Looked at again at once: whoever else writes the node's taints may just have put it back.
            Ok(Ok(Lifted::Yes)) => {
                tracing::info!(taint = TAINT, "the start-up taint is lifted: pods may come");
                continue;
            }
            Ok(Err(error)) => {
                let forbidden = matches!(&error, kube::Error::Api(status) if status.code == 403);
                if forbidden {
                    tracing::warn!(%error, taint = TAINT, "the start-up taint can't be lifted: may the agent patch nodes?");
                } else {
                    tracing::debug!(%error, "the start-up taint is not lifted yet");
                }
            }
            Err(_) => tracing::debug!("the start-up taint is not lifted yet: the API server takes too long"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Lifted {
    Yes,
    NotThere,
}

async fn lift(nodes: &Api<Node>, name: &str) -> kube::Result<Lifted> {
    let node = nodes.get(name).await?;
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let Some(patch) = patch(&taints) else { return Ok(Lifted::NotThere) };
    let patch = Patch::Json::<Node>(serde_json::from_value(patch).expect("a patch by its own rules"));
    nodes.patch(name, &PatchParams::default(), &patch).await?;
    Ok(Lifted::Yes)
}

/// What takes the taint off and leaves the others, if they are still as they were read: the test fails otherwise, and
/// nothing is changed.
fn patch(taints: &[Taint]) -> Option<serde_json::Value> {
    let others: Vec<_> = taints.iter().filter(|taint| taint.key != TAINT).collect();
    (others.len() < taints.len()).then(|| {
        json!([
            { "op": "test", "path": "/spec/taints", "value": taints },
            { "op": "replace", "path": "/spec/taints", "value": others },
        ])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str) -> Taint {
        Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() }
    }

    #[test]
    fn only_our_own_taint_goes() {
        let other = taint("node.kubernetes.io/not-ready");
        assert_eq!(patch(&[]), None);
        assert_eq!(patch(std::slice::from_ref(&other)), None);
        let patch = patch(&[other.clone(), taint(TAINT)]).expect("there is something to do");
        assert_eq!(patch[0]["op"], "test");
        assert_eq!(patch[0]["value"].as_array().map(Vec::len), Some(2));
        assert_eq!(patch[1]["value"], json!([other]));
    }
}
