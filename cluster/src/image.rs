//! Images, made from programs of this machine and handed to containerd; none is pulled.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

use anyhow::{Context, Result};
use guard_tests::process::successful;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// The agent's image, as the manifests name it.
pub const AGENT_IMAGE: &str = concat!("docker.io/library/imds-guard:", env!("CARGO_PKG_VERSION"));
/// The image of the tests' own pods: busybox and curl.
pub const CLIENT_IMAGE: &str = "localhost/client:test";
/// The image that holds a pod's namespaces.
pub(crate) const PAUSE_IMAGE: &str = "localhost/pause:test";

/// What containerd's client needs to import an image's file for the kubelet.
pub(crate) const IMPORT: [&str; 4] = ["--namespace", "k8s.io", "images", "import"];

/// Where the images have the program that does nothing.
const PAUSE: &str = "usr/local/bin/pause";

/// An image of one layer.
pub(crate) struct Image {
    name: &'static str,
    entrypoint: &'static [&'static str],
    path: &'static str,
    layer: Vec<u8>,
}

impl Image {
    /// Does nothing, and ends at once when asked to.
    pub(crate) fn pause() -> Result<Self> {
        let mut layer = Layer::default();
        layer.add_pause()?;
        Self::made("pause", PAUSE_IMAGE, &["/usr/local/bin/pause"], layer)
    }

    /// The tests' pods: they do nothing until a test runs a program in them.
    pub(crate) fn client() -> Result<Self> {
        let mut layer = Layer::default();
        layer.add_pause()?;
        layer.add_program(Path::new("/usr/bin/curl"), "usr/bin/curl")?;
        layer.add_busybox()?;
        for (name, text) in [
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"),
            ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ] {
            layer.add(name, 0o644, text.as_bytes())?;
        }
        layer.add_folder("tmp", 0o1777)?;
        Self::made("client", CLIENT_IMAGE, &["/usr/local/bin/pause"], layer)
    }

    /// The agent's, from its root file system, as its Dockerfile makes it.
    pub(crate) fn agent(root: &Path) -> Result<Self> {
        let mut layer = Layer::default();
        layer.tar.append_dir_all(".", root).with_context(|| format!("pack {}", root.display()))?;
        Self::made("imds-guard", AGENT_IMAGE, &["/usr/local/bin/imds-guard"], layer)
    }

    fn made(
        what: &str,
        name: &'static str,
        entrypoint: &'static [&'static str],
        layer: Layer,
    ) -> Result<Self> {
        let layer = layer.tar.into_inner().with_context(|| format!("pack the image {what}"))?;
        Ok(Self { name, entrypoint, path: "/usr/local/bin:/usr/bin:/bin", layer })
    }

    /// Writes the image into a file, as `docker save` does.
    pub(crate) fn write_to(&self, path: &Path) -> Result<()> {
        File::create(path)
            .and_then(|file| self.write(io::BufWriter::new(file)))
            .with_context(|| format!("write the image {} to {}", self.name, path.display()))
    }

    fn write(&self, file: impl io::Write) -> io::Result<()> {
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Env": [format!("PATH={}", self.path)], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&self.layer))]},
            "history": [{"created_by": "guard-cluster"}],
        });
        let config = config.to_string().into_bytes();
        let config_name = format!("{}.json", digest(&config));
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": ["layer.tar"]}]);
        let mut archive = Builder::new(file);
        for (name, bytes) in [
            (config_name.as_str(), config.as_slice()),
            ("layer.tar", &self.layer),
            ("manifest.json", manifest.to_string().as_bytes()),
        ] {
            archive.append_data(&mut header(EntryType::Regular, 0o644, bytes.len()), name, bytes)?;
        }
        archive.into_inner()?.flush()
    }
}

/// Hands an image to the containerd of the node that this process is in. `aside` is where the archive may lie for a moment.
pub(crate) fn import(image: &Image, aside: &Path) -> Result<()> {
    image.write_to(aside)?;
    let output = Command::new("ctr").args(IMPORT).arg(aside).output();
    fs::remove_file(aside)?;
    successful(output.context("start ctr")?)
        .map(drop)
        .with_context(|| format!("import the image {}", image.name))
}

/// A layer of an image, growing.
struct Layer {
    tar: Builder<Vec<u8>>,
    /// What is in it, so that libraries and folders are there once.
    names: BTreeSet<PathBuf>,
}

impl Default for Layer {
    fn default() -> Self {
        Self { tar: Builder::new(Vec::new()), names: BTreeSet::new() }
    }
}

impl Layer {
    fn add_pause(&mut self) -> Result<()> {
        let program = env::current_exe().context("find this program")?.with_file_name("guard-pause");
        self.add_program(&program, PAUSE)
    }

    /// Adds busybox, and a link for every applet that is not there otherwise.
    fn add_busybox(&mut self) -> Result<()> {
        let busybox = Path::new("/bin/busybox");
        self.add_file(busybox, "bin/busybox")?;
        let output = Command::new(busybox).arg("--list").output().context("start busybox")?;
        for applet in successful(output)?.lines().filter(|applet| *applet != "busybox") {
            let name = PathBuf::from("bin").join(applet);
            self.tar
                .append_link(&mut header(EntryType::Symlink, 0o777, 0), &name, "busybox")
                .with_context(|| format!("add the applet {applet}"))?;
        }
        Ok(())
    }

    /// Adds a program and the shared libraries that it needs.
    fn add_program(&mut self, program: &Path, name: &str) -> Result<()> {
        self.add_file(program, name)?;
        let output = Command::new("ldd").arg(program).output().context("start ldd")?;
        let libraries = successful(output).with_context(|| format!("libraries of {}", program.display()))?;
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            self.add_file(Path::new(library), library.trim_start_matches('/'))?;
        }
        Ok(())
    }

    fn add_file(&mut self, source: &Path, name: &str) -> Result<()> {
        let bytes = fs::read(source).with_context(|| format!("read {}", source.display()))?;
        self.add(name, 0o755, &bytes)
    }

    fn add(&mut self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        if !self.names.insert(name.into()) {
            return Ok(());
        }
        for folder in Path::new(name).ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            if folder != Path::new("") {
                self.add_folder(folder, 0o755)?;
            }
        }
        self.tar
            .append_data(&mut header(EntryType::Regular, mode, bytes.len()), name, bytes)
            .with_context(|| format!("add {name}"))
    }

    fn add_folder(&mut self, name: impl AsRef<Path>, mode: u32) -> Result<()> {
        let name = name.as_ref();
        if !self.names.insert(name.into()) {
            return Ok(());
        }
        self.tar
            .append_data(&mut header(EntryType::Directory, mode, 0), name, io::empty())
            .with_context(|| format!("add the folder {}", name.display()))
    }
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// This machine's, as images call it.
fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
