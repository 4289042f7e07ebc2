//! runc, without the limits that this machine may be unable to set.
//!
//! A machine with cgroup v1 and v2 side by side has its CPU and memory controllers on v1, and the private node sees v2
//! alone: runc would refuse every container with a limit. What a container may use is not what is tested here, so the
//! limits are taken out of its description; the rules for devices stay.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

fn main() -> Result<()> {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    if let Some(bundle) = created_bundle(&arguments) {
        drop_limits(&bundle.join("config.json"))?;
    }
    Err(Command::new("/usr/sbin/runc").args(arguments).exec()).context("start runc")
}

/// The bundle of `runc … create … --bundle PATH …`.
fn created_bundle(arguments: &[OsString]) -> Option<PathBuf> {
    arguments.iter().find(|argument| *argument == "create")?;
    let at = arguments.iter().position(|argument| argument == "--bundle" || argument == "-b")?;
    arguments.get(at + 1).map(PathBuf::from)
}

fn drop_limits(config: &Path) -> Result<()> {
    let text = fs::read(config).with_context(|| format!("read {}", config.display()))?;
    let mut value: Value =
        serde_json::from_slice(&text).with_context(|| format!("parse {}", config.display()))?;
    if let Some(Value::Object(resources)) = value.pointer_mut("/linux/resources") {
        let devices = resources.remove("devices");
        *resources = Map::from_iter(devices.map(|devices| ("devices".to_owned(), devices)));
    }
    fs::write(config, serde_json::to_vec(&value)?).with_context(|| format!("write {}", config.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bundle_of_a_new_container_is_found() {
        let cases = [
            ("--root /r --log-format json create --bundle /b --pid-file /p id", Some("/b")),
            ("--root /r create -b /b id", Some("/b")),
            ("--root /r exec --process /x --detach id", None),
            ("--root /r delete --force id", None),
        ];
        for (line, bundle) in cases {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(created_bundle(&arguments), bundle.map(PathBuf::from), "{line}");
        }
    }
}
