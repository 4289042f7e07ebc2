//! The pods that `kubectl get … -o json` printed into a file.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    Pod,
    object::{Metadata, Object, Reference, Spec, Status, Surroundings},
};

/// Why a list of pods can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("read pod list {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("pod list {path} is empty: `kubectl get pods,namespaces,nodes -A -o json` prints one")]
    Empty { path: PathBuf },
    #[error("pod list {path} ends too early: write it beside its place, then rename it there")]
    Truncated { path: PathBuf, source: serde_json::Error },
    #[error("parse pod list {path}: it must be what `kubectl get pods,namespaces,nodes -A -o json` prints")]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("pod list {path} is of kind `{kind}`: it must be a List, a PodList or a Pod")]
    Kind { path: PathBuf, kind: String },
    #[error("{item} in pod list {path} is of kind `{kind}`: only pods, namespaces and nodes belong there")]
    ItemKind { path: PathBuf, item: String, kind: String },
    #[error("{item} in pod list {path} has no {field}")]
    Lacks { path: PathBuf, item: String, field: &'static str },
}

/// Reads the list in the file at `path`, as [`parse_list`] does.
pub fn read_list(path: &Path, node: Option<&str>) -> Result<Vec<Pod>, ListError> {
    let json = fs::read(path).map_err(|source| ListError::Read { path: path.to_owned(), source })?;
    parse_list(path, &json, node)
}

/// The pods in `json`: a Pod, a `PodList`, or a List that may hold namespaces and nodes too, from which the pods get
/// the labels of theirs. With the name of a `node`, only its pods.
///
/// Pods that have ended are kept, for their cgroups can still be there. `path` is for the errors alone.
pub fn parse_list(path: &Path, json: &[u8], node: Option<&str>) -> Result<Vec<Pod>, ListError> {
    if json.trim_ascii().is_empty() {
        return Err(ListError::Empty { path: path.to_owned() });
    }
    let document: Document = serde_json::from_slice(json).map_err(|source| {
        let path = path.to_owned();
        if source.is_eof() {
            ListError::Truncated { path, source }
        } else {
            ListError::Parse { path, source }
        }
    })?;
    let (pods, surroundings) = sort(path, document.into_objects(path)?)?;
    let here = |pod: &Object| node.is_none_or(|node| pod.spec.node_name == node);
    let pods: Vec<_> = pods
        .into_iter()
        .filter(|(_, pod)| here(pod))
        .map(|(index, pod)| {
            pod.pod(&surroundings).map_err(|field| ListError::Lacks {
                path: path.to_owned(),
                item: label(index, &pod.metadata),
                field,
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(super::without_shared_uids(pods))
}

/// What the file holds as a whole: a list with items, or one object.
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    kind: String,
    items: Option<Vec<Object>>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

impl Document {
    fn into_objects(self, path: &Path) -> Result<Vec<Object>, ListError> {
        let Self { kind, items, metadata, spec, status } = self;
        match kind.as_str() {
            "List" | "PodList" => Ok(items.unwrap_or_default()),
            "Pod" => Ok(vec![Object { kind: Some(kind), metadata, spec, status }]),
            _ => Err(ListError::Kind { path: path.to_owned(), kind }),
        }
    }
}

/// Parts the pods, each with its place in the list, from what they lie in.
fn sort(path: &Path, objects: Vec<Object>) -> Result<(Vec<(usize, Object)>, Surroundings), ListError> {
    let mut pods = Vec::new();
    let mut surroundings = Surroundings::default();
    for (index, object) in objects.into_iter().enumerate() {
        match object.kind.as_deref() {
            Some("Pod") | None => pods.push((index, object)),
            Some("Namespace") => {
                surroundings.insert(Reference::Namespace(object.metadata.name.clone()), object.metadata);
            }
            Some("Node") => {
                surroundings.insert(Reference::Node(object.metadata.name.clone()), object.metadata);
            }
            Some(kind) => {
                let (kind, item) = (kind.to_owned(), label(index, &object.metadata));
                return Err(ListError::ItemKind { path: path.to_owned(), item, kind });
            }
        }
    }
    Ok((pods, surroundings))
}

/// How an error calls the item at `index`: by its name as far as it has one.
fn label(index: usize, metadata: &Metadata) -> String {
    let Metadata { name, namespace, .. } = metadata;
    match (namespace.is_empty(), name.is_empty()) {
        (_, true) => format!("items[{index}]"),
        (true, false) => format!("items[{index}] ({name})"),
        (false, false) => format!("items[{index}] ({namespace}/{name})"),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use serde_json::{Value, json};

    use super::*;

    fn parse(list: &Value, node: Option<&str>) -> Result<Vec<Pod>, ListError> {
        parse_list(Path::new("pods.json"), list.to_string().as_bytes(), node)
    }

    fn mk_pod(name: &str, uid: &str, node: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": "payments", "uid": uid },
            "spec": { "nodeName": node, "serviceAccountName": "api" },
            "status": { "phase": "Succeeded" },
        })
    }

    fn names(pods: &[Pod]) -> Vec<&str> {
        pods.iter().map(|pod| pod.name.as_str()).collect()
    }

    #[test]
    fn every_form_that_kubectl_prints_is_read() {
        let (a, b) = (mk_pod("a", "1", "n1"), mk_pod("b", "2", "n2"));
        let mut untyped = a.clone();
        untyped.as_object_mut().expect("an object").remove("kind");
        let cases = [
            ("a pod", a.clone(), None, &["a"][..]),
            ("a list", json!({ "kind": "List", "items": [a, b] }), None, &["a", "b"]),
            ("a list of one node", json!({ "kind": "List", "items": [a, b] }), Some("n2"), &["b"]),
            ("a typed list", json!({ "kind": "PodList", "metadata": {}, "items": [untyped] }), None, &["a"]),
            ("no pods", json!({ "kind": "PodList", "items": null }), None, &[]),
        ];
        for (case, list, node, expected) in cases {
            let pods = parse(&list, node).expect(case);
            assert_eq!(names(&pods), expected, "{case}");
        }
    }

    #[test]
    fn a_mixed_list_gives_pods_the_labels_of_their_namespace_and_node() {
        let labelled = |kind: &str, name: &str| {
            json!({
                "kind": kind,
                "metadata": { "name": name, "labels": { "of": format!("{kind} {name}") } },
                "spec": { "finalizers": ["kubernetes"], "podCIDR": "10.0.0.0/24" },
                "status": { "phase": "Active", "conditions": [] },
            })
        };
        let items = json!([
            mk_pod("a", "1", "n1"),
            labelled("Namespace", "payments"),
            labelled("Namespace", "ingest"),
            labelled("Node", "n1"),
            labelled("Node", "n2"),
        ]);
        let pods = parse(&json!({ "kind": "List", "items": items }), Some("n1")).expect("valid");
        let workload = &pods[0].workload;
        assert_eq!(workload.namespace_labels["of"], "Namespace payments");
        assert_eq!(workload.namespace_labels["kubernetes.io/metadata.name"], "payments");
        assert_eq!(workload.node_labels["of"], "Node n1");
        assert_eq!(workload.service_account, "api");
    }

    #[test]
    fn what_can_not_be_used_is_refused_with_its_reason() {
        let list = |items: Value| json!({ "kind": "List", "items": items }).to_string();
        let cases = [
            (
                "  \n".to_owned(),
                "pod list pods.json is empty: `kubectl get pods,namespaces,nodes -A -o json` prints one",
                None,
            ),
            (
                "{\n  \"kind\": \"List\",\n  \"items\": [".to_owned(),
                "pod list pods.json ends too early: write it beside its place, then rename it there",
                Some("EOF while parsing a list at line 3 column 12"),
            ),
            (
                "kind: List".to_owned(),
                "parse pod list pods.json: it must be what `kubectl get pods,namespaces,nodes -A -o json` prints",
                Some("expected value at line 1 column 1"),
            ),
            (
                "{\n \"kind\": \"Pod\",\n \"spec\": { \"hostNetwork\": \"yes\" }\n}".to_owned(),
                "parse pod list pods.json: it must be what `kubectl get pods,namespaces,nodes -A -o json` prints",
                Some("invalid type: string \"yes\", expected a boolean at line 3 column 31"),
            ),
            (
                json!({ "kind": "Deployment", "spec": {} }).to_string(),
                "pod list pods.json is of kind `Deployment`: it must be a List, a PodList or a Pod",
                None,
            ),
            (
                list(json!([mk_pod("a", "1", "n1"), { "kind": "Secret", "metadata": { "name": "s" } }])),
                "items[1] (s) in pod list pods.json is of kind `Secret`: only pods, namespaces and nodes belong there",
                None,
            ),
            (
                list(json!([mk_pod("a", "", "n1")])),
                "items[0] (payments/a) in pod list pods.json has no metadata.uid",
                None,
            ),
            (list(json!([{ "kind": "Pod" }])), "items[0] in pod list pods.json has no metadata.name", None),
        ];
        for (json, message, source) in cases {
            let error = parse_list(Path::new("pods.json"), json.as_bytes(), None).expect_err(message);
            assert_eq!(error.to_string(), message);
            assert_eq!(error.source().map(ToString::to_string).as_deref(), source, "{message}");
        }
    }

    #[test]
    fn pods_that_claim_one_cgroup_are_left_out_and_the_others_stay() {
        let hash = "0123456789abcdef0123456789abcdef";
        let mirror = |name: &str, uid: &str| {
            let mut pod = mk_pod(name, uid, "n1");
            pod["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": hash });
            pod
        };
        let items =
            json!([mk_pod("a", "1", "n1"), mirror("b", "2"), mirror("c", "3"), mk_pod("d", "4", "n1")]);
        let pods = parse(&json!({ "kind": "List", "items": items }), None).expect("valid");
        let names: Vec<_> = pods.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(names, ["a", "d"]);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read_list(Path::new("/nowhere/pods.json"), None).expect_err("not there");
        assert_eq!(error.to_string(), "read pod list /nowhere/pods.json");
    }
}
