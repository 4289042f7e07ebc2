//! The pods of this node as the API server has them, each with what its namespace, node, service account and
//! controllers say of it.
//!
//! A pod is told of only when all is known that a policy may ask about it: until then it is unidentified, rather than
//! judged by half of what it is.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::LocalBoxFuture,
    stream::{BoxStream, FuturesUnordered},
};
use k8s_openapi::{
    api::{
        apps::v1::ReplicaSet,
        batch::v1::Job,
        core::v1::{Namespace, Node, Pod as KubernetesPod, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    api::{GetParams, PartialObjectMeta},
    runtime::{watcher, watcher::Event},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    select,
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use super::{
    News, Reachable, jitter,
    lookups::{Answer, Lookups},
};
use crate::pods::{
    Pod,
    object::{ControllerKind, Metadata, Object, Reference, Spec, Status},
    without_shared_uids,
};

/// How many look-ups may be under way at once.
const LOOKUPS_AT_ONCE: usize = 4;

/// How long a look-up may take.
const LOOKUP_WITHIN: Duration = Duration::from_secs(10);

/// How long pods that are known wait for the look-ups of others, so that a burst is told of once.
const SETTLE: Duration = Duration::from_millis(100);

/// The same for the first list, which should be whole: the guard waits for it.
const SETTLE_FIRST: Duration = Duration::from_secs(3);

/// When there is nothing to do.
const IDLE: Duration = Duration::from_hours(1);

/// Watches the pods of `node` and tells of all of them whenever one changes.
pub(super) async fn watch(client: Client, node: String, news: mpsc::Sender<News>) {
    let mut reachable = Reachable::new("pods");
    let mut events = events(&client, &node);
    // When to begin anew, after a failure.
    let mut resume = None;
    let mut pods = Pods::default();
    let mut answers = FuturesUnordered::new();
    loop {
        let due = pods.next_due(answers.len()).unwrap_or_else(|| Instant::now() + IDLE);
        select! {
            event = events.next(), if resume.is_none() => match event {
                // It comes before anything was asked.
                Some(Ok(Event::Init)) => pods.take(Event::Init),
                Some(Ok(event)) => {
                    if reachable.answers() {
                        pods.lookups.retry(Instant::now());
                        let _ = news.send(News::Answers(true)).await;
                    }
                    pods.take(event);
                }
                Some(Err(error)) => {
                    if reachable.is_news(&error) {
                        let _ = news.send(News::Answers(false)).await;
                    }
                    resume = Some(reachable.pause(Instant::now()));
                }
                None => return,
            },
            Some((reference, answer)) = answers.next() => pods.answer(reference, answer),
            () = sleep_until(resume.unwrap_or(due)), if resume.is_some() => {
                events = self::events(&client, &node);
                resume = None;
            }
            () = sleep_until(due) => {}
        }
        let now = Instant::now();
        for reference in pods.lookups.ask(now, LOOKUPS_AT_ONCE.saturating_sub(answers.len())) {
            answers.push(look_up(client.clone(), reference));
        }
        if let Some(pods) = pods.tell(now)
            && news.send(News::Pods(pods)).await.is_err()
        {
            return;
        }
    }
}

/// The list of the node's pods, and then every change. After a failure it is begun anew: that the list comes is how the
/// end of a failure is seen, also where nothing has changed.
fn events(client: &Client, node: &str) -> BoxStream<'static, watcher::Result<Event<PodObject>>> {
    // Any version that the server has at hand will do to begin with: it spares the store behind it, and what is newer
    // comes by the watch.
    let config = watcher::Config::default().any_semantic().fields(&format!("spec.nodeName={node}"));
    watcher(Api::<PodObject>::all(client.clone()), config).boxed()
}

/// The pods that the watch has told of so far.
#[derive(Default)]
struct Pods {
    objects: BTreeMap<String, Object>,
    /// The list that is being read, at the start and after the watch has broken off for long.
    list: BTreeMap<String, Object>,
    /// Whether a whole list has been read.
    listed: bool,
    /// Whether anything has been told.
    told: bool,
    lookups: Lookups,
    /// When to tell of what is new, at the latest.
    tell_by: Option<Instant>,
}

impl Pods {
    fn take(&mut self, event: Event<PodObject>) {
        match event {
            Event::Init => {
                self.list.clear();
                return;
            }
            Event::InitApply(pod) => {
                self.list.insert(pod.uid(), pod.into());
                return;
            }
            Event::InitDone => {
                self.objects = std::mem::take(&mut self.list);
                self.listed = true;
            }
            Event::Apply(pod) => drop(self.objects.insert(pod.uid(), pod.into())),
            Event::Delete(pod) => drop(self.objects.remove(&pod.uid())),
        }
        let references =
            |pod: &Object| pod.requires().chain([pod.service_account()]).collect::<BTreeSet<_>>();
        self.lookups.want(self.objects.values().flat_map(references).collect(), Instant::now());
        self.change();
    }

    fn answer(&mut self, reference: Reference, answer: Answer) {
        if self.lookups.answer(reference, answer, Instant::now(), jitter()) {
            self.change();
        }
    }

    fn change(&mut self) {
        let settle = if self.told { SETTLE } else { SETTLE_FIRST };
        self.tell_by.get_or_insert_with(|| Instant::now() + settle);
    }

    /// When there is something to do: to look something up, if not too many look-ups are under way, or to tell of what
    /// is new.
    fn next_due(&self, under_way: usize) -> Option<Instant> {
        let lookup = self.lookups.next_due().filter(|_| under_way < LOOKUPS_AT_ONCE);
        [lookup, self.tell_by.filter(|_| self.listed)].into_iter().flatten().min()
    }

    /// All pods of which enough is known, if there is news and nothing more to wait for.
    fn tell(&mut self, now: Instant) -> Option<Vec<Pod>> {
        let by = self.tell_by.filter(|_| self.listed)?;
        if self.lookups.is_waiting() && now < by {
            return None;
        }
        (self.tell_by, self.told) = (None, true);
        let known = self.lookups.known();
        let whole = self
            .objects
            .values()
            .filter(|pod| pod.requires().all(|reference| known.contains_key(&reference)));
        let pods = whole.filter_map(|pod| {
            pod.pod(known)
                .inspect_err(|field| tracing::warn!(field, "a pod from the API server is incomplete"))
                .ok()
        });
        Some(without_shared_uids(pods.collect()))
    }
}

/// A pod, as far as the agent reads it.
#[derive(Clone, Debug, Deserialize)]
struct PodObject {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

impl PodObject {
    fn uid(&self) -> String {
        self.metadata.uid.clone().unwrap_or_default()
    }
}

impl From<PodObject> for Object {
    fn from(PodObject { metadata, spec, status }: PodObject) -> Self {
        Self { kind: None, metadata: metadata.into(), spec, status }
    }
}

impl Resource for PodObject {
    type DynamicType = ();
    type Scope = <KubernetesPod as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        KubernetesPod::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        KubernetesPod::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        KubernetesPod::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        KubernetesPod::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Asks for one object's metadata.
fn look_up(client: Client, reference: Reference) -> LocalBoxFuture<'static, (Reference, Answer)> {
    let asked = reference.clone();
    let lookup = async move {
        match &asked {
            Reference::Namespace(name) => {
                get(&Api::<PartialObjectMeta<Namespace>>::all(client), name, true).await
            }
            Reference::Node(name) => get(&Api::<PartialObjectMeta<Node>>::all(client), name, true).await,
            Reference::ServiceAccount { namespace, name } => {
                get(&Api::<PartialObjectMeta<ServiceAccount>>::namespaced(client, namespace), name, false)
                    .await
            }
            Reference::Controller { namespace, kind: ControllerKind::ReplicaSet, name } => {
                get(&Api::<PartialObjectMeta<ReplicaSet>>::namespaced(client, namespace), name, false).await
            }
            Reference::Controller { namespace, kind: ControllerKind::Job, name } => {
                get(&Api::<PartialObjectMeta<Job>>::namespaced(client, namespace), name, false).await
            }
        }
    };
    async move {
        let answer = timeout(LOOKUP_WITHIN, lookup).await;
        let answer = match answer {
            Ok(Ok(metadata)) => Answer::Known(metadata),
            // The server's own no has a reason that somebody must mend. That it is away is told elsewhere.
            Ok(Err(error @ kube::Error::Api(_))) => {
                tracing::warn!(%error, ?reference, "a look-up is refused; pods that need it stay unidentified");
                Answer::Failed
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, ?reference, "a look-up fails");
                Answer::Failed
            }
            Err(_) => Answer::Failed,
        };
        (reference, answer)
    }
    .boxed_local()
}

/// The metadata of one object, or empty ones if it need not be there and is not. It is read from what the server has at
/// hand; only what is not found there is asked of the store behind it, for it may have been made just now.
async fn get<K>(api: &Api<PartialObjectMeta<K>>, name: &str, must_exist: bool) -> kube::Result<Metadata>
where
    K: Clone + std::fmt::Debug + DeserializeOwned + Resource<DynamicType = ()>,
{
    let absent = |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.code == 404);
    match api.get_with(name, &GetParams::any()).await {
        Err(error) if absent(&error) => {}
        at_hand => return at_hand.map(|object| object.metadata.into()),
    }
    match api.get(name).await {
        Err(error) if absent(&error) && !must_exist => Ok(Metadata::default()),
        stored => stored.map(|object| object.metadata.into()),
    }
}
