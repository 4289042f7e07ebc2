//! Checks every policy under `tests/policies` against the text that is expected beside it. To write that text anew
//! after a change of a message: `UPDATE_EXPECTED=1 cargo test -p imds-guard fixtures`, then read the difference.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use super::{
    super::{Parsed, SourceFile, read},
    Endpoints, TODAY, parse, render,
};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/policies").join(name)
}

/// Every policy of a folder (a file, or a folder of files) and every `.expected` text.
fn entries(folder: &Path) -> (Vec<PathBuf>, BTreeSet<PathBuf>) {
    let entries = fs::read_dir(folder).expect("the folder of policies");
    let (expected, mut policies): (Vec<_>, Vec<_>) = entries
        .map(|entry| entry.expect("an entry of the folder").path())
        .partition(|path| path.extension().is_some_and(|extension| extension == "expected"));
    policies.sort();
    (policies, expected.into_iter().collect())
}

fn read_fixture(folder: &Path, policy: &Path) -> Vec<SourceFile> {
    let mut files = read(policy).expect("a fixture can be read");
    for file in &mut files {
        let relative = Path::new(&file.name).strip_prefix(folder).expect("a fixture lies in its folder");
        file.name = relative.display().to_string();
    }
    files
}

/// Every difference between what is rendered and what is expected, over all policies of a folder.
fn differences(name: &str, judge: impl Fn(&Parsed) -> Result<(), &'static str>) -> Vec<String> {
    let folder = folder(name);
    let update = env::var_os("UPDATE_EXPECTED").is_some();
    let (policies, mut stale) = entries(&folder);
    let mut differences = Vec::new();
    for policy in policies {
        let files = read_fixture(&folder, &policy);
        let parsed = parse(&files, &Endpoints::aws(), TODAY);
        if let Err(complaint) = judge(&parsed) {
            differences.push(format!("{}: {complaint}", policy.display()));
        }
        let rendered = render(&parsed.problems, &files, false);
        let expected = policy.with_extension("expected");
        stale.remove(&expected);
        if update && rendered.is_empty() {
            drop(fs::remove_file(&expected));
        } else if update {
            fs::write(&expected, &rendered).expect("the expected text can be written");
        }
        let wanted = fs::read_to_string(&expected).unwrap_or_default();
        if wanted != rendered {
            differences
                .push(format!("{}:\n--- expected\n{wanted}--- rendered\n{rendered}", policy.display()));
        }
    }
    differences.extend(stale.iter().map(|path| format!("{}: no policy belongs to it", path.display())));
    differences
}

fn assert_none(differences: &[String]) {
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn good_policies_are_accepted_with_the_expected_warnings() {
    assert_none(&differences("good", |parsed| match parsed.policy {
        Some(_) => Ok(()),
        None => Err("it was refused"),
    }));
}

#[test]
fn bad_policies_are_refused_with_the_expected_text() {
    assert_none(&differences("bad", |parsed| match parsed.policy {
        Some(_) => Err("it was accepted"),
        None => Ok(()),
    }));
}

#[test]
fn the_examples_of_the_documentation_are_good_policies() {
    let text = include_str!("../../../../docs/policy.md");
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let policies: Vec<_> = blocks.filter(|block| block.contains("version: 1")).collect();
    assert!(policies.len() >= 3);
    for policy in policies {
        let files = super::files(&[policy]);
        let parsed = parse(&files, &Endpoints::aws(), TODAY);
        assert!(parsed.policy.is_some(), "{}", render(&parsed.problems, &files, false));
    }
}

#[test]
fn there_are_policies_to_check() {
    assert!(entries(&folder("good")).0.len() >= 3);
    assert!(entries(&folder("bad")).0.len() >= 22);
}
