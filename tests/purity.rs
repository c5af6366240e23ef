//! Holds the core to what it must not know: no store, file, clock, tensor or chance.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// The library's own sources below `folder`; tests may use what they like.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    let mut folders = vec![root];
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

/// The code above a file's own test module, without its comments.
fn without_tests(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

fn offences(folder: &str, forbidden: &[&str]) -> Vec<String> {
    let files = sources(folder);
    assert!(!files.is_empty(), "no source in {folder}");
    let offends = |(path, text): &(PathBuf, String)| {
        let words = forbidden.iter().filter(|word| text.contains(**word));
        let path = path.display().to_string();
        words
            .map(|word| format!("{path}: `{word}`"))
            .collect::<Vec<_>>()
    };
    files.iter().flat_map(offends).collect()
}

const NONE: [String; 0] = [];

#[test]
fn the_machine_knows_events_only() {
    let forbidden = [
        "crate::store",
        "crate::train",
        "crate::checkpoint",
        "crate::data",
        "crate::picture",
        "crate::random",
        "crate::config",
        "crate::controller",
        "crate::setup",
        "tch::",
        "std::time",
        "std::fs",
        "std::env",
        "std::io",
        "std::net",
        "std::process",
        "std::thread",
        "std::sync",
        "rand::",
        "rand(",
        "HashMap",
        "HashSet",
        "print!",
        "println!",
        "eprint!",
        "eprintln!",
        "dbg!",
        "tracing::",
        "unsafe",
        "static mut",
        "LazyLock",
        "OnceLock",
        "thread_local",
    ];
    assert_eq!(offences("src/machine", &forbidden), NONE);
}

#[test]
fn the_machine_uses_exact_arithmetic_only() {
    // What `sqrt`, `+ - * /` and comparisons are not; names end in `(` to be methods.
    let forbidden = [
        ".exp(",
        ".exp2(",
        ".exp_m1(",
        ".ln(",
        ".ln_1p(",
        ".log(",
        ".log2(",
        ".log10(",
        ".powf(",
        ".powi(",
        ".sin(",
        ".cos(",
        ".tan(",
        ".tanh(",
        ".cbrt(",
        ".hypot(",
        ".mul_add(",
        "f32",
    ];
    assert_eq!(offences("src/machine", &forbidden), NONE);
}

#[test]
fn the_machine_denies_what_it_must_not_call() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/machine/mod.rs");
    let text = fs::read_to_string(root).unwrap();
    let deny = "#![deny(clippy::disallowed_methods, clippy::disallowed_types)]";
    assert!(text.lines().any(|line| line == deny), "`{deny}` is gone");
    let undone = ["allow(clippy::disallowed", "expect(clippy::disallowed"];
    assert_eq!(offences("src/machine", &undone), NONE);
}

#[test]
fn events_know_neither_who_decides_nor_who_stores() {
    let forbidden = [
        "crate::machine",
        "crate::store",
        "crate::train",
        "crate::controller",
        "std::fs",
        "std::time",
        "std::env",
    ];
    assert_eq!(offences("src/events", &forbidden), NONE);
}
