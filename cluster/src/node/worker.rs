use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result};

use super::daemon::Daemon;
use super::network::{NODE, PODS};
use super::{NAME, STARTUP_TAINT, Setting};
use crate::image::PAUSE_IMAGE;

/// Where containerd listens: where its client looks by itself.
const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// What runs pods: containerd and the kubelet.
pub(super) struct Worker<'a> {
    setting: &'a Setting<'a>,
    kubelet: Option<Daemon>,
    containerd: Daemon,
}

impl<'a> Worker<'a> {
    /// Starts containerd.
    pub(super) fn start_runtime(setting: &'a Setting<'a>) -> Result<Self> {
        write("containerd.toml", &containerd_config()?)?;
        write("cni/10-bridge.conflist", &bridge())?;
        let arguments = ["--config".into(), Setting::place("containerd.toml")];
        let containerd = Daemon::start(setting, "containerd", "containerd".as_ref(), arguments)?;
        Ok(Self { setting, kubelet: None, containerd })
    }

    /// Waits until containerd answers.
    pub(super) fn wait_for_runtime(&mut self) -> Result<()> {
        self.containerd.wait_until("containerd to answer", || {
            let mut look = Command::new("ctr");
            look.args(["--connect-timeout", "1s", "version"]).stdout(Stdio::null()).stderr(Stdio::null());
            Ok(look.status().context("start ctr")?.success())
        })
    }

    /// Starts the kubelet. The cgroups that it makes for pods must not be there yet. It looks for a Docker for its first
    /// five seconds, whether the API server is ready or not.
    pub(super) fn start_kubelet(&mut self) -> Result<()> {
        write("kubelet.yaml", &kubelet_config(&self.setting.folder.static_pods()))?;
        let place = |name: &str| Setting::place(name).display().to_string();
        let arguments = [
            format!("--config={}", place("kubelet.yaml")),
            format!("--kubeconfig={}", place("kubelet.kubeconfig")),
            format!("--hostname-override={NAME}"),
            format!("--node-ip={NODE}"),
            format!("--register-with-taints={STARTUP_TAINT}=:NoSchedule"),
            "--container-runtime=remote".to_owned(),
            format!("--container-runtime-endpoint=unix://{CONTAINERD}"),
            format!("--pod-infra-container-image={PAUSE_IMAGE}"),
            "--v=1".to_owned(),
        ];
        let kubelet = self.setting.kubernetes("kubelet");
        self.kubelet = Some(Daemon::start(self.setting, "kubelet", &kubelet, arguments)?);
        Ok(())
    }

    /// Waits until the node is ready for pods.
    pub(super) fn wait_for_node(&mut self) -> Result<()> {
        let (kubectl, kubeconfig) = (self.setting.kubectl(), self.setting.folder.kubeconfig());
        let Some(kubelet) = &mut self.kubelet else { return Ok(()) };
        let what = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status} {.spec.taints[*].key}"#;
        let ready = format!("True {STARTUP_TAINT}");
        kubelet.wait_until("the node to be ready", || {
            let mut look = Command::new(&kubectl);
            look.args(["get", "node", NAME, "--output", what]).env("KUBECONFIG", &kubeconfig);
            let output = look.output().context("start kubectl")?;
            Ok(String::from_utf8_lossy(&output.stdout) == ready)
        })
    }
}

/// Everything that is its own lies below the node's `/run`. Adjusting the OOM score needs a capability that machines
/// withhold.
fn containerd_config() -> Result<String> {
    let runc = env::current_exe().context("find this program")?.with_file_name("guard-runc");
    Ok(format!(
        r#"version = 2
root = "{root}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{CONTAINERD}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "{runc}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
"#,
        root = Setting::place("containerd").display(),
        opt = Setting::place("containerd-opt").display(),
        runc = runc.display(),
        cni = Setting::place("cni").display(),
    ))
}

fn bridge() -> String {
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "pods", "plugins": [{{
  "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
  "ipam": {{"type": "host-local", "dataDir": "{}", "ranges": [[{{"subnet": "{PODS}"}}]],
           "routes": [{{"dst": "0.0.0.0/0"}}]}}
}}]}}
"#,
        Setting::place("addresses").display()
    )
}

/// It may neither change a setting of the machine nor throw a pod out for the machine's lack of room.
fn kubelet_config(static_pods: &Path) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {NODE}
readOnlyPort: 0
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
featureGates: {{BoundServiceAccountTokenVolume: true}}
cgroupDriver: cgroupfs
enforceNodeAllocatable: []
failSwapOn: false
protectKernelDefaults: true
makeIPTablesUtilChains: false
resolvConf: ''
evictionHard: {{}}
imageGCHighThresholdPercent: 100
oomScoreAdj: 0
staticPodPath: {}
fileCheckFrequency: 1s
syncFrequency: 5s
nodeStatusUpdateFrequency: 1s
volumePluginDir: /var/lib/kubelet/volume-plugins
volumeStatsAggPeriod: 0s
",
        static_pods.display()
    )
}

fn write(name: &str, text: &str) -> Result<()> {
    let path = Setting::place(name);
    fs::create_dir_all(path.parent().context("a name has a folder")?)
        .and_then(|()| fs::write(&path, text))
        .with_context(|| format!("write {}", path.display()))
}
