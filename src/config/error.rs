//! What can be wrong with a config, and where.
//!
//! All problems of a config are collected and shown together, so that one check finds
//! every mistake. A [`Problem`] is a [`Fault`] at a [`Location`]; its [`Advice`] says
//! what to write instead.

use std::fmt;
use std::sync::Arc;

use crate::advice::{Advice, Hint};

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the config `{path}`: {reason}")]
    Unreadable { path: String, reason: String },
    #[error("{path}:{line}:{column}: the config is not UTF-8 text: {what}")]
    NotUtf8 {
        path: String,
        /// Line of the first invalid byte, counted from 1.
        line: usize,
        /// Column in characters, counted from 1.
        column: usize,
        /// What was found there.
        what: String,
        /// The likely encoding of the file.
        from: &'static str,
    },
    #[error("{}", self.list(ToString::to_string))]
    Invalid { problems: Vec<Problem> },
}

impl ConfigError {
    /// The error for a text that is valid UTF-8 only up to byte `valid`.
    pub(super) fn not_utf8(path: String, bytes: &[u8], valid: usize) -> ConfigError {
        let before = String::from_utf8_lossy(bytes.get(..valid).unwrap_or_default());
        let wide = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
        let byte = bytes.get(valid).copied().unwrap_or_default();
        let what = match byte {
            _ if wide => "it looks like UTF-16".to_owned(),
            // In Latin-1 a byte is the character with that code point.
            0xa0..=0xff => format!(
                "byte 0x{byte:02x}, in Latin-1 the character `{}`",
                char::from(byte)
            ),
            _ => format!("byte 0x{byte:02x}"),
        };
        ConfigError::NotUtf8 {
            path,
            line: before.matches('\n').count() + 1,
            column: before
                .rsplit('\n')
                .next()
                .unwrap_or_default()
                .chars()
                .count()
                + 1,
            what,
            from: if wide { "UTF-16" } else { "LATIN1" },
        }
    }

    /// A message listing every problem; `text_of` formats each one.
    pub fn list(&self, mut text_of: impl FnMut(&Problem) -> String) -> String {
        let many = match self.problems() {
            [only] => return text_of(only),
            many => many,
        };
        let mut lines = vec![format!("{} problems in the config", many.len())];
        lines.extend(many.iter().take(SHOWN).map(text_of));
        match many.len().saturating_sub(SHOWN) {
            0 => {}
            more => lines.push(format!("and {more} more")),
        }
        lines.join("\n")
    }

    /// The problems found in the text; empty if it could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            ConfigError::Unreadable { .. } | ConfigError::NotUtf8 { .. } => &[],
            ConfigError::Invalid { problems } => problems,
        }
    }
}

impl Advice for ConfigError {
    /// The hints of a single problem. Several problems each have their own.
    fn hints(&self) -> Vec<Hint> {
        match self {
            ConfigError::Unreadable { .. } => {
                vec![Hint::text("check the path"), Hint::ExampleConfig]
            }
            ConfigError::NotUtf8 { from, .. } => vec![Hint::text(format!(
                "save the file as UTF-8, in an editor or with `iconv -f {from} -t UTF-8`"
            ))],
            ConfigError::Invalid { problems } => match problems.as_slice() {
                [only] => only.fault.hints(),
                _ => Vec::new(),
            },
        }
    }
}

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// The file as a whole, for example when a key is missing.
    Whole { file: Arc<str> },
    /// A line, counted from 1.
    Line { file: Arc<str>, line: usize },
    /// An override with this text; `source` is the caller's name for overrides.
    Override { source: Arc<str>, text: Arc<str> },
    /// The config in a run's log.
    Log,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Whole { file } => f.write_str(file),
            Location::Line { file, line } => write!(f, "{file}:{line}"),
            Location::Override { source, text } => write!(f, "{source} {text}"),
            Location::Log => f.write_str("config in the log"),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub location: Location,
    pub fault: Fault,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location, self.fault)
    }
}

/// What is wrong. Keys are full paths, such as `video_tokenizer.learning_rate`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error("not TOML: {message}")]
    Syntax { message: String },
    #[error("`{text}` is not `key=value`: {why}")]
    Override { text: String, why: &'static str },
    #[error("unknown key `{key}`")]
    UnknownKey { key: String, hints: Vec<Hint> },
    #[error("`{key}` is missing: {meaning}")]
    Missing { key: String, meaning: String },
    #[error("`{key}` makes this a custom stage, but its model `{model}` is one of TinyWorlds'")]
    NotCustom { key: String, model: String },
    #[error("`{key}` is {found}, expected {expected}")]
    WrongType {
        key: String,
        found: String,
        expected: String,
        /// The value that was probably meant.
        suggestion: Option<String>,
    },
    #[error("`{key}` is {found}, outside {range}")]
    OutOfRange {
        key: String,
        found: String,
        /// With its unit.
        range: String,
    },
    #[error("`{key}` is `{found}`, expected one of {}", Quoted(.choices))]
    NotAChoice {
        key: String,
        found: String,
        choices: Vec<String>,
        nearest: Option<String>,
    },
    #[error("`{key}` lists `{found}` twice")]
    Duplicate { key: String, found: String },
    #[error("`{key}`: `{found}` is not a valid stage name: {why}")]
    StageName {
        key: String,
        found: String,
        why: &'static str,
    },
    #[error("stage `{stage}` trains {model}, which needs a {needs} stage before it in `stages`")]
    StageOrder {
        stage: String,
        model: &'static str,
        needs: &'static str,
    },
    #[error("`{key}` = {found} is not divisible by `{by_key}` = {by}")]
    NotDivisible {
        key: String,
        found: u64,
        by_key: String,
        by: u64,
    },
    #[error("`{key}` = {found} is odd, but position encodings need pairs of sine and cosine")]
    Odd { key: String, found: u64 },
    #[error("`{key}` = {found} is not a power of two")]
    NotAPowerOfTwo { key: String, found: u64 },
    #[error(
        "`num_bins` ^ `latent_dim` = {num_bins} ^ {latent_dim} is more than {most} codes, the largest codebook"
    )]
    CodebookTooLarge {
        num_bins: u64,
        latent_dim: u64,
        most: u64,
    },
    #[error("`{key}` = {found} is more than `{limit_key}` = {limit}{why}")]
    Above {
        key: String,
        found: String,
        limit_key: String,
        limit: String,
        why: &'static str,
    },
    #[error("`{key}` = {found} is less than {least}: {why}")]
    Below {
        key: String,
        found: String,
        least: String,
        why: &'static str,
    },
    #[error(
        "the {which} chunk of `{stage}` has {updates} updates, but `{criterion}` needs {needed} loss samples"
    )]
    ChunkTooShort {
        stage: String,
        which: &'static str,
        updates: u64,
        criterion: String,
        needed: u64,
    },
    #[error("`{key}` leaves out `{criterion}`: {why}")]
    CriterionRequired {
        key: String,
        criterion: &'static str,
        why: &'static str,
    },
    #[error("`{key}` asks for `{criterion}`, which a {model} stage does not measure")]
    NotMeasured {
        key: String,
        criterion: String,
        model: String,
    },
    #[error("criterion `{criterion}` needs a limit, but `{key}` is not set")]
    NoLimit { criterion: String, key: String },
    #[error("`{key}` has no effect: {} {} not in `{criteria_key}`", Quoted(.criteria), if .criteria.len() == 1 { "is" } else { "are" })]
    NotListed {
        key: String,
        criteria: Vec<String>,
        criteria_key: String,
    },
    #[error("`{key}`: {found} can never be reached: {why}")]
    Unreachable {
        key: String,
        found: String,
        why: String,
    },
    #[error("`{key}`: expected [[step, limit], ...] with increasing steps, but {why}")]
    Schedule { key: String, why: String },
    #[error("`{key}`: rung `{rung}`: {why}")]
    Rung {
        key: String,
        rung: String,
        why: String,
    },
    #[error("`{key}` cannot change in an existing run: {why}")]
    Fixed { key: String, why: &'static str },
    #[error(
        "the path of the config is not valid Unicode, so `{key}` cannot be resolved against it"
    )]
    PathNotUnicode { key: String },
}

impl Advice for Fault {
    /// What to write instead.
    fn hints(&self) -> Vec<Hint> {
        let text = match self {
            Fault::UnknownKey { hints, .. } if hints.is_empty() => return vec![Hint::ListKeys],
            Fault::UnknownKey { hints, .. } => return hints.clone(),
            Fault::WrongType {
                suggestion: None, ..
            } => return vec![Hint::ListKeys],
            Fault::WrongType {
                suggestion: Some(suggestion),
                ..
            } => format!("write `{suggestion}`"),
            Fault::Fixed { .. } => return vec![Hint::StartAnotherRun],
            Fault::Override { .. } => return vec![Hint::OverrideForm],
            Fault::Syntax { .. } => {
                let text = "put strings in double quotes, and start comments with `#`";
                return vec![Hint::text(text), Hint::ExampleConfig];
            }
            Fault::Missing { key, .. } => {
                return vec![Hint::text(format!("add `{key} = ...`")), Hint::ListKeys];
            }
            Fault::OutOfRange { .. } => {
                return vec![Hint::text("use a value in this range"), Hint::ListKeys];
            }
            Fault::NotAChoice { nearest, .. } => match nearest {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => "use one of these".to_owned(),
            },
            Fault::NotAPowerOfTwo { found, .. } => {
                let below = (*found)
                    .checked_ilog2()
                    .map_or(2, |bits| 1_u64 << bits)
                    .max(2);
                format!("use {below} or {}", below * 2)
            }
            Fault::ChunkTooShort { stage, .. } => {
                format!("raise `{stage}.chunk_size`, or make it a divisor of `{stage}.n_updates`")
            }
            Fault::NotListed {
                criteria,
                criteria_key,
                ..
            } => {
                let first = criteria.first().map_or("", String::as_str);
                format!("add \"{first}\" to `{criteria_key}`")
            }
            Fault::Rung { .. } => super::ladder::FORMS.to_owned(),
            Fault::NotCustom { key, .. } => {
                format!("remove `{key}`, or give the stage another `model`")
            }
            Fault::Duplicate { found, .. } => format!("remove one `{found}`"),
            Fault::StageName { .. } => "choose another name".to_owned(),
            Fault::StageOrder { stage, needs, .. } => {
                format!("put a {needs} stage before `{stage}` in `stages`")
            }
            Fault::NotDivisible { key, by_key, .. } => format!(
                "set `{by_key}` to a divisor of `{key}`, or `{key}` to a multiple of `{by_key}`"
            ),
            Fault::Odd { found, .. } => format!(
                "use {} or {}",
                found.saturating_sub(1),
                found.saturating_add(1)
            ),
            Fault::CodebookTooLarge { .. } => "lower `num_bins` or `latent_dim`".to_owned(),
            Fault::Above { key, limit_key, .. } => format!("lower `{key}` or raise `{limit_key}`"),
            Fault::Below { key, least, .. } => format!("set `{key}` to {least} or more"),
            Fault::CriterionRequired { key, criterion, .. } => {
                format!("add \"{criterion}\" to `{key}`")
            }
            Fault::NotMeasured { key, criterion, .. } => {
                format!("remove \"{criterion}\" from `{key}`")
            }
            Fault::NoLimit { criterion, key } => {
                format!("set `{key}`, or remove \"{criterion}\" from the criteria")
            }
            Fault::Unreachable { .. } => "set a limit that can be reached".to_owned(),
            Fault::Schedule { .. } => "write it like `[[5000, 0.05], [40000, 0.01]]`".to_owned(),
            Fault::PathNotUnicode { .. } => {
                "write an absolute path, or rename the config's folder".to_owned()
            }
        };
        vec![Hint::text(text)]
    }
}

/// Problems shown at most; a file that is not a config has thousands.
const SHOWN: usize = 50;

struct Quoted<'a>(&'a [String]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, text) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}`{text}`")?;
        }
        Ok(())
    }
}
