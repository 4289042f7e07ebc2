use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::daemon::Daemon;
use super::network::{API_PORT, NODE, SERVICES};
use super::{NAME, Setting};

/// Who may call the API server with which token: name, number, groups. Only the node and its pods reach the server, so
/// the tokens need not be secret.
const TOKENS: [(&str, &str, &str); 3] = [
    ("admin-token", "admin", "system:masters"),
    ("kubelet-token", "system:node:node-1", "system:nodes"),
    ("scheduler-token", "system:kube-scheduler", ""),
];

/// Which requests are written down: all of the agent's, nobody else's.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, users: ['system:serviceaccount:imds-guard:imds-guard']}
- {level: None}
";

/// What runs of the many controllers: those that pods, their owners and their accounts need.
const CONTROLLERS: [&str; 13] = [
    "serviceaccount",
    "serviceaccount-token",
    "root-ca-cert-publisher",
    "clusterrole-aggregation",
    "namespace",
    "garbagecollector",
    "podgc",
    "nodelifecycle",
    "daemonset",
    "replicaset",
    "deployment",
    "job",
    "cronjob",
];

/// etcd, the API server, and what acts through it.
pub(super) struct ControlPlane<'a> {
    setting: &'a Setting<'a>,
    // In the order of their end.
    scheduler: Option<Daemon>,
    controllers: Option<Daemon>,
    api_server: Option<Daemon>,
    _etcd: Daemon,
}

impl<'a> ControlPlane<'a> {
    /// Starts etcd and the API server.
    pub(super) fn start(setting: &'a Setting<'a>) -> Result<Self> {
        fs::create_dir_all(pki(""))?;
        write("tokens.csv", &tokens())?;
        write("audit.yaml", AUDIT_POLICY)?;
        write("kubelet.kubeconfig", &kubeconfig("kubelet-token"))?;
        write("scheduler.kubeconfig", &kubeconfig("scheduler-token"))?;
        let admin = setting.folder.kubeconfig();
        fs::write(&admin, kubeconfig("admin-token")).with_context(|| format!("write {}", admin.display()))?;
        let etcd = Daemon::start(
            setting,
            "etcd",
            "etcd".as_ref(),
            [
                format!("--data-dir={}", Setting::place("etcd").display()),
                "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
                "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
                "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
                "--logger=zap".to_owned(),
                "--log-level=warn".to_owned(),
            ],
        )?;
        let api_server = start_api_server(setting)?;
        Ok(Self { setting, scheduler: None, controllers: None, api_server: Some(api_server), _etcd: etcd })
    }

    /// Waits until the API server has made the certificate that every client of it must find at its own start.
    pub(super) fn wait_for_certificate(&mut self) -> Result<()> {
        let Some(api_server) = &mut self.api_server else { return Ok(()) };
        api_server.wait_until("the API server's certificate", || Ok(pki("apiserver.crt").exists()))
    }

    /// Waits until the API server serves.
    pub(super) fn wait_until_ready(&mut self) -> Result<()> {
        let Some(api_server) = &mut self.api_server else { return Ok(()) };
        api_server.wait_until("the API server to be ready", || {
            // kubectl takes five times as long to say the same.
            let mut look = Command::new("curl");
            look.args(["--silent", "--fail", "--insecure", "--noproxy", "*", "--max-time", "5"]);
            look.arg(format!("https://{NODE}:{API_PORT}/readyz")).stdout(Stdio::null());
            Ok(look.status().context("start curl")?.success())
        })
    }

    /// Starts the controllers and the scheduler. The API server must be ready: they give up on one that is not.
    pub(super) fn start_controllers(&mut self) -> Result<()> {
        let kubeconfig = self.setting.folder.kubeconfig();
        let controllers = [
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--service-account-private-key-file={}", pki("apiserver.key").display()),
            format!("--root-ca-file={}", pki("apiserver.crt").display()),
            format!("--controllers={}", CONTROLLERS.join(",")),
            format!("--cert-dir={}", pki("").display()),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--port=0".to_owned(),
        ];
        self.controllers = Some(self.daemon("kube-controller-manager", controllers)?);
        let scheduler = [
            format!("--kubeconfig={}", Setting::place("scheduler.kubeconfig").display()),
            format!("--cert-dir={}", pki("").display()),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--port=0".to_owned(),
        ];
        self.scheduler = Some(self.daemon("kube-scheduler", scheduler)?);
        Ok(())
    }

    /// Waits until the controllers made what every pod needs.
    pub(super) fn wait_for_controllers(&mut self) -> Result<()> {
        let (kubectl, kubeconfig) = (self.setting.kubectl(), self.setting.folder.kubeconfig());
        let Some(controllers) = &mut self.controllers else { return Ok(()) };
        controllers.wait_until("the first service account", || {
            let mut look = Command::new(&kubectl);
            look.args(["get", "serviceaccount/default", "configmap/kube-root-ca.crt"]);
            look.env("KUBECONFIG", &kubeconfig).stdout(Stdio::null()).stderr(Stdio::null());
            Ok(look.status().context("start kubectl")?.success())
        })
    }

    /// Ends the API server as a crash would.
    pub(super) fn stop_api_server(&mut self) {
        self.api_server = None;
    }

    /// Starts the API server if it was stopped, and waits until it serves.
    pub(super) fn start_api_server(&mut self) -> Result<()> {
        if self.api_server.is_none() {
            self.api_server = Some(start_api_server(self.setting)?);
        }
        self.wait_until_ready()
    }

    fn daemon(&self, name: &'static str, arguments: impl IntoIterator<Item = String>) -> Result<Daemon> {
        Daemon::start(self.setting, name, &self.setting.kubernetes(name), arguments)
    }
}

/// It makes its certificate itself when there is none yet, and signs the accounts' tokens with that key too.
fn start_api_server(setting: &Setting<'_>) -> Result<Daemon> {
    let place = |name: &str| Setting::place(name).display().to_string();
    let key = pki("apiserver.key").display().to_string();
    let arguments = [
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        format!("--cert-dir={}", pki("").display()),
        "--bind-address=0.0.0.0".to_owned(),
        format!("--secure-port={API_PORT}"),
        "--insecure-port=0".to_owned(),
        format!("--advertise-address={NODE}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        format!("--token-auth-file={}", place("tokens.csv")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-signing-key-file={key}"),
        format!("--service-account-key-file={key}"),
        "--feature-gates=BoundServiceAccountTokenVolume=true".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--audit-policy-file={}", place("audit.yaml")),
        format!("--audit-log-path={}", setting.folder.audit().display()),
        "--profiling=false".to_owned(),
    ];
    Daemon::start(
        setting,
        "kube-apiserver",
        &setting.kubernetes("kube-apiserver"),
        arguments.map(OsString::from),
    )
}

fn tokens() -> String {
    let line = |(number, (token, user, groups)): (usize, &(&str, &str, &str))| {
        format!("{token},{user},{number},\"{groups}\"\n")
    };
    TOKENS.iter().enumerate().map(line).collect()
}

fn kubeconfig(token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\n\
         clusters: [{{name: {NAME}, cluster: {{server: 'https://{NODE}:{API_PORT}', certificate-authority: {}}}}}]\n\
         users: [{{name: user, user: {{token: {token}}}}}]\n\
         contexts: [{{name: {NAME}, context: {{cluster: {NAME}, user: user}}}}]\n\
         current-context: {NAME}\n",
        pki("apiserver.crt").display()
    )
}

fn pki(file: &str) -> PathBuf {
    Setting::place("pki").join(file)
}

fn write(name: &str, text: &str) -> Result<()> {
    let path = Setting::place(name);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}
