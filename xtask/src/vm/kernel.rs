//! Debian's kernels: the newest package of a series, unpacked into the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{apt::Suite, arch::Arch};
use crate::setup::{cache, quietly, step};

/// How long a kernel is taken for the newest without asking again.
const NEWEST_FOR: Duration = Duration::from_hours(24);

/// Which kernel is meant.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) arch: Arch,
    /// The suite that has it.
    pub(super) suite: &'static str,
    /// `6.1`; `None` for the newest of all.
    pub(super) series: Option<&'static str>,
}

/// An unpacked kernel.
#[derive(Clone)]
pub(super) struct Kernel {
    /// As `uname -r` says it.
    pub(super) release: String,
    folder: PathBuf,
}

impl Kernel {
    /// The newest kernel that there is, or, when Debian can't be asked, the newest that was fetched before.
    pub(super) fn find_or_fetch(wanted: Wanted) -> Result<Self> {
        let kernels = cache()?.join("vm/kernels");
        fs::create_dir_all(&kernels).with_context(|| format!("make the folder {}", kernels.display()))?;
        let note = kernels.join(format!("{}-{}", wanted.series.unwrap_or("newest"), wanted.arch.debian()));
        let known = Self::noted(&note, &kernels);
        if let Some(kernel) = known.as_ref().filter(|_| is_fresh(&note)) {
            return Ok(kernel.clone());
        }
        match (Self::fetch(wanted, &kernels), known) {
            (Ok(kernel), _) => {
                fs::write(&note, &kernel.release).with_context(|| format!("write {}", note.display()))?;
                Ok(kernel)
            }
            (Err(error), Some(kernel)) => {
                step("kernel", &format!("{} from the cache: {error:#}", kernel.release));
                Ok(kernel)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The one that was fetched last, if it is still there.
    fn noted(note: &Path, kernels: &Path) -> Option<Self> {
        let release = fs::read_to_string(note).ok()?;
        let folder = kernels.join(&release);
        folder.is_dir().then_some(Self { release, folder })
    }

    fn fetch(wanted: Wanted, kernels: &Path) -> Result<Self> {
        let suite = Suite::open(wanted.suite, wanted.arch.debian())?;
        let flavour = format!("-cloud-{}", wanted.arch.debian());
        let packages = suite.names(&format!("^linux-image-[0-9].*{flavour}$"))?;
        let releases = packages.iter().filter_map(|package| package.strip_prefix("linux-image-"));
        let newest =
            releases.filter(|release| is_of(release, wanted.series)).max_by_key(|release| numbers(release));
        let release = newest.with_context(|| {
            format!(
                "{} has no {} kernel for {}",
                wanted.suite,
                wanted.series.unwrap_or("new"),
                wanted.arch.debian()
            )
        })?;
        let folder = kernels.join(release);
        if !folder.is_dir() {
            // Since 6.19 the kernel and its modules are packages of their own.
            let image = format!("linux-image-{release}");
            let parts = suite.dependencies(&image)?;
            let mut parts: Vec<String> = parts
                .into_iter()
                .filter(|part| part.starts_with("linux-") && part.ends_with(release))
                .collect();
            parts.push(image);
            // It gets its name when it is whole.
            let unpacked = kernels.join(format!(".{release}"));
            if unpacked.exists() {
                fs::remove_dir_all(&unpacked).with_context(|| format!("remove {}", unpacked.display()))?;
            }
            fs::create_dir(&unpacked).with_context(|| format!("make the folder {}", unpacked.display()))?;
            suite.unpack(&parts, &unpacked)?;
            let kernel = Self { release: release.to_owned(), folder: unpacked };
            let modules = kernel.modules_base()?;
            let mut depmod = Command::new("depmod");
            quietly("sorting modules", depmod.arg("--basedir").arg(modules).arg(release))?;
            fs::rename(&kernel.folder, &folder).with_context(|| format!("name {}", folder.display()))?;
        }
        Ok(Self { release: release.to_owned(), folder })
    }

    /// The file that a machine boots.
    pub(super) fn image(&self) -> Result<PathBuf> {
        let places = [
            self.folder.join("boot").join(format!("vmlinuz-{}", self.release)),
            self.folder.join("usr/lib/modules").join(&self.release).join("vmlinuz"),
        ];
        let image = places.into_iter().find(|place| place.is_file());
        image.with_context(|| format!("the package of {} has no image", self.release))
    }

    /// The folder that has `lib/modules`.
    pub(super) fn modules_base(&self) -> Result<PathBuf> {
        let places = [self.folder.clone(), self.folder.join("usr")];
        let base = places.into_iter().find(|place| place.join("lib/modules").join(&self.release).is_dir());
        base.with_context(|| format!("the package of {} has no modules", self.release))
    }
}

fn is_fresh(note: &Path) -> bool {
    let age =
        fs::metadata(note).and_then(|note| note.modified()).ok().and_then(|written| written.elapsed().ok());
    age.is_some_and(|age| age < NEWEST_FOR)
}

/// Whether a release is of a series; meta-packages (`6.12-cloud-amd64`) are of none.
fn is_of(release: &str, series: Option<&str>) -> bool {
    let version = release.split(['-', '+']).next().unwrap_or_default();
    let is_release = version.split('.').count() == 3;
    let tail = series.map_or(Some("."), |series| version.strip_prefix(series));
    is_release && tail.is_some_and(|tail| tail.starts_with('.'))
}

/// The numbers in a release, by which it is newer or older: 6.1.0-9 is before 6.1.0-56.
fn numbers(release: &str) -> Vec<u64> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_series_is_found_by_its_numbers() {
        let releases =
            ["6.12-cloud-amd64", "6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.12.117+deb12-cloud-amd64"];
        let newest = |series| {
            releases
                .into_iter()
                .filter(|release| is_of(release, series))
                .max_by_key(|release| numbers(release))
        };
        assert_eq!(newest(Some("6.1")), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(newest(Some("6.12")), Some("6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest(None), Some("6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest(Some("5.10")), None);
    }
}
