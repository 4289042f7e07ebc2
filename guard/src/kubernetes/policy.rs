//! The policy's ConfigMap, watched as an object: a change is here in a moment, while the volume follows within a minute
//! or two.

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use tokio::{pin, sync::mpsc};

use super::{News, ObjectName, Reachable};
use crate::policy::{SourceFile, is_policy_name};

/// Watches the object and tells of every change.
pub(super) async fn watch(client: Client, object: ObjectName, news: mpsc::Sender<News>) {
    let api = Api::<ConfigMap>::namespaced(client, &object.namespace);
    let objects = watcher::watch_object(api, &object.name).default_backoff();
    pin!(objects);
    let mut reachable = Reachable::new("policy");
    while let Some(change) = objects.next().await {
        let told = match change {
            Ok(change) => {
                reachable.answers();
                News::Policy(change.map(|map| files(&object, map)))
            }
            Err(error) => {
                if !reachable.fails(&error) {
                    continue;
                }
                News::PolicyUnwatched
            }
        };
        if news.send(told).await.is_err() {
            return;
        }
    }
}

/// The files as the volume has them: in name order, those alone that a policy is read from.
fn files(object: &ObjectName, map: ConfigMap) -> Vec<SourceFile> {
    let files = map.data.unwrap_or_default().into_iter().filter(|(name, _)| is_policy_name(name.as_ref()));
    files.map(|(name, text)| SourceFile { name: format!("configmap/{}/{name}", object.name), text }).collect()
}
