use std::time::Duration;

use super::*;
use crate::workload::Workload;

const SLICE: CgroupId = CgroupId(2);
const API: CgroupId = CgroupId(10);
const APP: CgroupId = CgroupId(11);
const SANDBOX: CgroupId = CgroupId(12);
const WORKER: CgroupId = CgroupId(20);

fn mk_pod(name: &str, containers: &[(&str, &str)]) -> Arc<Pod> {
    Arc::new(Pod {
        uid: PodUid::new(name),
        declared_uid: name.to_owned(),
        name: name.to_owned(),
        workload: Workload { namespace: "payments".to_owned(), ..Workload::default() },
        service_account: None,
        containers: containers.iter().map(|(id, name)| (ContainerId::new(*id), (*name).to_owned())).collect(),
        addresses: vec![],
    })
}

/// How many live pods are identified, and how many are not.
fn counts(index: &Index) -> (usize, usize) {
    let (named, nameless): (Vec<_>, Vec<_>) =
        index.pods().partition(|(_, identity)| matches!(identity, Identity::Pod(_)));
    (named.len(), nameless.len())
}

fn mk_cgroup(id: CgroupId, uid: Option<&str>, containers: &[(CgroupId, Option<&str>)]) -> PodCgroup {
    PodCgroup {
        id,
        uid: uid.map(PodUid::new),
        path: uid.unwrap_or("stray").into(),
        containers: containers.iter().map(|(cgroup, id)| (*cgroup, id.map(ContainerId::new))).collect(),
    }
}

fn mk_tree(pods: &[PodCgroup]) -> Tree {
    Tree { slices: vec![SLICE], pods: pods.to_vec() }
}

fn names(index: &Index) -> Vec<(CgroupId, Option<String>)> {
    let name = |identity| match identity {
        Identity::Pod(pod) => Some(pod.name.clone()),
        Identity::Unidentified => None,
    };
    index.pods().map(|(id, identity)| (id, name(identity))).collect()
}

fn container_name(index: &Index, pod: CgroupId, container: CgroupId) -> Option<&str> {
    index.container(pod, container)?.name.as_deref()
}

#[test]
fn list_and_walk_may_come_in_either_order() {
    let now = Instant::now();
    let pods = || vec![mk_pod("api", &[])];
    let tree = || mk_tree(&[mk_cgroup(API, Some("api"), &[]), mk_cgroup(WORKER, Some("worker"), &[])]);
    let expected = [(API, Some("api".to_owned())), (WORKER, None)];

    let mut list_first = Index::default();
    list_first.set_pods(pods());
    assert_eq!(counts(&list_first), (0, 0));
    list_first.set_tree(tree(), now);
    assert_eq!(names(&list_first), expected);

    let mut walk_first = Index::default();
    walk_first.set_tree(tree(), now);
    assert_eq!(counts(&walk_first), (0, 2));
    walk_first.set_pods(pods());
    assert_eq!(names(&walk_first), expected);
    assert_eq!(counts(&walk_first), (1, 1));
    assert_eq!(walk_first.slices(), [SLICE]);
}

#[test]
fn a_cgroup_without_a_pod_s_name_stays_unidentified() {
    let mut index = Index::default();
    index.set_pods(vec![mk_pod("api", &[])]);
    index.set_tree(mk_tree(&[mk_cgroup(API, None, &[])]), Instant::now());
    assert_eq!(names(&index), [(API, None)]);
    assert_eq!(index.identify(API), None);
}

#[test]
fn a_pod_that_is_deleted_by_force_keeps_its_identity_while_it_runs() {
    let now = Instant::now();
    let tree = mk_tree(&[mk_cgroup(API, Some("api"), &[])]);
    let mut index = Index::default();
    index.set_pods(vec![mk_pod("api", &[])]);
    index.set_tree(tree.clone(), now);
    index.set_pods(vec![]);
    index.set_tree(tree, now);
    assert_eq!(names(&index), [(API, Some("api".to_owned()))]);
}

#[test]
fn a_pod_listed_anew_replaces_what_was_known() {
    let mut index = Index::default();
    index.set_tree(mk_tree(&[mk_cgroup(API, Some("api"), &[])]), Instant::now());
    index.set_pods(vec![mk_pod("api", &[])]);
    index.set_pods(vec![mk_pod("api", &[("c1", "app")])]);
    assert_eq!(index.identify(API), Some(&mk_pod("api", &[("c1", "app")])));
}

#[test]
fn one_pod_may_have_two_cgroups_for_a_while() {
    let mut index = Index::default();
    index.set_pods(vec![mk_pod("api", &[])]);
    let tree = [mk_cgroup(API, Some("api"), &[]), mk_cgroup(WORKER, Some("api"), &[])];
    index.set_tree(mk_tree(&tree), Instant::now());
    assert_eq!(counts(&index), (2, 0));
}

#[test]
fn a_departed_cgroup_is_known_until_it_is_forgotten() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let mut index = Index::default();
    index.set_pods(vec![mk_pod("api", &[("c1", "app")])]);
    index.set_tree(mk_tree(&[mk_cgroup(API, Some("api"), &[(APP, Some("c1"))])]), start);
    index.set_tree(mk_tree(&[]), start + second);
    index.set_tree(mk_tree(&[]), start + 2 * second);

    assert_eq!(names(&index), []);
    assert_eq!(counts(&index), (0, 0));
    assert_eq!(index.identify(API).map(|pod| pod.name.as_str()), Some("api"));
    assert_eq!(container_name(&index, API, APP), Some("app"));
    assert_eq!(index.departed_before(start + second), []);
    assert_eq!(index.departed_before(start + 2 * second), [API], "departed at the walk that first missed it");

    let named: Vec<_> = index.named().map(|(id, pod)| (id, pod.name.as_str())).collect();
    assert_eq!(named, [(API, "api")]);
    assert!(index.knows(API));

    index.forget(API);
    assert_eq!(index.identify(API), None);
    assert!(!index.knows(API));
    assert_eq!(index.departed_before(start + 3 * second), []);
}

#[test]
fn a_pod_listed_after_its_end_is_still_named() {
    let now = Instant::now();
    let mut index = Index::default();
    index.set_tree(mk_tree(&[mk_cgroup(API, Some("api"), &[])]), now);
    index.set_tree(mk_tree(&[]), now);
    index.set_pods(vec![mk_pod("api", &[])]);
    assert_eq!(index.identify(API), Some(&mk_pod("api", &[])));
    assert_eq!(names(&index), []);
}

#[test]
fn a_live_pod_is_not_forgotten() {
    let mut index = Index::default();
    index.set_pods(vec![mk_pod("api", &[])]);
    index.set_tree(mk_tree(&[mk_cgroup(API, Some("api"), &[])]), Instant::now());
    index.forget(API);
    assert!(index.identify(API).is_some());
}

#[test]
fn containers_are_named_as_far_as_the_list_knows_them() {
    let containers = [(APP, Some("c1")), (SANDBOX, Some("c0")), (CgroupId(13), None)];
    let mut index = Index::default();
    index.set_tree(mk_tree(&[mk_cgroup(API, Some("api"), &containers)]), Instant::now());
    let unnamed = Container { id: ContainerId::new("c1"), name: None };
    assert_eq!(index.container(API, APP), Some(&unnamed));

    index.set_pods(vec![mk_pod("api", &[("c1", "app")])]);
    assert_eq!(container_name(&index, API, APP), Some("app"));
    assert_eq!(container_name(&index, API, SANDBOX), None);
    assert_eq!(index.container(API, CgroupId(13)), None, "no container's name");
    assert_eq!(index.container(WORKER, APP), None, "another pod's");
}

#[test]
fn a_departed_container_keeps_its_name_until_the_walk_after_next() {
    let now = Instant::now();
    let tree = |containers| mk_tree(&[mk_cgroup(API, Some("api"), containers)]);
    let mut index = Index::default();
    index.set_pods(vec![mk_pod("api", &[("c1", "app")])]);
    index.set_tree(tree(&[(APP, Some("c1"))]), now);

    // It restarts: the list knows only its new id, the walk only its new cgroup.
    index.set_pods(vec![mk_pod("api", &[("c2", "app")])]);
    index.set_tree(tree(&[(SANDBOX, Some("c2"))]), now);
    assert_eq!(container_name(&index, API, APP), Some("app"));
    assert_eq!(container_name(&index, API, SANDBOX), Some("app"));

    index.set_tree(tree(&[(SANDBOX, Some("c2"))]), now);
    assert_eq!(index.container(API, APP), None);
    assert_eq!(container_name(&index, API, SANDBOX), Some("app"));
}
