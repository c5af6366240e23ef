//! An error as one sentence, and what to do on a line of its own.

use std::error::Error;

use tinygate::config::ConfigError;

use super::hint::{of_cause, problem};
use super::{Style, say};

/// Prints an error and its hint, if any cause has one.
pub fn error(error: &anyhow::Error) {
    let (what, hint) = chain(error);
    let style = Style::of_stderr();
    say(&format!("{} {what}", style.bad("error:")));
    if let Some(hint) = hint {
        say(&format!("\n{} {hint}", style.good("hint:")));
    }
}

/// All causes, joined, and the outermost hint. Some libraries repeat their cause in
/// their own words: it is said once.
fn chain(error: &anyhow::Error) -> (String, Option<String>) {
    let mut text = String::new();
    let mut hint = None;
    for cause in error.chain() {
        let what = what(cause);
        // The text of an error with advice may quote another program's hint, which stays in it.
        let (what, told) = match of_cause(cause) {
            Some(advice) => (what.trim_end().to_owned(), Some(advice)),
            None => split(&what),
        };
        if text.is_empty() {
            text = what;
        } else if !text.contains(&what) {
            text = format!("{text}: {what}");
        }
        hint = hint.or(told);
    }
    (text, hint)
}

/// The text of a cause. Of several problems in a config each has its hint.
fn what(cause: &(dyn Error + 'static)) -> String {
    match cause.downcast_ref::<ConfigError>() {
        Some(error) if 1 < error.problems().len() => error.list(problem),
        _ => cause.to_string(),
    }
}

/// The text without its last hint, and the hint. A list of problems keeps its own.
fn split(text: &str) -> (String, Option<String>) {
    let is_hint = |line: &str| line.trim_start().starts_with("hint: ");
    if 1 < text.lines().filter(|line| is_hint(line)).count() {
        return (text.to_owned(), None);
    }
    let Some(place) = text.lines().position(is_hint) else {
        return (text.trim_end().to_owned(), None);
    };
    let what: Vec<&str> = text.lines().take(place).collect();
    let hint: Vec<&str> = text.lines().skip(place).map(str::trim).collect();
    let hint = hint.join(" ");
    let hint = hint.strip_prefix("hint: ").unwrap_or(&hint).to_owned();
    (what.join("\n").trim_end().to_owned(), Some(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, text: &str, want: (&str, Option<&str>)) {
        let (what, hint) = split(text);
        assert_eq!((what.as_str(), hint.as_deref()), want, "{name}");
    }

    #[test]
    fn a_hint_is_found_however_it_is_set_off() {
        check("none", "the disk is full", ("the disk is full", None));
        check(
            "on the next line",
            "full\nhint: free some",
            ("full", Some("free some")),
        );
        check(
            "after a blank line",
            "full\n\nhint: free some",
            ("full", Some("free some")),
        );
        check(
            "indented",
            "a.toml:1: no\n  hint: `yes`",
            ("a.toml:1: no", Some("`yes`")),
        );
        check(
            "each problem of a list keeps its own",
            "2 problems\na\n  hint: b\nc\n  hint: d",
            ("2 problems\na\n  hint: b\nc\n  hint: d", None),
        );
    }

    #[test]
    fn a_cause_that_is_repeated_is_said_once() {
        let cause = std::io::Error::other("no such device");
        let error = anyhow::Error::new(cause).context("cannot read: no such device\nhint: look");
        let want = (
            "cannot read: no such device".to_owned(),
            Some("look".to_owned()),
        );
        assert_eq!(chain(&error), want);
    }

    #[test]
    fn the_advice_of_a_cause_is_its_hint() {
        let unreadable = ConfigError::Unreadable {
            path: "a.toml".to_owned(),
            reason: "no".to_owned(),
        };
        let (what, hint) = chain(&anyhow::Error::new(unreadable).context("cannot start"));
        assert_eq!(what, "cannot start: cannot read the config `a.toml`: no");
        let want = "check the path; `tinygate config init` prints a config to begin with";
        assert_eq!(hint.as_deref(), Some(want));
    }

    #[test]
    fn each_problem_of_a_config_has_its_hint() {
        let text = "sed = 1\ndata.path = 3\n";
        let folder = std::path::Path::new("/");
        let error = tinygate::config::Config::parse(text, "a.toml", folder, &[]).unwrap_err();
        let (what, hint) = chain(&anyhow::Error::new(error));
        let want = "2 problems in the config\n\
                    a.toml:1: unknown key `sed`\n  hint: did you mean `seed`?\n\
                    a.toml:2: `data.path` is the integer 3, expected a path or a list of paths\n  \
                    hint: `tinygate config show` lists every key with what it takes";
        assert_eq!((what.as_str(), hint), (want, None));
    }

    #[cfg(feature = "train")]
    #[test]
    fn a_quoted_hint_stays_in_the_text() {
        let ended = tinygate::train::ranks::RendezvousError::Ended {
            rank: 1,
            status: "exit status: 2".to_owned(),
            stderr: "error: no frames\n\nhint: look".to_owned(),
        };
        let (what, hint) = chain(&anyhow::Error::new(ended));
        let want = "rank 1 exited before it began to train (exit status: 2): error: no frames\n\nhint: look";
        assert_eq!(what, want);
        assert!(hint.is_some_and(|hint| hint.contains("--allow-single-gpu-fallback")));
    }

    #[test]
    fn the_outermost_hint_counts() {
        let error = anyhow::anyhow!("inner\nhint: wait").context("outer\nhint: look");
        let want = ("outer: inner".to_owned(), Some("look".to_owned()));
        assert_eq!(chain(&error), want);
        let error = anyhow::anyhow!("inner\nhint: wait").context("outer");
        let want = ("outer: inner".to_owned(), Some("wait".to_owned()));
        assert_eq!(chain(&error), want);
    }
}
