//! `config init`, `check` and `show`, and the errors for invalid configs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics at anything unexpected"
)]

mod support;

use std::io::Write;
use std::process::Stdio;

use support::{CONFIG, Done, Sandbox, run, tinygate};

#[test]
fn a_fresh_config_is_valid() {
    for preset in ["seed", "strict"] {
        let sandbox = Sandbox::new();
        let text = run(["config", "init", "--preset", preset]).expect(0).stdout;
        let file = sandbox.write("fresh.toml", &text);
        let checked = run(["config", "check", &file]).expect(0);
        assert_eq!(checked.stdout, "", "{preset}");
        let want = "fresh.toml` is valid; its stages are `video_tokenizer`, ";
        assert!(checked.stderr.contains(want), "{}", checked.stderr);
    }
}

#[test]
fn a_shown_config_is_equivalent() {
    let sandbox = Sandbox::with_config(1);
    let args = ["--set", "video_tokenizer.learning_rate=0.5"];
    let shown = run(["config", "show", &sandbox.config()]
        .into_iter()
        .chain(args))
    .expect(0)
    .stdout;
    assert!(shown.contains("learning_rate = 0.5\n"), "{shown}");
    assert!(shown.contains("# default"), "{shown}");
    let again = sandbox.write("again.toml", &shown);
    let shown_again = run(["config", "show", &again]).expect(0).stdout;
    let plain = |text: &str| text.replace("  # default", "");
    assert_eq!(plain(&shown), plain(&shown_again));
}

#[test]
fn every_key_has_a_default_and_a_meaning() {
    let shown = run(["config", "show"]).expect(0).stdout;
    let (built_in, custom) = shown.split_once("\n\n# ").unwrap();
    let keys = tinygate::config::describe();
    assert!(keys.iter().any(|row| row.key == "STAGE.learning_rate"));
    check_shown(built_in, &keys);
    let (title, custom) = custom.split_once('\n').unwrap();
    assert!(title.contains("custom stage"), "{title}");
    let keys = tinygate::config::describe_custom();
    assert!(keys.iter().any(|row| row.key == "STAGE.loss"));
    check_shown(custom, &keys);
}

#[track_caller]
fn check_shown(shown: &str, keys: &[tinygate::config::KeyRow]) {
    let lines: Vec<&str> = shown.lines().collect();
    let (entries, rest) = lines.as_chunks::<4>();
    assert_eq!((entries.len(), rest.len()), (keys.len(), 0), "{shown}");
    for (row, [key, meaning, default, on_resume]) in keys.iter().zip(entries) {
        assert!(key.starts_with(&format!("{} (", row.key)), "{key}");
        assert!(meaning.trim().len() > 10, "{key}: {meaning}");
        assert!(
            default.starts_with("    default: ") && default.len() > 13,
            "{key}: {default}"
        );
        assert!(
            on_resume.starts_with("    on resume: "),
            "{key}: {on_resume}"
        );
    }
}

#[track_caller]
fn check(name: &str, set: &str, texts: &[&str]) {
    let sandbox = Sandbox::with_config(1);
    let done = run(["config", "check", &sandbox.config(), "--set", set]).expect_error(2, texts);
    assert_eq!(done.stdout, "", "{name}");
}

#[test]
fn an_invalid_key_or_value_is_reported_with_what_is_expected() {
    check(
        "a misspelt key",
        "video_tokenizer.learning_rat=1",
        &[
            "unknown key `video_tokenizer.learning_rat`",
            "\n\nhint: ",
            "`video_tokenizer.learning_rate`",
        ],
    );
    check(
        "a string instead of a number",
        "seed=red",
        &["`seed`", "expected an integer"],
    );
    check(
        "a number out of range",
        "video_tokenizer.learning_rate=-1",
        &["`video_tokenizer.learning_rate`"],
    );
    check("an unknown choice", "preset=sed", &["`preset`", "`seed`"]);
    check("no assignment", "seed", &["`seed` is not `key=value`"]);
    check(
        "incompatible values",
        "patch_size=10",
        &["not divisible", "`patch_size`"],
    );
}

#[test]
fn all_problems_are_shown_at_once_with_their_lines() {
    let sandbox = Sandbox::new();
    let file = sandbox.write(
        "two.toml",
        "seed = \"red\"\nframe_sise = 64\ndata.path = \"x.h5\"\n",
    );
    run(["config", "check", &file]).expect_error(2, &["two.toml:1", "two.toml:2", "`frame_size`"]);
}

#[test]
fn a_missing_config_and_invalid_toml_are_reported() {
    let sandbox = Sandbox::new();
    run(["config", "check", &sandbox.arg("none.toml")]).expect_error(2, &["none.toml"]);
    let file = sandbox.write("bad.toml", "seed = = 3");
    run(["config", "check", &file]).expect_error(2, &["bad.toml:1: not TOML"]);
}

/// Runs a command with a config on its standard input.
fn piped(args: &[&str], config: &[u8]) -> Done {
    let mut child = tinygate()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config).unwrap();
    Done::of(child.wait_with_output().unwrap())
}

#[test]
fn a_config_can_be_read_from_standard_input() {
    let done = piped(&["config", "check", "-"], CONFIG.as_bytes()).expect(0);
    assert!(
        done.stderr.contains("the config is valid"),
        "{}",
        done.stderr
    );
    let shown = piped(&["config", "show", "-"], CONFIG.as_bytes()).expect(0);
    assert!(shown.stdout.contains("frames.npy"), "{}", shown.stdout);
    piped(&["config", "check", "-"], b"sed = 3").expect_error(2, &["standard input:1", "`seed`"]);
    // Its paths are relative to the working directory.
    let text = CONFIG.replace("frames.npy", "no/such/frames.npy");
    let here = std::env::current_dir().unwrap().join("no/such/frames.npy");
    let dir = Sandbox::new().arg("run");
    if cfg!(feature = "train") {
        let done = piped(&["run", "-", "--dir", &dir], text.as_bytes());
        done.expect_error(2, &[here.to_str().unwrap()]);
    }
}

/// The error gives the position of the first invalid byte and the command that converts the file.
#[test]
fn a_config_that_is_not_utf8_is_reported_with_the_position() {
    let sandbox = Sandbox::new();
    let check = |name: &str, bytes: &[u8], texts: &[&str]| {
        let file = sandbox.write(name, bytes);
        run(["config", "check", &file]).expect_error(2, texts);
    };
    check(
        "latin1.toml",
        b"seed = 3\n# f\xfcr B\xe4r\n",
        &["latin1.toml:2:4", "`\u{fc}`", "iconv -f LATIN1"],
    );
    check("byte.toml", b"\x81", &["byte.toml:1:1", "0x81"]);
    check(
        "wide.toml",
        b"\xff\xfes\0e\0",
        &["wide.toml:1:1", "UTF-16", "iconv -f UTF-16"],
    );
    check("cut.toml", b"# \xc3", &["cut.toml:1:3"]);
}
