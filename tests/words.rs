//! Library code gives hints as data; only the program names its commands and flags.

#![allow(clippy::unwrap_used, reason = "a test panics at anything unexpected")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Folders with library code.
const LIBRARY: &[&str] = &["src", "replay/src", "words/src", "c10d/src"];
/// The wording of hints, which both programs print.
const WORDING: &str = "words/src/hint.rs";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program's commands, from the enum that clap uses.
fn commands() -> BTreeSet<String> {
    let args = std::fs::read_to_string(root().join("cli/src/args.rs")).unwrap();
    let start = args.find("pub enum Command {").unwrap();
    let (body, _) = args[start..].split_once("\n}").unwrap();
    let variants = body.lines().filter_map(|line| {
        let name = line.strip_prefix("    ")?;
        let end = name.find(['(', ','])?;
        name.starts_with(char::is_uppercase).then(|| &name[..end])
    });
    variants.map(str::to_lowercase).collect()
}

/// The long flags, written out or derived by clap from fields.
fn flags() -> BTreeSet<String> {
    let args = std::fs::read_to_string(root().join("cli/src/args.rs")).unwrap();
    let fields = args.lines().filter_map(|line| {
        let (name, _) = line.trim().strip_prefix("pub ")?.split_once(": ")?;
        name.bytes()
            .all(|b| b.is_ascii_lowercase() || b == b'_')
            .then(|| format!("--{}", name.replace('_', "-")))
    });
    let written = args.split("long = \"").skip(1);
    let written = written.filter_map(|rest| rest.split('"').next());
    fields
        .chain(written.map(|name| format!("--{name}")))
        .collect()
}

/// The command or flag that a line of code names, if any.
fn named(line: &str, commands: &BTreeSet<String>, flags: &BTreeSet<String>) -> Option<String> {
    let command = |text: &str, ends: &[&str]| {
        let lower = |c: char| c.is_ascii_lowercase();
        let word = &text[..text.find(|c| !lower(c)).unwrap_or(text.len())];
        let ends = ends.iter().any(|end| text[word.len()..].starts_with(end));
        (ends && commands.contains(word)).then(|| word.to_owned())
    };
    for (at, _) in line.match_indices("tinygate ") {
        if let Some(word) = command(&line[at + "tinygate ".len()..], &["`", " ", "\"", "'"]) {
            return Some(format!("tinygate {word}"));
        }
    }
    for (at, _) in line.match_indices("--") {
        let end = line[at + 2..].find(|c: char| !(c.is_ascii_lowercase() || c == '-'));
        let flag = &line[at..end.map_or(line.len(), |end| at + 2 + end)];
        if flags.contains(flag) {
            return Some(flag.to_owned());
        }
    }
    for (at, _) in line.match_indices('`') {
        if let Some(word) = command(&line[at + 1..], &["`", " -"]) {
            return Some(format!("`{word}`"));
        }
    }
    None
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// Lines of code, without comments and without the tests at the end of a file.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let tests = text.find("#[cfg(test)]\nmod tests {");
    let lines = text[..tests.unwrap_or(text.len())].lines().enumerate();
    lines
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(index, line)| (index + 1, line))
}

#[test]
fn no_library_names_a_command_or_a_flag() {
    let (commands, flags) = (commands(), flags());
    assert!(
        commands.len() > 10 && flags.len() > 20,
        "{commands:?} {flags:?}"
    );
    let mut files = Vec::new();
    for folder in LIBRARY {
        sources(&root().join(folder), &mut files);
    }
    let mut faults = Vec::new();
    for file in &files {
        let path = file.strip_prefix(root()).unwrap();
        let path = path.to_str().unwrap().replace('\\', "/");
        if path == WORDING || path.contains("/tests/") || path.ends_with("/tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(file).unwrap();
        for (line, code) in code(&text) {
            if let Some(name) = named(code, &commands, &flags) {
                faults.push(format!("{path}:{line}: {name}"));
            }
        }
    }
    assert!(
        faults.is_empty(),
        "library code names what only the program has; return a `Hint` instead:\n{}",
        faults.join("\n")
    );
}

/// The program looks up the advice of an error by its type, so it must list each type.
#[test]
fn the_program_knows_every_error_that_has_advice() {
    let mut files = Vec::new();
    for folder in ["src", "replay/src"] {
        sources(&root().join(folder), &mut files);
    }
    let words = std::fs::read_to_string(root().join("cli/src/output/hint.rs")).unwrap();
    let mut count = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for rest in text.split("impl Advice for ").skip(1) {
            let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap();
            let name = &rest[..end];
            // A fault is shown with its problem, a version with the error that has it.
            let known = format!("of::<{name}>");
            let within = ["Fault", "UnknownVersion"].contains(&name);
            assert!(within || words.contains(&known), "{known}");
            count += 1;
        }
    }
    assert!(count > 5, "{count}");
}

#[test]
fn commands_and_flags_are_detected_in_any_form() {
    let (commands, flags) = (commands(), flags());
    let check = |line: &str, want: Option<&str>| {
        assert_eq!(named(line, &commands, &flags).as_deref(), want, "{line}");
    };
    check(
        "\"go on with `tinygate resume DIR`\"",
        Some("tinygate resume"),
    );
    check("\"`--set key=value`\"", Some("--set"));
    check("\"take `--init-from`\"", Some("--init-from"));
    check("\"lets `run` go on\"", Some("`run`"));
    check("\"`repair --accept-loss`\"", Some("--accept-loss"));
    check("\"in Python `import hdf5plugin`\"", None);
    check("\"`ffmpeg -i {} --vf x`\"", None);
    check("\"tinygate trains in f32 only\"", None);
    check("a -- b", None);
    check("\"the run `{dir}`\"", None);
}
