use super::Qos;

/// Who names the cgroups of pods: the kubelet's two cgroup drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Cgroupfs,
    Systemd,
}

impl Driver {
    pub const ALL: [Self; 2] = [Self::Cgroupfs, Self::Systemd];

    /// The cgroup under which all pods live.
    pub(super) fn guarded_root(self) -> &'static str {
        match self {
            Self::Cgroupfs => "kubepods",
            Self::Systemd => "kubepods.slice",
        }
    }

    /// The cgroup of a class, below the guarded root; guaranteed pods have none of their own.
    pub(super) fn class(self, qos: Qos) -> Option<String> {
        match (self, qos) {
            (_, Qos::Guaranteed) => None,
            (Self::Cgroupfs, _) => Some(qos.folder().to_owned()),
            (Self::Systemd, _) => Some(format!("kubepods-{}.slice", qos.folder())),
        }
    }

    /// The cgroup of a pod, below its class.
    pub(super) fn pod(self, qos: Qos, uid: &str) -> String {
        match (self, qos) {
            (Self::Cgroupfs, _) => format!("pod{uid}"),
            // systemd reads a dash as a step down the tree.
            (Self::Systemd, Qos::Guaranteed) => format!("kubepods-pod{}.slice", uid.replace('-', "_")),
            (Self::Systemd, _) => format!("kubepods-{}-pod{}.slice", qos.folder(), uid.replace('-', "_")),
        }
    }

    /// The cgroup of a container, below its pod, as containerd names it.
    pub(super) fn container(self, id: &str) -> String {
        match self {
            Self::Cgroupfs => id.to_owned(),
            Self::Systemd => format!("cri-containerd-{id}.scope"),
        }
    }
}

impl Qos {
    fn folder(self) -> &'static str {
        match self {
            Self::Guaranteed => "guaranteed",
            Self::Burstable => "burstable",
            Self::BestEffort => "besteffort",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_named_as_the_kubelet_and_containerd_do() {
        let uid = "0a1b2c3d-0000-4000-8000-000000000001";
        let cases = [
            (Driver::Cgroupfs, Qos::Guaranteed, None, "pod0a1b2c3d-0000-4000-8000-000000000001"),
            (Driver::Cgroupfs, Qos::Burstable, Some("burstable"), "pod0a1b2c3d-0000-4000-8000-000000000001"),
            (
                Driver::Systemd,
                Qos::Guaranteed,
                None,
                "kubepods-pod0a1b2c3d_0000_4000_8000_000000000001.slice",
            ),
            (
                Driver::Systemd,
                Qos::BestEffort,
                Some("kubepods-besteffort.slice"),
                "kubepods-besteffort-pod0a1b2c3d_0000_4000_8000_000000000001.slice",
            ),
        ];
        for (driver, qos, class, pod) in cases {
            assert_eq!(driver.class(qos).as_deref(), class, "{driver:?} {qos:?}");
            assert_eq!(driver.pod(qos, uid), pod, "{driver:?} {qos:?}");
        }
        assert_eq!(Driver::Systemd.container("00ff"), "cri-containerd-00ff.scope");
    }
}
