//! Kubernetes itself, built once from Debian's source package, which has all that it depends on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
};

use anyhow::{Context, Result, bail};

use super::parts::install;
use crate::setup::{cache, output, quietly};

const VERSION: &str = "1.20.2";

/// The programs of a cluster; Debian has packages of the clients alone.
const PROGRAMS: [&str; 4] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"];

/// What the build needs. The last one takes the place of the source's own copy.
const BUILD_PACKAGES: [&str; 5] =
    ["dpkg-dev", "golang-go", "make", "rsync", "golang-github-modern-go-reflect2-dev"];

/// A library of Go that reaches into Go's own structures, by its place in `vendor` and in Debian's package. The copy in
/// the source does not know today's Go: an API server built with it crashes after some minutes.
const REFLECT: &str = "github.com/modern-go/reflect2";

/// The folder with the programs, from the cache if they are there and start.
pub(super) fn find_or_build() -> Result<PathBuf> {
    let folder = cache()?.join(format!("kubernetes-{VERSION}"));
    if PROGRAMS.iter().all(|program| starts(&folder.join(program))) {
        return Ok(folder);
    }
    install(&BUILD_PACKAGES, "building Kubernetes")?;
    let build = Build::in_cache()?;
    let source = build.fetch_source()?;
    build.make(&source)?;
    build.keep(&source, &folder)?;
    Ok(folder)
}

fn starts(program: &Path) -> bool {
    output(Command::new(program).arg("--version"))
        .is_some_and(|said| said == format!("Kubernetes v{VERSION}"))
}

/// A folder to build in: some 3 GB, removed when dropped.
struct Build(PathBuf);

impl Build {
    fn in_cache() -> Result<Self> {
        let cache = cache()?;
        let prefix = format!("kubernetes-{VERSION}.build-");
        for entry in fs::read_dir(&cache)?.flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(&prefix));
            if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
                fs::remove_dir_all(entry.path())
                    .with_context(|| format!("remove an interrupted build, {}", entry.path().display()))?;
            }
        }
        let build = Self(cache.join(format!("{prefix}{}", process::id())));
        fs::create_dir(&build.0).with_context(|| format!("make the folder {}", build.0.display()))?;
        Ok(build)
    }

    /// Unpacks Debian's source package, found by a configuration of apt that is this build's own.
    fn fetch_source(&self) -> Result<PathBuf> {
        let sources = self.0.join("sources");
        for folder in [sources.clone(), self.0.join("lists/partial")] {
            fs::create_dir_all(&folder).with_context(|| format!("make the folder {}", folder.display()))?;
        }
        for (number, path) in machine_sources()?.iter().enumerate() {
            let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            let kind = path.extension().unwrap_or_default().to_string_lossy();
            let private = sources.join(format!("{number}.{kind}"));
            fs::write(&private, for_sources(&kind, &text))
                .with_context(|| format!("write {}", private.display()))?;
        }
        quietly("reading the lists of Debian's sources", self.apt().arg("update"))?;
        quietly(
            &format!("fetching the source of Kubernetes {VERSION}"),
            self.apt().args(["source", "--only-source", "kubernetes"]),
        )?;
        let unpacked = fs::read_dir(&self.0)?.flatten().map(|entry| entry.path());
        let source = unpacked.into_iter().find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            path.is_dir() && name.starts_with("kubernetes-") && name.ends_with(VERSION)
        });
        let Some(source) = source else {
            bail!("this Debian's source of Kubernetes is not {VERSION}, which Debian 12 has");
        };
        Ok(source)
    }

    /// An apt-get that reads the private sources and keeps its lists in the build's folder.
    fn apt(&self) -> Command {
        let mut apt = Command::new("apt-get");
        for (option, value) in [
            ("Dir::Etc::SourceList", PathBuf::from("/dev/null")),
            ("Dir::Etc::SourceParts", self.0.join("sources")),
            ("Dir::State::Lists", self.0.join("lists")),
            // The build's folder may lie where apt's own user cannot go.
            ("APT::Sandbox::User", "root".into()),
        ] {
            apt.arg("--option").arg(format!("{option}={}", value.display()));
        }
        apt.current_dir(&self.0);
        apt
    }

    fn make(&self, source: &Path) -> Result<()> {
        let vendored = source.join("vendor").join(REFLECT);
        fs::remove_dir_all(&vendored).with_context(|| format!("remove {}", vendored.display()))?;
        let debian = Path::new("/usr/share/gocode/src").join(REFLECT);
        quietly(
            "taking Debian's reflect2",
            Command::new("cp").arg("--recursive").arg(debian).arg(&vendored),
        )?;

        // Go without modules wants the source to lie where its name says.
        let gopath = source.join(".go");
        let inside = gopath.join("src/k8s.io");
        fs::create_dir_all(&inside).with_context(|| format!("make the folder {}", inside.display()))?;
        std::os::unix::fs::symlink("../../..", inside.join("kubernetes"))
            .context("link the source into GOPATH")?;
        let what = PROGRAMS.map(|program| format!("cmd/{program}")).join(" ");
        quietly(
            &format!("building Kubernetes {VERSION} (about eight minutes, once)"),
            Command::new("make")
                .arg(format!("WHAT={what}"))
                .current_dir(inside.join("kubernetes"))
                // `make` must find itself by the path through GOPATH.
                .env("PWD", inside.join("kubernetes"))
                .env("GOPATH", &gopath)
                .env("GO111MODULE", "auto")
                .env("CGO_ENABLED", "0")
                .env("KUBE_GIT_VERSION", format!("v{VERSION}"))
                .env("KUBE_GIT_TREE_STATE", "archive")
                .env("KUBE_GIT_COMMIT", "unknown")
                .env("HOME", &self.0)
                .env_remove("MAKEFLAGS"),
        )
    }

    /// Puts the programs into the cache, all of them or none.
    fn keep(&self, source: &Path, folder: &Path) -> Result<()> {
        let aside = self.0.join("programs");
        fs::create_dir(&aside)?;
        for program in PROGRAMS {
            let built = source.join("_output/bin").join(program);
            if !starts(&built) {
                bail!("{} was built and does not start", built.display());
            }
            fs::copy(&built, aside.join(program)).with_context(|| format!("copy {}", built.display()))?;
        }
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        fs::rename(&aside, folder).with_context(|| format!("make {}", folder.display()))
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("left behind: {}: {error}", self.0.display());
        }
    }
}

/// The files by which the machine's apt knows where packages come from.
fn machine_sources() -> Result<Vec<PathBuf>> {
    let etc = Path::new("/etc/apt");
    let mut found = Vec::from_iter(Some(etc.join("sources.list")).filter(|path| path.is_file()));
    let parts = etc.join("sources.list.d");
    for entry in fs::read_dir(&parts).with_context(|| format!("list {}", parts.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "list" || kind == "sources") {
            found.push(path);
        }
    }
    Ok(found)
}

/// The same places, for sources instead of programs. There are two formats, known by the file's name.
fn for_sources(kind: &str, text: &str) -> String {
    let line = |line: &str| match line.trim_start().split_once(char::is_whitespace) {
        Some(("deb", rest)) if kind == "list" => format!("deb-src {rest}\n"),
        Some((field, _)) if kind == "sources" && field.eq_ignore_ascii_case("types:") => {
            "Types: deb-src\n".to_owned()
        }
        // A list that has sources already would have them twice.
        Some(("deb-src", _)) if kind == "list" => String::new(),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::for_sources;

    #[test]
    fn both_formats_of_apts_sources_are_turned_into_sources_of_source() {
        let list = "# comment\ndeb [signed-by=/k.gpg] http://h/debian bookworm main\ndeb-src http://h/debian bookworm main\n";
        assert_eq!(
            for_sources("list", list),
            "# comment\ndeb-src [signed-by=/k.gpg] http://h/debian bookworm main\n"
        );
        let sources = "Types: deb deb-src\nURIs: http://h/debian\nSuites: bookworm\nSigned-By: /k.gpg\n";
        assert_eq!(
            for_sources("sources", sources),
            "Types: deb-src\nURIs: http://h/debian\nSuites: bookworm\nSigned-By: /k.gpg\n"
        );
    }
}
