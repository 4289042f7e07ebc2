//! The policy's ConfigMap, watched as an object: a change is here in a moment, while the volume follows within a minute
//! or two.

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, runtime::watcher};
use tokio::{
    pin,
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{News, ObjectName, Reachable};
use crate::policy::{SourceFile, is_policy_name};

/// Watches the object and tells of every change. After a failure it is read anew: it may have changed meanwhile.
pub(super) async fn watch(client: Client, object: ObjectName, news: mpsc::Sender<News>) {
    let api = Api::<ConfigMap>::namespaced(client, &object.namespace);
    let mut reachable = Reachable::new("policy");
    loop {
        let objects = watcher::watch_object(api.clone(), &object.name);
        pin!(objects);
        while let Some(change) = objects.next().await {
            let told = match change {
                Ok(change) => {
                    reachable.answers();
                    News::Policy(change.map(|map| files(&object, map)))
                }
                Err(error) => {
                    if reachable.is_news(&error) {
                        let _ = news.send(News::PolicyUnwatched).await;
                    }
                    break;
                }
            };
            if news.send(told).await.is_err() {
                return;
            }
        }
        sleep_until(reachable.pause(Instant::now())).await;
    }
}

/// The files as the volume has them: in name order, those alone that a policy is read from.
fn files(object: &ObjectName, map: ConfigMap) -> Vec<SourceFile> {
    let files = map.data.unwrap_or_default().into_iter().filter(|(name, _)| is_policy_name(name.as_ref()));
    files.map(|(name, text)| SourceFile { name: format!("configmap/{}/{name}", object.name), text }).collect()
}
