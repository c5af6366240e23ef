//! Options are frozen, because scripts rely on them. A new option must be added to the table here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics at anything unexpected"
)]

mod support;

use std::collections::BTreeSet;

use support::{run, tinygate};

/// Each command with its options and arguments, as its help lists them.
const OPTIONS: &[(&str, &str)] = &[
    ("", "--help --version"),
    (
        "run",
        "--allow-other-settings --allow-single-gpu-fallback --dir --dry-run --fresh-optimizer --help --init-from --json --next-cycle-of --or-resume --quiet --set --stage [CONFIG]",
    ),
    (
        "resume",
        "--allow-single-gpu-fallback --give-up --help --json --quiet --retries --set <DIR>",
    ),
    (
        "replay",
        "--chunks --help --json --retrain --set --stage <LOG>",
    ),
    ("status", "--at --help --json <DIR>"),
    ("log", "--follow --from --help --json --to <DIR>"),
    ("explain", "--help <DIR> [SEQ]"),
    ("repair", "--accept-loss --dry-run --help --keep <DIR>"),
    ("prune", "--delete --help --json --keep <DIR>"),
    ("export", "--force --help <DIR> <FILE>"),
    ("import", "--help <DIR> <FILE>"),
    ("checkpoint show", "--help --json <PATH>"),
    ("checkpoint verify", "--help --json --weights <PATH>"),
    ("config init", "--help --preset"),
    ("config check", "--help --set <FILE>"),
    ("config show", "--help --set [FILE]"),
    ("completions", "--help <SHELL>"),
];

/// The options and arguments that a help text lists, one per indented line.
fn named(help: &str) -> BTreeSet<String> {
    let lines = help.lines().filter(|line| line.starts_with(' '));
    let of_line = |line: &str| {
        let words = line
            .split_whitespace()
            .map(|word| word.trim_end_matches([',', '.']));
        let word = words
            .take(2)
            .find(|word| word.starts_with("--") || is_argument(word))?;
        Some(word.trim_end_matches("...").to_owned())
    };
    lines.filter_map(of_line).collect()
}

fn is_argument(word: &str) -> bool {
    let inner = word.trim_end_matches("...");
    let inner = inner
        .strip_prefix('<')
        .and_then(|inner| inner.strip_suffix('>'))
        .or_else(|| {
            inner
                .strip_prefix('[')
                .and_then(|inner| inner.strip_suffix(']'))
        });
    inner.is_some_and(|inner| inner.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
}

#[test]
fn options_are_those_in_the_table() {
    for (command, want) in OPTIONS {
        let help = run(command.split_whitespace().chain(["--help"]))
            .expect(0)
            .stdout;
        let want: BTreeSet<String> = want.split_whitespace().map(str::to_owned).collect();
        assert_eq!(named(&help), want, "tinygate {command}\n{help}");
    }
}

#[test]
fn every_command_is_in_the_table() {
    let help = run(["--help"]).expect(0).stdout;
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    let listed: Vec<&str> = listed
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(listed.len() > 10, "{help}");
    for command in listed.into_iter().filter(|command| *command != "help") {
        let known = OPTIONS
            .iter()
            .any(|(name, _)| name.split_whitespace().next() == Some(command));
        assert!(known, "`{command}` is not in the table");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    run(["run"]).expect(2);
    run(["train"]).expect(2);
    run(["resume", "x", "--retries", "0"]).expect(2);
    run(Vec::<String>::new()).expect(2);
}

#[test]
fn completions_include_the_options() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(["completions", shell]).expect(0).stdout;
        assert!(script.contains("next-cycle-of"), "{shell}");
    }
}

#[test]
fn a_pipe_closed_by_its_reader_is_not_an_error() {
    use std::process::Stdio;
    for args in [
        ["config", "init"],
        ["config", "show"],
        ["completions", "bash"],
    ] {
        let mut child = tinygate()
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The pipe's reading end closes here, perhaps before the first byte is written.
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{args:?}");
    }
}
