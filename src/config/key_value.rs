//! The checked value of a key, between the text of a config and the fields of a [`Config`].
//!
//! A [`KeyValue`] can be written as JSON and as TOML; [`FieldType`] converts it to the
//! type of a field and back.
//!
//! [`Config`]: super::types::Config

use std::path::PathBuf;

use serde_json::{Map, Value as Json};

use crate::events::{Applies, Limit, RetryFrom, Rung, Scalar};

use super::ladder;
use super::types::{Device, TrainerKind};

/// A value that has the right type and is in range.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum KeyValue {
    Count(u64),
    Auto,
    Real(Scalar),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    Limit(Limit),
    Ladder(Vec<Rung>),
}

impl KeyValue {
    pub fn text(&self) -> Option<&str> {
        if let KeyValue::Text(text) = self {
            Some(text)
        } else {
            None
        }
    }

    pub fn texts(&self) -> Option<&[String]> {
        if let KeyValue::Texts(texts) = self {
            Some(texts)
        } else {
            None
        }
    }

    pub fn to_json(&self) -> Json {
        match self {
            KeyValue::Count(n) => Json::from(*n),
            KeyValue::Auto => Json::from("auto"),
            KeyValue::Real(x) => Json::from(x.get()),
            KeyValue::Flag(flag) => Json::from(*flag),
            KeyValue::Text(text) => Json::from(text.as_str()),
            KeyValue::Texts(texts) => Json::from(texts.clone()),
            KeyValue::Limit(Limit::Constant(x)) => Json::from(x.get()),
            KeyValue::Limit(Limit::Schedule(rows)) => rows
                .iter()
                .map(|(step, limit)| Json::from(vec![Json::from(*step), Json::from(limit.get())]))
                .collect(),
            KeyValue::Ladder(rungs) => rungs.iter().map(ladder::render).collect(),
        }
    }

    /// The value as TOML, on one line.
    pub fn to_toml(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let list = |items: Vec<String>| format!("[{}]", items.join(", "));
        let real = |x: &Scalar| format!("{:?}", x.get());
        match self {
            KeyValue::Count(n) => n.to_string(),
            KeyValue::Auto => quoted("auto"),
            KeyValue::Real(x) | KeyValue::Limit(Limit::Constant(x)) => real(x),
            KeyValue::Flag(flag) => flag.to_string(),
            KeyValue::Text(text) => quoted(text),
            KeyValue::Texts(texts) => list(texts.iter().map(|text| quoted(text)).collect()),
            KeyValue::Limit(Limit::Schedule(rows)) => list(
                rows.iter()
                    .map(|(step, limit)| format!("[{step}, {}]", real(limit)))
                    .collect(),
            ),
            KeyValue::Ladder(rungs) => list(
                rungs
                    .iter()
                    .map(|rung| quoted(&ladder::render(rung)))
                    .collect(),
            ),
        }
    }
}

/// Nested objects, one level per part of a key.
pub(super) fn to_json(entries: impl IntoIterator<Item = (String, KeyValue)>) -> Json {
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

/// The type of a field that holds the value of a key.
pub(super) trait FieldType: Sized {
    fn to_key_value(&self) -> KeyValue;

    /// `None`: a value of another type. The key's kind has already rejected those.
    fn from_key_value(given: &KeyValue) -> Option<Self>;
}

macro_rules! field_type {
    ($type:ty, $variant:ident) => {
        impl FieldType for $type {
            fn to_key_value(&self) -> KeyValue {
                KeyValue::$variant(self.clone())
            }

            fn from_key_value(given: &KeyValue) -> Option<Self> {
                if let KeyValue::$variant(value) = given {
                    Some(value.clone())
                } else {
                    None
                }
            }
        }
    };
}

field_type!(u64, Count);
field_type!(Scalar, Real);
field_type!(bool, Flag);
field_type!(String, Text);
field_type!(Limit, Limit);
field_type!(Vec<Rung>, Ladder);

impl FieldType for u32 {
    fn to_key_value(&self) -> KeyValue {
        KeyValue::Count(u64::from(*self))
    }

    fn from_key_value(given: &KeyValue) -> Option<Self> {
        u64::from_key_value(given).and_then(|n| u32::try_from(n).ok())
    }
}

/// `None` is "auto".
impl<T: FieldType> FieldType for Option<T> {
    fn to_key_value(&self) -> KeyValue {
        self.as_ref().map_or(KeyValue::Auto, T::to_key_value)
    }

    fn from_key_value(given: &KeyValue) -> Option<Self> {
        if *given == KeyValue::Auto {
            Some(None)
        } else {
            T::from_key_value(given).map(Some)
        }
    }
}

impl FieldType for Device {
    fn to_key_value(&self) -> KeyValue {
        KeyValue::Text(self.to_string())
    }

    fn from_key_value(given: &KeyValue) -> Option<Self> {
        given.text().and_then(Device::from_name)
    }
}

impl FieldType for Vec<String> {
    fn to_key_value(&self) -> KeyValue {
        KeyValue::Texts(self.clone())
    }

    fn from_key_value(given: &KeyValue) -> Option<Self> {
        given.texts().map(<[String]>::to_vec)
    }
}

/// Paths in a config are Unicode, since they were read from text.
impl FieldType for Vec<PathBuf> {
    fn to_key_value(&self) -> KeyValue {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        KeyValue::Texts(self.iter().map(text).collect())
    }

    fn from_key_value(given: &KeyValue) -> Option<Self> {
        Some(given.texts()?.iter().map(PathBuf::from).collect())
    }
}

impl FieldType for PathBuf {
    fn to_key_value(&self) -> KeyValue {
        KeyValue::Text(self.to_string_lossy().into_owned())
    }

    fn from_key_value(given: &KeyValue) -> Option<Self> {
        given.text().map(PathBuf::from)
    }
}

/// A type that a config writes as one of a few names.
pub(super) trait Named: Copy + PartialEq + 'static {
    const NAMES: &'static [(&'static str, Self)];
}

/// The names of a [`Named`] type.
pub(super) fn names<T: Named>() -> Vec<&'static str> {
    T::NAMES.iter().map(|(name, _)| *name).collect()
}

impl<T: Named> FieldType for T {
    fn to_key_value(&self) -> KeyValue {
        let name = T::NAMES.iter().find(|(_, value)| value == self);
        KeyValue::Text(name.map_or("", |(name, _)| name).to_owned())
    }

    fn from_key_value(given: &KeyValue) -> Option<Self> {
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

impl Named for TrainerKind {
    const NAMES: &'static [(&'static str, TrainerKind)] = &[
        ("builtin", TrainerKind::BuiltIn),
        ("command", TrainerKind::Command),
    ];
}

impl Named for Applies {
    const NAMES: &'static [(&'static str, Applies)] = &[
        ("every_gate", Applies::EveryGate),
        ("at_target", Applies::AtTarget),
    ];
}
