//! Debian's packages of other releases and architectures, beside the machine's own: nothing is installed.
//!
//! Each [`Suite`] has sources, lists and a (empty) list of installed packages of its own, in the cache. Where Debian is
//! found it learns from the machine's own sources.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::setup::{cache, output, quietly};

/// Debian's keys, where its own packages put them.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One release of Debian, for one architecture.
pub(super) struct Suite {
    name: String,
    architecture: &'static str,
    folder: PathBuf,
}

impl Suite {
    /// A suite by its name (`bookworm-security`), with fresh lists.
    pub(super) fn open(name: &str, architecture: &'static str) -> Result<Self> {
        let folder = cache()?.join("vm/apt").join(format!("{name}-{architecture}"));
        for part in ["lists/partial", "archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("make the folder {}", part.display()))?;
        }
        let keys = if Path::new(KEYS).exists() { format!("Signed-By: {KEYS}\n") } else { String::new() };
        let text =
            format!("Types: deb\nURIs: {}\nSuites: {name}\nComponents: main\n{keys}", mirror_of(name)?);
        let settings = settings(&folder, architecture);
        for (file, text) in [("suite.sources", text.as_str()), ("status", ""), ("apt.conf", &settings)] {
            let path = folder.join(file);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        let suite = Self { name: name.to_owned(), architecture, folder };
        quietly(&format!("reading the lists of {name} for {architecture}"), suite.get().arg("update"))?;
        Ok(suite)
    }

    /// The names of packages that match a regular expression.
    pub(super) fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let found = output(self.command("apt-cache").args(["search", "--names-only", pattern]))
            .with_context(|| format!("search the lists of {}", self.name))?;
        Ok(found.lines().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect())
    }

    /// What a package depends on, alternatives included. What the suite itself does not have stands in angle brackets.
    pub(super) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let found = output(self.command("apt-cache").args(["depends", package]))
            .with_context(|| format!("read what {package} depends on"))?;
        let named = |line: &str| Some(line.trim().strip_prefix("Depends: ")?.to_owned());
        Ok(found.lines().filter_map(named).collect())
    }

    /// Unpacks packages into a folder, and nothing else with them.
    pub(super) fn unpack(&self, packages: &[String], folder: &Path) -> Result<()> {
        let archives = self.folder.join("archives");
        let mut download = self.get();
        download.arg("download").args(packages).current_dir(&archives);
        self.unpack_archives(&format!("fetching {}", packages.join(" ")), &mut download, folder)
    }

    /// Unpacks packages into a folder with all that they depend on.
    pub(super) fn unpack_all(&self, packages: &[&str], folder: &Path) -> Result<()> {
        let mut install = self.get();
        install.args(["install", "--yes", "--download-only", "--no-install-recommends"]).args(packages);
        self.unpack_archives(
            &format!("fetching {} for {}", packages.join(" "), self.architecture),
            &mut install,
            folder,
        )
    }

    fn unpack_archives(&self, what: &str, fetch: &mut Command, folder: &Path) -> Result<()> {
        quietly(what, fetch)?;
        let archives = self.folder.join("archives");
        for entry in fs::read_dir(&archives).with_context(|| format!("list {}", archives.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                quietly(
                    &format!("unpacking {}", path.file_name().unwrap_or_default().display()),
                    Command::new("dpkg-deb").arg("--extract").arg(&path).arg(folder),
                )?;
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    fn get(&self) -> Command {
        self.command("apt-get")
    }

    /// A command of apt that knows this suite alone.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.folder.join("apt.conf"));
        command
    }
}

/// What keeps apt in `folder`. The machine's own settings (a proxy, say) hold besides.
fn settings(folder: &Path, architecture: &str) -> String {
    let in_folder = |name: &str| folder.join(name).display().to_string();
    let settings = [
        ("Dir::Etc::SourceList", in_folder("suite.sources")),
        ("Dir::Etc::SourceParts", "/dev/null".to_owned()),
        ("Dir::State::Lists", in_folder("lists")),
        ("Dir::State::Status", in_folder("status")),
        ("Dir::Cache::Archives", in_folder("archives")),
        // Made in memory each time: the machine's own are of other lists.
        ("Dir::Cache::PkgCache", String::new()),
        ("Dir::Cache::SrcPkgCache", String::new()),
        ("APT::Architecture", architecture.to_owned()),
        ("APT::Architectures", architecture.to_owned()),
        ("Acquire::Languages", "none".to_owned()),
        // The cache may lie where apt's own user cannot go.
        ("APT::Sandbox::User", "root".to_owned()),
    ];
    settings.map(|(name, value)| format!("{name} \"{value}\";\n")).concat()
}

/// Where the machine has Debian from: its archive, or that of the security updates for a suite of those.
fn mirror_of(suite: &str) -> Result<String> {
    let of_security = |release: &str| release.ends_with("-security");
    let sources = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(RELEASE) $(SITE)",
        "Created-By: Packages",
    ]));
    let sources = sources.context("the kernels come from Debian's archive, and this machine has no apt")?;
    let mirror = sources.lines().find_map(|line| {
        let (release, address) = line.strip_prefix("Debian ")?.split_once(' ')?;
        (of_security(release) == of_security(suite)).then(|| address.to_owned())
    });
    mirror
        .with_context(|| format!("no source of this machine's apt is an archive of Debian that has {suite}"))
}
