//! What the kubelet and the container runtimes mean by a cgroup folder's name.
//!
//! Two drivers write them. `cgroupfs` nests plain names, `kubepods/burstable/pod<uid>/<container>`; `systemd` spells
//! the whole path in every name, `kubepods-burstable-pod<uid>.slice/cri-containerd-<container>.scope`, with `_` for
//! the dashes of the uid, and puts the kubelet's own cgroup root, if it has one, in front.

use super::{ContainerId, PodUid};

/// What a folder below the guarded root is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// `burstable` or `besteffort`, which pods lie in. Guaranteed pods lie in the guarded root itself.
    Slice,
    Pod(PodUid),
    /// Neither: what lies in it is a pod that can't be named.
    Other,
}

const QOS_CLASSES: [&str; 2] = ["besteffort", "burstable"];

/// The length of the ids that containerd, CRI-O and Docker give.
const CONTAINER_ID_LEN: usize = 64;

/// What the folder `name` below the guarded root is.
pub(super) fn name(name: &str) -> Name {
    let (last, dash) = match name.strip_suffix(".slice") {
        Some(path) => match path.rsplit_once('-') {
            Some((parent, last)) if is_kubepods(parent) => (last, '_'),
            _ => return Name::Other,
        },
        None => (name, '-'),
    };
    if QOS_CLASSES.contains(&last) {
        return Name::Slice;
    }
    match last.strip_prefix("pod") {
        Some(uid) if is_uuid(uid, dash) || is_static_pod_hash(uid) => {
            Name::Pod(PodUid::new(uid.replace(dash, "-")))
        }
        _ => Name::Other,
    }
}

/// The container whose folder in a pod's cgroup is `name`. The runtimes put their own name before the id; CRI-O's
/// monitor of a container (`crio-conmon-<id>`) counts as that container.
pub(super) fn container(name: &str) -> Option<ContainerId> {
    let unit = name.strip_suffix(".scope").unwrap_or(name);
    let id = unit.rsplit_once('-').map_or(unit, |(_, id)| id);
    (id.len() == CONTAINER_ID_LEN && is_hex(id)).then(|| ContainerId::new(id))
}

/// Whether the folder `name` is one under which a kubelet keeps all its pods.
pub(super) fn is_guarded_root(name: &str) -> bool {
    name == "kubepods" || name.strip_suffix(".slice").is_some_and(|path| last_component(path) == "kubepods")
}

/// Whether `uid` is the manifest hash by which the kubelet knows a static pod: MD5 in hex, which no uid from the API
/// looks like.
pub(super) fn is_static_pod_hash(uid: &str) -> bool {
    uid.len() == 32 && is_hex(uid)
}

/// Whether pods lie in the systemd slice whose name without `.slice` is `path`: a guarded root, or a class in it.
fn is_kubepods(path: &str) -> bool {
    let root =
        QOS_CLASSES.iter().find_map(|class| path.strip_suffix(class)?.strip_suffix('-')).unwrap_or(path);
    last_component(root) == "kubepods"
}

fn last_component(path: &str) -> &str {
    path.rsplit_once('-').map_or(path, |(_, last)| last)
}

fn is_uuid(uid: &str, dash: char) -> bool {
    uid.split(dash).map(str::len).eq([8, 4, 4, 4, 12]) && uid.split(dash).all(is_hex)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
    const UID_IN_SYSTEMD: &str = "0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9";
    const HASH: &str = "f8b0f2c1a5d94e6b8c7d1e2f3a4b5c6d";
    const CONTAINER: &str = "5f3c9d1b7a2e4c6d8f0b1a3c5e7d9f2b4a6c8e0d1f3b5a7c9e2d4f6b8a0c1e3d";

    #[test]
    fn every_driver_and_qos_class_is_understood() {
        let pod = |uid: &str| Name::Pod(PodUid::new(uid));
        let cases = [
            ("besteffort", Name::Slice),
            ("burstable", Name::Slice),
            (&format!("pod{UID}"), pod(UID)),
            (&format!("pod{HASH}"), pod(HASH)),
            ("kubepods-besteffort.slice", Name::Slice),
            ("kubepods-burstable.slice", Name::Slice),
            (&format!("kubepods-pod{UID_IN_SYSTEMD}.slice"), pod(UID)),
            (&format!("kubepods-burstable-pod{UID_IN_SYSTEMD}.slice"), pod(UID)),
            (&format!("kubepods-besteffort-pod{HASH}.slice"), pod(HASH)),
            ("kubelet-kubepods-besteffort.slice", Name::Slice),
            (&format!("kubelet-kubepods-pod{UID_IN_SYSTEMD}.slice"), pod(UID)),
            (&format!("kubelet-kubepods-besteffort-pod{UID_IN_SYSTEMD}.slice"), pod(UID)),
        ];
        for (folder, expected) in cases {
            assert_eq!(name(folder), expected, "{folder}");
        }
    }

    #[test]
    fn what_is_neither_class_nor_pod_is_other() {
        let cases = [
            "",
            "guaranteed",
            "system.slice",
            "pod",
            "podman",
            "pod0a1b2c3d",
            &format!("pod{UID_IN_SYSTEMD}"),
            &format!("pod{UID}0"),
            &format!("kubepods-pod{UID}.slice"),
            &format!("system-pod{UID_IN_SYSTEMD}.slice"),
            &format!("notkubepods-burstable-pod{UID_IN_SYSTEMD}.slice"),
            &format!("kubepods-elastic-pod{UID_IN_SYSTEMD}.slice"),
            CONTAINER,
        ];
        for folder in cases {
            assert_eq!(name(folder), Name::Other, "{folder}");
        }
    }

    #[test]
    fn a_container_is_found_behind_every_runtime_s_prefix() {
        for prefix in ["", "crio-", "crio-conmon-"] {
            assert_eq!(
                container(&format!("{prefix}{CONTAINER}")),
                Some(ContainerId::new(CONTAINER)),
                "{prefix}"
            );
        }
        for prefix in ["cri-containerd-", "crio-", "crio-conmon-", "docker-"] {
            let folder = format!("{prefix}{CONTAINER}.scope");
            assert_eq!(container(&folder), Some(ContainerId::new(CONTAINER)), "{folder}");
        }
        for folder in ["", "init", "cafe", "init.scope", &CONTAINER[1..], &format!("{CONTAINER}.slice")] {
            assert_eq!(container(folder), None, "{folder}");
        }
    }

    #[test]
    fn a_guarded_root_is_told_by_its_name() {
        for folder in ["kubepods", "kubepods.slice", "kubelet-kubepods.slice", "k3s-agent-kubepods.slice"] {
            assert!(is_guarded_root(folder), "{folder}");
        }
        for folder in
            ["", "kubelet", "kubelet.slice", "kubepods-burstable.slice", "mykubepods.slice", "a-kubepods"]
        {
            assert!(!is_guarded_root(folder), "{folder}");
        }
    }
}
