//! An error as one sentence, with what to do on another line.

use std::error::Error;
use std::fmt;

use tinygate::config::ConfigError;

use super::Style;
use super::hint::{of_cause, problem};
use super::streams::say;

/// An error of a command, with a hint in the words of the command line.
#[derive(Debug)]
pub struct Advised {
    text: String,
    hint: String,
    cause: Option<anyhow::Error>,
}

impl Advised {
    pub fn new(
        text: impl Into<String>,
        hint: impl Into<String>,
        cause: impl Into<anyhow::Error>,
    ) -> Advised {
        Advised {
            text: text.into(),
            hint: hint.into(),
            cause: Some(cause.into()),
        }
    }
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Advised {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_ref().map(AsRef::as_ref)
    }
}

/// An error without a cause.
pub fn advised(text: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Advised {
        text: text.into(),
        hint: hint.into(),
        cause: None,
    })
}

/// As `anyhow::Context`, with a hint.
pub trait Advise<T> {
    fn advise(self, text: impl FnOnce() -> String, hint: &str) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Advise<T> for Result<T, E> {
    fn advise(self, text: impl FnOnce() -> String, hint: &str) -> anyhow::Result<T> {
        self.map_err(|error| Advised::new(text(), hint, error).into())
    }
}

/// Prints an error and its hint, if any cause has one.
pub fn error(error: &anyhow::Error) {
    let (what, hint) = chain(error);
    let style = Style::of_stderr();
    say(&format!("{} {what}", style.bad("error:")));
    if let Some(hint) = hint {
        say(&format!("\n{} {hint}", style.good("hint:")));
    }
}

/// All causes, joined, and the outermost hint. Some libraries repeat their cause in their text; it is
/// printed once.
fn chain(error: &anyhow::Error) -> (String, Option<String>) {
    let mut text = String::new();
    let mut hint = None;
    for cause in error.chain() {
        let what = what(cause);
        let what = what.trim_end();
        if text.is_empty() {
            text = what.to_owned();
        } else if !text.contains(what) {
            text = format!("{text}: {what}");
        }
        hint = hint.or_else(|| hint_of(cause));
    }
    (text, hint)
}

fn hint_of(cause: &(dyn Error + 'static)) -> Option<String> {
    match cause.downcast_ref::<Advised>() {
        Some(advised) => Some(advised.hint.clone()),
        None => of_cause(cause),
    }
}

/// The text of a cause. Each of several problems in a config has its hint.
fn what(cause: &(dyn Error + 'static)) -> String {
    match cause.downcast_ref::<ConfigError>() {
        Some(error) if 1 < error.problems().len() => error.list(problem),
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_cause_is_printed_once() {
        let cause = Err::<(), _>(std::io::Error::other("no such device"));
        let error = cause.advise(|| "cannot read: no such device".to_owned(), "look");
        let want = (
            "cannot read: no such device".to_owned(),
            Some("look".to_owned()),
        );
        assert_eq!(chain(&error.unwrap_err()), want);
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
        let inner = || Err::<(), _>(advised("inner", "wait"));
        let both = inner().advise(|| "outer".to_owned(), "look").unwrap_err();
        let want = ("outer: inner".to_owned(), Some("look".to_owned()));
        assert_eq!(chain(&both), want);
        let error = anyhow::Context::context(inner(), "outer").unwrap_err();
        let want = ("outer: inner".to_owned(), Some("wait".to_owned()));
        assert_eq!(chain(&error), want);
    }
}
