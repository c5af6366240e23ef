//! Checks that the core is pure.
//!
//! The compiler checks most of it: events and machine are crates without `std`, so they cannot
//! use files, clocks, threads, the environment, `HashMap` or a maths library. These tests check
//! the crates' few dependencies, build machines that break the rule and must not compile, and
//! search the sources for what a crate without `std` can still do.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The library's sources below `folder`, without tests, which may use anything.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().unwrap() != "tests" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, without_tests(&text)));
            }
        }
    }
    found
}

/// The code of a file before its test module, without comments.
fn without_tests(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

fn offences_in(files: &[(PathBuf, String)], forbidden: &[&str]) -> Vec<String> {
    assert!(!files.is_empty(), "there is no source");
    let offends = |(path, text): &(PathBuf, String)| {
        let words = forbidden.iter().filter(|word| text.contains(**word));
        let path = path.display().to_string();
        words
            .map(|word| format!("{path}: `{word}`"))
            .collect::<Vec<_>>()
    };
    files.iter().flat_map(offends).collect()
}

fn offences(folder: &str, forbidden: &[&str]) -> Vec<String> {
    offences_in(&sources(folder), forbidden)
}

const NONE: [String; 0] = [];

/// What a crate without `std` can still do but a decision must not.
const REACHES_STD: [&str; 3] = ["extern crate std", "extern crate core", "macro_use"];
const SHARED_STATE: [&str; 3] = ["core::sync", "core::cell", "alloc::sync"];

#[test]
fn the_core_does_not_bring_std_back() {
    assert_eq!(offences("src/events", &REACHES_STD), NONE);
    assert_eq!(offences("src/machine", &REACHES_STD), NONE);
    for crate_root in [
        "src/events/mod.rs",
        "src/machine/mod.rs",
        "src/machine/sqrt/lib.rs",
    ] {
        let text = fs::read_to_string(root().join(crate_root)).unwrap();
        let no_std = "#![cfg_attr(not(test), no_std)]";
        assert!(
            text.lines().any(|line| line == no_std),
            "{crate_root} lost `{no_std}`"
        );
    }
}

#[test]
fn bringing_std_back_is_detected() {
    let text = "extern crate alloc;\nextern crate std as other;\n";
    let files = [(PathBuf::from("mod.rs"), without_tests(text))];
    assert_eq!(
        offences_in(&files, &REACHES_STD),
        ["mod.rs: `extern crate std`"]
    );
}

#[test]
fn the_core_shares_no_state() {
    assert_eq!(offences("src/events", &SHARED_STATE), NONE);
    assert_eq!(offences("src/machine", &SHARED_STATE), NONE);
}

#[test]
fn the_machine_computes_in_f64_only() {
    assert_eq!(offences("src/machine", &["f32"]), NONE);
}

/// Names of a package's dependencies.
fn dependencies(manifest: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(manifest)).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    assert!(!manifest.contains_key("target") && !manifest.contains_key("build-dependencies"));
    let mut names: Vec<String> = manifest["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    names.sort();
    names
}

#[test]
fn the_core_has_only_the_listed_dependencies() {
    assert_eq!(
        dependencies("src/machine/Cargo.toml"),
        ["tinygate-events", "tinygate-sqrt"]
    );
    assert_eq!(dependencies("src/machine/sqrt/Cargo.toml"), ["libm"]);
    assert_eq!(
        dependencies("src/events/Cargo.toml"),
        ["crc32fast", "rkyv", "serde", "serde_json", "thiserror"]
    );
}

#[test]
fn the_crate_of_the_square_root_exports_nothing_else() {
    let files = sources("src/machine/sqrt");
    let exports = |text: &str| text.matches("pub ").count() + text.matches("macro").count();
    let all: usize = files.iter().map(|(_, text)| exports(text)).sum();
    assert_eq!(all, 1);
}

/// A copy of the machine's crates in a workspace of its own, to be changed and built.
struct Copy {
    folder: TempDir,
}

impl Copy {
    fn new() -> Copy {
        let folder = TempDir::new().unwrap();
        let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
        let workspace = manifest.split("\n[package]\n").next().unwrap();
        let members = workspace
            .lines()
            .map(|line| {
                if line.starts_with("members = ") {
                    r#"members = ["src/events", "src/machine", "src/machine/sqrt", "src/presets"]"#
                } else {
                    line
                }
            })
            .collect::<Vec<_>>();
        fs::write(folder.path().join("Cargo.toml"), members.join("\n")).unwrap();
        // Use the same versions, so that nothing is downloaded.
        fs::copy(root().join("Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();
        copy_tree(
            &root().join("src/events"),
            &folder.path().join("src/events"),
        );
        for source in ["src/events", "src/machine", "src/presets"] {
            copy_tree(&root().join(source), &folder.path().join(source));
        }
        Copy { folder }
    }

    /// Builds the machine with `code` appended to `file`.
    fn build_with(&self, file: &str, code: &str) -> Output {
        let path = self.folder.path().join(file);
        let original = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{original}\n{code}\n")).unwrap();
        let output = Command::new(env!("CARGO"))
            .args(["check", "--quiet", "--offline", "-p", "tinygate-machine"])
            .current_dir(&self.folder)
            .env("CARGO_TARGET_DIR", self.folder.path().join("target"))
            .output()
            .unwrap();
        fs::write(&path, original).unwrap();
        output
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[track_caller]
fn check_refused(copy: &Copy, code: &str, error: &str) {
    let output = copy.build_with("src/machine/statistics.rs", code);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "this compiles: {code}");
    assert!(stderr.contains(error), "{code}: not `{error}`:\n{stderr}");
}

#[test]
fn an_impure_machine_does_not_compile() {
    let copy = Copy::new();
    let sound = copy.build_with(
        "src/machine/statistics.rs",
        "pub fn planted() -> f64 { sqrt(2.0) }",
    );
    assert!(
        sound.status.success(),
        "the machine alone: {}",
        String::from_utf8_lossy(&sound.stderr)
    );
    check_refused(
        &copy,
        "pub fn planted() -> std::time::Instant { std::time::Instant::now() }",
        "`std`",
    );
    check_refused(&copy, "pub use std::fs::read;", "`std`");
    check_refused(
        &copy,
        "pub fn planted() { println!(\"{}\", 1) }",
        "cannot find macro `println`",
    );
    check_refused(&copy, "pub use alloc::collections::HashMap;", "`HashMap`");
    for function in ["exp", "ln", "sin", "powi", "mul_add", "sqrt", "floor"] {
        let arguments = match function {
            "powi" => "2",
            "mul_add" => "2.0, 3.0",
            _ => "",
        };
        check_refused(
            &copy,
            &format!("pub fn planted(x: f64) -> f64 {{ x.{function}({arguments}) }}"),
            &format!("no method named `{function}`"),
        );
    }
    check_refused(&copy, "pub use libm::exp;", "`libm`");
    check_refused(
        &copy,
        "pub fn planted() -> u8 { unsafe { *core::ptr::null() } }",
        "unsafe",
    );
}
