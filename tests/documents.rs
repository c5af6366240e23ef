//! What the documents refer to exists.

#![allow(clippy::unwrap_used, reason = "a test panics to fail")]

use std::collections::BTreeSet;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names of all functions in the Rust files of a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(path).unwrap();
            let names = text.split("fn ").skip(1).map(|rest| {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                rest[..end.unwrap_or(rest.len())].to_owned()
            });
            found.extend(names);
        }
    }
}

#[test]
fn tests_in_the_list_of_cases_exist() {
    let mut known = BTreeSet::new();
    for folder in [
        "c10d", "cli", "fuzz", "replay", "src", "testing", "tests", "words",
    ] {
        functions(&root().join(folder), &mut known);
    }
    let cases = std::fs::read_to_string(root().join("docs/cases.md")).unwrap();
    let quoted = cases.split('`').skip(1).step_by(2);
    let paths = quoted.filter(|text| {
        text.contains("::")
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_:".contains(c))
    });
    let mut count = 0;
    for path in paths {
        count += 1;
        let (_, name) = path.rsplit_once("::").unwrap();
        let module = name == "tests";
        assert!(module || known.contains(name), "no test `{path}`");
    }
    assert!(count > 80, "{count} tests are named");
}
