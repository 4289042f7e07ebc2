//! The programs that run in the machines, built on this one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{arch::Arch, cross};
use crate::{
    run::{cargo_command, run, shown, target, workspace},
    setup::quietly,
};

/// The executables of one architecture.
pub(super) struct Programs {
    arch: Arch,
    /// Each with its place in the machine, below `/guard`. Tests lie as in cargo's folder, so that they find the others.
    executables: Vec<(PathBuf, PathBuf)>,
}

impl Programs {
    /// Builds the agent, what the tests start, and the test programs of these names.
    pub(super) fn build(arch: Arch, tests: &[String]) -> Result<Self> {
        let mut build = cargo("build", arch)?;
        let mut test_build = cargo("test", arch)?;
        run(build.args([
            "--package",
            "imds-guard",
            "--package",
            "guard-tests",
            "--bin",
            "imds-guard",
            "--bin",
            "guard-attack",
        ]))?;
        test_build.args([
            "--no-run",
            "--package",
            "guard-tests",
            "--message-format",
            "json-render-diagnostics",
        ]);
        test_build.args(tests.iter().flat_map(|test| ["--test", test.as_str()]));
        let mut folder = target();
        if Arch::native() != Some(arch) {
            folder.push(arch.target());
        }
        let folder = folder.join("debug");
        let mut executables: Vec<(PathBuf, PathBuf)> =
            ["imds-guard", "guard-attack"].map(|name| (name.into(), folder.join(name))).into();
        let found = test_executables(&mut test_build)?;
        for test in tests {
            let path = found.iter().find(|(name, _)| name == test).map(|(_, path)| path.clone());
            let path = path.with_context(|| format!("cargo built no test `{test}`"))?;
            executables.push((Path::new("deps").join(test), path));
        }
        Ok(Self { arch, executables })
    }

    /// The same without what debuggers need, which is most of them; each with its place in the machine.
    pub(super) fn stripped(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let folder = target().join("vm").join(self.arch.debian());
        let strip = match Arch::native() {
            Some(native) if native == self.arch => "strip".to_owned(),
            _ => format!("{}-strip", self.arch.tools()),
        };
        let mut stripped = Vec::new();
        for (place, path) in &self.executables {
            let result = folder.join(place);
            let parent = result.parent().unwrap_or(&folder);
            fs::create_dir_all(parent).with_context(|| format!("make the folder {}", parent.display()))?;
            quietly("stripping", Command::new(&strip).arg("--strip-debug").arg(path).arg("-o").arg(&result))?;
            stripped.push((place.clone(), result));
        }
        Ok(stripped)
    }
}

fn cargo(command: &str, arch: Arch) -> Result<Command> {
    if Arch::native() == Some(arch) {
        let mut cargo = cargo_command();
        cargo.arg(command);
        return Ok(cargo);
    }
    cross::cargo(command, arch)
}

/// Runs cargo and returns the test executables that it says it made, by their names.
fn test_executables(cargo: &mut Command) -> Result<Vec<(String, PathBuf)>> {
    let shown = shown(cargo);
    let output = cargo.current_dir(workspace()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("start {shown}"))?;
    if !output.status.success() {
        bail!("{shown} failed ({})", output.status);
    }
    let text = String::from_utf8(output.stdout).context("read what cargo made")?;
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        Some((message["target"]["name"].as_str()?.to_owned(), message["executable"].as_str()?.into()))
    };
    let found: Vec<_> = text.lines().filter_map(executable).collect();
    ensure!(!found.is_empty(), "{shown} made nothing");
    Ok(found)
}
