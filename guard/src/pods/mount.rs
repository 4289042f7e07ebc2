//! Where the cgroup tree is mounted, and where in it the pods begin.

use std::{
    cmp::Reverse,
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Component, Path, PathBuf},
};

use super::cgroup;

/// How deep below the mount a guarded root can lie: `kubelet.slice/kubelet-kubepods.slice` and one more.
const SEARCHED_LEVELS: usize = 3;

/// The mount point of the cgroup v2 hierarchy, from the text of `/proc/self/mountinfo`: `/sys/fs/cgroup`, or
/// `/sys/fs/cgroup/unified` on a hybrid host.
///
/// A bind mount of some cgroup further down is not it. Seen from a private cgroup namespace, the host's hierarchy
/// is mounted with the root `/../../..` and what is mounted with the root `/` is only the reader's own part of it,
/// so the highest root wins, and of several the shortest path.
pub fn find_cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo
        .lines()
        .filter_map(cgroup2_mount)
        .filter_map(|(root, point)| Some((levels_up(&root)?, point)))
        .min_by_key(|(levels_up, point)| (Reverse(*levels_up), point.as_os_str().len()))
        .map(|(_, point)| point)
}

/// The folder under which all pods live, relative to the cgroup2 `mount`; `None` while there is none. Of several the
/// one nearest to the mount wins, then the first by name.
pub fn find_guarded_root(mount: &Path) -> io::Result<Option<PathBuf>> {
    let mut level = vec![PathBuf::new()];
    for _ in 0..SEARCHED_LEVELS {
        let mut below = Vec::new();
        for parent in &level {
            below.extend(folders(&mount.join(parent))?.into_iter().map(|name| parent.join(name)));
        }
        below.sort();
        if let Some(root) = below.iter().find(|folder| is_guarded_root(folder)) {
            return Ok(Some(root.clone()));
        }
        level = below;
    }
    Ok(None)
}

/// The root and the mount point in one line of mountinfo, if it mounts cgroup v2.
fn cgroup2_mount(line: &str) -> Option<(PathBuf, PathBuf)> {
    // id parent device root mount-point options [tags …] - type source super-options
    let (mount, file_system) = line.split_once(" - ")?;
    if file_system.split(' ').next() != Some("cgroup2") {
        return None;
    }
    let mut fields = mount.split(' ').skip(3);
    Some((unescape(fields.next()?), unescape(fields.next()?)))
}

/// How far `root` lies above the reader's cgroup namespace; `None` where it lies in it or beside it.
fn levels_up(root: &Path) -> Option<usize> {
    let mut components = root.components().skip_while(|component| *component == Component::RootDir);
    let count = components.clone().count();
    components.all(|component| component == Component::ParentDir).then_some(count)
}

/// The kernel writes blanks, line ends and backslashes in paths as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped =
            (byte == b'\\').then(|| tail.split_at_checked(3)).flatten().and_then(|(digits, tail)| {
                let code = u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok()?;
                Some((code, tail))
            });
        let (byte, tail) = escaped.unwrap_or((byte, tail));
        bytes.push(byte);
        rest = tail;
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn is_guarded_root(folder: &Path) -> bool {
    folder.file_name().and_then(|name| name.to_str()).is_some_and(cgroup::is_guarded_root)
}

fn folders(parent: &Path) -> io::Result<Vec<OsString>> {
    let entries = match fs::read_dir(parent) {
        // A cgroup that goes away while it is looked at holds no pods.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.file_name());
        }
    }
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_on_every_kind_of_host() {
        const V1: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";
        let own = "500 499 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n";
        let cases = [
            ("no cgroup v2", V1.to_owned(), None),
            ("nothing", String::new(), None),
            (
                "pure",
                "34 24 0:29 / /sys/fs/cgroup rw,nosuid shared:9 master:2 - cgroup2 cgroup2 rw\n".to_owned(),
                Some("/sys/fs/cgroup"),
            ),
            (
                "hybrid",
                format!("{V1}41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"),
                Some("/sys/fs/cgroup/unified"),
            ),
            (
                "a second mount of the same",
                format!("9 1 0:26 / /run/lib/cgroup rw - cgroup2 cgroup rw\n{own}"),
                Some("/sys/fs/cgroup"),
            ),
            (
                "only part of it, bound elsewhere",
                "9 1 0:26 /kubepods.slice /c rw - cgroup2 cgroup rw\n".to_owned(),
                None,
            ),
            (
                "the host's, seen from a pod's private cgroup namespace",
                format!(
                    "{own}9 1 0:26 /../../.. /pods rw - cgroup2 cgroup rw\n\
                     10 1 0:26 /../../../.. /host/sys/fs/cgroup rw - cgroup2 cgroup rw\n"
                ),
                Some("/host/sys/fs/cgroup"),
            ),
            (
                "a path with a blank",
                r"9 1 0:26 / /my\040cgroups\134x rw - cgroup2 cgroup rw".to_owned(),
                Some(r"/my cgroups\x"),
            ),
        ];
        for (case, mountinfo, expected) in cases {
            assert_eq!(find_cgroup2_mount(&mountinfo), expected.map(PathBuf::from), "{case}");
        }
    }

    #[test]
    fn the_guarded_root_nearest_to_the_mount_wins() {
        let cases: [(&str, &[&str], Option<&str>); 7] = [
            ("cgroupfs", &["kubepods/burstable", "system.slice"], Some("kubepods")),
            ("systemd", &["kubepods.slice/kubepods-burstable.slice"], Some("kubepods.slice")),
            ("kind", &["kubelet.slice/kubelet-kubepods.slice"], Some("kubelet.slice/kubelet-kubepods.slice")),
            ("nearest", &["a/b/kubepods", "z/kubepods"], Some("z/kubepods")),
            ("first by name", &["b-kubepods.slice", "a-kubepods.slice"], Some("a-kubepods.slice")),
            ("too deep", &["a/b/c/kubepods"], None),
            ("none", &["system.slice"], None),
        ];
        for (case, tree, expected) in cases {
            let mount = tempfile::tempdir().expect("a temporary folder");
            for folder in tree {
                fs::create_dir_all(mount.path().join(folder)).expect("create a folder");
            }
            let found = find_guarded_root(mount.path()).expect("readable");
            assert_eq!(found, expected.map(PathBuf::from), "{case}");
        }
    }
}
