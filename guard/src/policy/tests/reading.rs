//! From a folder to files, and from files to a policy's digest.

use std::{fs, os::unix::fs::symlink, path::Path};

use super::{
    super::{ReadError, Severity, read},
    files, parsed, policy, render,
};

fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("a file in it");
    }
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let files = read(folder).expect("readable");
    files
        .iter()
        .map(|file| file.name.strip_prefix(&format!("{}/", folder.display())).unwrap_or("?").to_owned())
        .collect()
}

#[test]
fn a_folder_is_read_in_name_order_without_what_is_not_policy() {
    let folder =
        folder_with(&[("20.yml", ""), ("10.yaml", ""), (".hidden.yaml", ""), ("notes.md", ""), ("yaml", "")]);
    assert_eq!(names(folder.path()), ["10.yaml", "20.yml"]);
}

#[test]
fn a_config_map_volume_is_read_as_one_update() {
    let folder = folder_with(&[]);
    let at = |name: &str| folder.path().join(name);
    for (generation, text) in [("..old", "old"), ("..new", "new")] {
        fs::create_dir(at(generation)).expect("a generation");
        fs::write(at(generation).join("10.yaml"), text).expect("its file");
    }
    // The volume's links are made one by one; only `..data` says which generation holds.
    symlink("..new", at("..data")).expect("the link of the generation");
    symlink("..old/10.yaml", at("10.yaml")).expect("the link of the file");
    assert_eq!(names(folder.path()), ["10.yaml"]);
    assert_eq!(read(folder.path()).expect("readable")[0].text, "new");
}

#[test]
fn what_can_not_be_read_says_which_file_and_what_to_do() {
    let folder = folder_with(&[]);
    let at = |name: &str| folder.path().join(name);
    fs::write(at("binary"), [0xff, 0xfe]).expect("a file");
    fs::write(at("large"), vec![b'#'; (1 << 20) + 1]).expect("a file");
    fs::write(at("just-fits"), vec![b'#'; 1 << 20]).expect("a file");
    assert!(matches!(read(folder.path()), Err(ReadError::NoFile(path)) if path == folder.path()));
    assert!(matches!(read(&at("binary")), Err(ReadError::Encoding(path)) if path == at("binary")));
    assert!(matches!(read(&at("large")), Err(ReadError::Size(_))));
    assert!(read(&at("just-fits")).is_ok());
    assert!(matches!(read(&at("missing")), Err(ReadError::Read { .. })));
    assert!(matches!(read(Path::new("/dev/null")), Err(ReadError::Kind(_))));
    symlink("nowhere", at("dangling.yaml")).expect("a link");
    assert!(matches!(read(folder.path()), Err(ReadError::Read { path, .. }) if path == at("dangling.yaml")));
}

#[test]
fn the_digest_is_of_names_and_contents() {
    let digest = |texts: &[&str]| parsed(texts).policy.expect("a policy").sha256().to_owned();
    let first = digest(&["version: 1"]);
    assert_eq!(first.len(), 64);
    assert_eq!(first, digest(&["version: 1"]));
    assert_ne!(first, digest(&["version: 1 "]));
    assert_ne!(first, digest(&["version: 1", "version: 1"]));
}

#[test]
fn no_file_at_all_is_no_policy() {
    let parsed = parsed(&[]);
    assert_eq!(parsed.policy, None);
    assert_eq!(parsed.problems[0].severity, Severity::Error);
}

#[test]
fn nothing_that_can_be_written_makes_the_parser_panic() {
    let whole = include_str!("../../../../tests/policies/good/complete.yaml");
    for (end, _) in whole.char_indices().step_by(7) {
        parsed(&[&whole[..end]]);
        parsed(&[&whole[end..]]);
        for noise in
            ["*", "&a", "{", "]", "\t", "'", "\"", "|", "\u{feff}", "🔒", "\r", ": ", "? ", "---", "%"]
        {
            parsed(&[&format!("{}{noise}{}", &whole[..end], &whole[end..])]);
        }
    }
    let deep = "[".repeat(300_000);
    parsed(&[&deep, &"- ".repeat(300_000), &"? ".repeat(2_000), &"{a: ".repeat(2_000)]);
}

#[test]
fn a_file_with_thousands_of_problems_is_shown_in_part() {
    let lines: Vec<_> = (0..20_000).map(|line| format!("key{line}: x")).collect();
    let text = lines.join("\n");
    let parsed = parsed(&[&text]);
    assert_eq!(parsed.problems.len(), 20_001);
    let shown = render(&parsed.problems, &files(&[&text]), false);
    assert!(shown.ends_with("and 19901 more\n\n"));
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_harmless() {
    let policy = policy("\u{feff}version: 1\r\nhelp: https://wiki.example/a\r\ndefault: { imds: deny }\r\n");
    assert_eq!(policy.help(), Some("https://wiki.example/a"));
}
