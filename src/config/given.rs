//! The value of a key: between the text of a config and the types of a [`Config`].
//!
//! A [`Given`] is of one of few kinds, whatever the field is that keeps it. It is
//! written as JSON and as TOML, and [`Stored`] turns it into a field and back.
//!
//! [`Config`]: super::types::Config

use std::path::PathBuf;

use serde_json::{Map, Value as Json};

use crate::events::{Applies, Limit, RetryFrom, Rung, Scalar};

use super::ladder;
use super::types::Device;

/// A value of its kind and in its range.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Given {
    Count(u64),
    Auto,
    Real(Scalar),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    Limit(Limit),
    Ladder(Vec<Rung>),
}

impl Given {
    pub fn text(&self) -> Option<&str> {
        if let Given::Text(text) = self {
            Some(text)
        } else {
            None
        }
    }

    pub fn texts(&self) -> Option<&[String]> {
        if let Given::Texts(texts) = self {
            Some(texts)
        } else {
            None
        }
    }

    pub fn to_json(&self) -> Json {
        match self {
            Given::Count(n) => Json::from(*n),
            Given::Auto => Json::from("auto"),
            Given::Real(x) => Json::from(x.get()),
            Given::Flag(flag) => Json::from(*flag),
            Given::Text(text) => Json::from(text.as_str()),
            Given::Texts(texts) => Json::from(texts.clone()),
            Given::Limit(Limit::Constant(x)) => Json::from(x.get()),
            Given::Limit(Limit::Schedule(rows)) => rows
                .iter()
                .map(|(step, limit)| Json::from(vec![Json::from(*step), Json::from(limit.get())]))
                .collect(),
            Given::Ladder(rungs) => rungs.iter().map(ladder::render).collect(),
        }
    }

    /// The value as TOML writes it, on one line.
    pub fn to_toml(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let list = |items: Vec<String>| format!("[{}]", items.join(", "));
        let real = |x: &Scalar| format!("{:?}", x.get());
        match self {
            Given::Count(n) => n.to_string(),
            Given::Auto => quoted("auto"),
            Given::Real(x) | Given::Limit(Limit::Constant(x)) => real(x),
            Given::Flag(flag) => flag.to_string(),
            Given::Text(text) => quoted(text),
            Given::Texts(texts) => list(texts.iter().map(|text| quoted(text)).collect()),
            Given::Limit(Limit::Schedule(rows)) => list(
                rows.iter()
                    .map(|(step, limit)| format!("[{step}, {}]", real(limit)))
                    .collect(),
            ),
            Given::Ladder(rungs) => list(
                rungs
                    .iter()
                    .map(|rung| quoted(&ladder::render(rung)))
                    .collect(),
            ),
        }
    }
}

/// Nested objects by the dots of the keys.
pub(super) fn to_json(entries: impl IntoIterator<Item = (String, Given)>) -> Json {
    let mut root = Map::new();
    for (key, given) in entries {
        put(&mut root, &key, given.to_json());
    }
    Json::Object(root)
}

fn put(table: &mut Map<String, Json>, key: &str, value: Json) {
    let Some((first, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return;
    };
    let inner = table
        .entry(first)
        .or_insert_with(|| Json::Object(Map::new()));
    if let Json::Object(inner) = inner {
        put(inner, rest, value);
    }
}

/// A type of field that keeps the value of a key.
pub(super) trait Stored: Sized {
    fn to_given(&self) -> Given;

    /// `None`: a value of another kind, which the kind of the key has refused before.
    fn from_given(given: &Given) -> Option<Self>;
}

macro_rules! stored {
    ($type:ty, $variant:ident) => {
        impl Stored for $type {
            fn to_given(&self) -> Given {
                Given::$variant(self.clone())
            }

            fn from_given(given: &Given) -> Option<Self> {
                if let Given::$variant(value) = given {
                    Some(value.clone())
                } else {
                    None
                }
            }
        }
    };
}

stored!(u64, Count);
stored!(Scalar, Real);
stored!(bool, Flag);
stored!(String, Text);
stored!(Limit, Limit);
stored!(Vec<Rung>, Ladder);

impl Stored for u32 {
    fn to_given(&self) -> Given {
        Given::Count(u64::from(*self))
    }

    fn from_given(given: &Given) -> Option<Self> {
        u64::from_given(given).and_then(|n| u32::try_from(n).ok())
    }
}

/// `None` is "auto".
impl<T: Stored> Stored for Option<T> {
    fn to_given(&self) -> Given {
        self.as_ref().map_or(Given::Auto, T::to_given)
    }

    fn from_given(given: &Given) -> Option<Self> {
        if *given == Given::Auto {
            Some(None)
        } else {
            T::from_given(given).map(Some)
        }
    }
}

impl Stored for Device {
    fn to_given(&self) -> Given {
        Given::Text(self.to_string())
    }

    fn from_given(given: &Given) -> Option<Self> {
        given.text().and_then(Device::from_name)
    }
}

impl Stored for Vec<String> {
    fn to_given(&self) -> Given {
        Given::Texts(self.clone())
    }

    fn from_given(given: &Given) -> Option<Self> {
        given.texts().map(<[String]>::to_vec)
    }
}

/// Paths of a config are Unicode: they were read from text.
impl Stored for Vec<PathBuf> {
    fn to_given(&self) -> Given {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        Given::Texts(self.iter().map(text).collect())
    }

    fn from_given(given: &Given) -> Option<Self> {
        Some(given.texts()?.iter().map(PathBuf::from).collect())
    }
}

/// A type that a config writes as one of a few words.
pub(super) trait Named: Copy + PartialEq + 'static {
    const NAMES: &'static [(&'static str, Self)];
}

/// The words of a [`Named`] type.
pub(super) fn names<T: Named>() -> Vec<&'static str> {
    T::NAMES.iter().map(|(name, _)| *name).collect()
}

impl<T: Named> Stored for T {
    fn to_given(&self) -> Given {
        let name = T::NAMES.iter().find(|(_, value)| value == self);
        Given::Text(name.map_or("", |(name, _)| name).to_owned())
    }

    fn from_given(given: &Given) -> Option<Self> {
        let text = given.text()?;
        let named = T::NAMES.iter().find(|(name, _)| *name == text)?;
        Some(named.1)
    }
}

impl Named for RetryFrom {
    const NAMES: &'static [(&'static str, RetryFrom)] = &[
        ("newest", RetryFrom::Newest),
        ("last_passed", RetryFrom::LastPassed),
        ("best", RetryFrom::Best),
    ];
}

impl Named for Applies {
    const NAMES: &'static [(&'static str, Applies)] = &[
        ("every_gate", Applies::EveryGate),
        ("at_target", Applies::AtTarget),
    ];
}
