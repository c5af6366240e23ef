//! An error as one sentence, and what to do on a line of its own.

use super::{Style, say};

/// Prints an error and its hint, if any cause has one.
pub fn error(error: &anyhow::Error) {
    let (what, hint) = split(&chain(error));
    let style = Style::of_stderr();
    say(&format!("{} {what}", style.bad("error:")));
    if let Some(hint) = hint {
        say(&format!("\n{} {hint}", style.good("hint:")));
    }
}

/// All causes, joined. Some libraries repeat their cause in their own words: it is said once.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            let (what, hint) = split(&text);
            text = match hint {
                Some(hint) => format!("{what}: {cause}\nhint: {hint}"),
                None => format!("{what}: {cause}"),
            };
        }
    }
    text
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
        assert_eq!(chain(&error), "cannot read: no such device\nhint: look");
        let error = anyhow::anyhow!("inner").context("outer\nhint: look");
        assert_eq!(chain(&error), "outer: inner\nhint: look");
    }
}
