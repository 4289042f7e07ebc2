//! The agent's side of the API server, where there is one.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{AgentError, PodsFrom, Settings, state::State};
use crate::{
    kubernetes::{ApiServer, News},
    sinks::metrics::Metrics,
};

/// How long the first list of pods is waited for before the guard stands: who starts in this moment should have a name.
const FIRST_LIST_WITHIN: Duration = Duration::from_secs(5);

/// How often to look for the start-up taint once it is gone.
const LOOK_AGAIN: Duration = Duration::from_mins(10);

/// The API server, and what it tells. Where the pods come from a file there is none, and it tells nothing.
pub(super) struct Cluster {
    api: Option<ApiServer>,
    news: Option<mpsc::Receiver<News>>,
    /// When the start-up taint was last lifted, or looked for, and whether that is still under way.
    lifting: Option<(Instant, JoinHandle<()>)>,
}

impl Cluster {
    /// Begins to watch.
    pub(super) async fn join(settings: &Settings, metrics: &Metrics) -> Result<Self, AgentError> {
        let PodsFrom::ApiServer { node, policy } = &settings.pods_from else {
            return Ok(Self { api: None, news: None, lifting: None });
        };
        let api = ApiServer::new(node.clone(), metrics.kubernetes().requests).await?;
        let news = Some(api.watch(policy.clone()));
        Ok(Self { api: Some(api), news, lifting: None })
    }

    /// Takes what is told until the first list of pods is there, or has been waited for long enough.
    pub(super) async fn first_list(&mut self, state: &mut State) -> Result<(), AgentError> {
        let Some(api) = &self.api else { return Ok(()) };
        // Who is known keeps its name, whatever a first list lacks.
        state.recall_pods();
        state.walk()?;
        let metrics = state.metrics.kubernetes();
        let errors = metrics.event_errors.clone();
        state.voice.speak_to(api.write_events(metrics), errors);
        let first = timeout(FIRST_LIST_WITHIN, async {
            loop {
                let news = self.news().await;
                let listed = matches!(news, News::Pods(_));
                state.hear_news(news);
                if listed {
                    return;
                }
            }
        });
        if first.await.is_err() {
            tracing::warn!(
                "the API server has not told this node's pods yet: those not known before are unidentified"
            );
        }
        Ok(())
    }

    /// Waits for news; without an API server, for ever.
    pub(super) async fn news(&mut self) -> News {
        if let Some(news) = &mut self.news
            && let Some(news) = news.recv().await
        {
            return news;
        }
        std::future::pending().await
    }

    /// Lifts the node's start-up taint, if the pods are known and the guard stands; and looks again now and then, for a
    /// node group's taints can be put on its running nodes.
    pub(super) fn lift_startup_taint(&mut self, state: &State) {
        let Some(api) = self.api.as_ref().filter(|_| state.is_listed() && state.is_tested()) else { return };
        let not_yet =
            |(since, task): &(Instant, JoinHandle<()>)| !task.is_finished() || since.elapsed() < LOOK_AGAIN;
        if self.lifting.as_ref().is_some_and(not_yet) {
            return;
        }
        match state.check() {
            Ok(()) => self.lifting = Some((Instant::now(), api.lift_startup_taint())),
            Err(error) => tracing::error!(error, "the guard does not stand: the start-up taint stays"),
        }
    }
}
