//! Parses text into a tree of values, each with its location.
//!
//! A TOML file, an override `key=value` and the JSON of a run's first event all become
//! such a tree. Only syntax is checked here, and nothing is dropped, so that later
//! errors can give the line. The parsers limit the depth.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Fault, Location, Problem};

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub location: Location,
    pub value: Value,
}

impl Node {
    /// The entry of this name, if this is a table that has one.
    pub fn entry(&self, name: &str) -> Option<&Node> {
        if let Value::Table(entries) = &self.value {
            entries.get(name)
        } else {
            None
        }
    }

    /// The entries of a table by name; empty if this is not a table.
    pub fn entries(&self) -> impl Iterator<Item = (&String, &Node)> {
        let entries = if let Value::Table(entries) = &self.value {
            Some(entries)
        } else {
            None
        };
        entries.into_iter().flatten()
    }
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    /// A number too large for an `i64` or `f64`.
    TooLarge(String),
    Float(f64),
    Flag(bool),
    Date(String),
    Null,
    List(Vec<Value>),
    Table(BTreeMap<String, Node>),
}

impl Value {
    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = self {
            Some(text)
        } else {
            None
        }
    }

    pub fn list(&self) -> Option<&[Value]> {
        if let Value::List(items) = self {
            Some(items)
        } else {
            None
        }
    }

    /// The value as errors describe it.
    pub fn found(&self) -> String {
        match self {
            Value::Text(text) => format!("the string \"{}\"", shortened(text)),
            Value::Integer(n) => format!("the integer {n}"),
            Value::TooLarge(text) => format!("the number {}", shortened(text)),
            Value::Float(x) => format!("the number {x:?}"),
            Value::Flag(flag) => format!("the flag {flag}"),
            Value::Date(text) => format!("the date {text}"),
            Value::Null => "null".to_owned(),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Table(_) => "a table".to_owned(),
        }
    }
}

/// `key=value`, split and parsed.
#[derive(Clone, Debug)]
pub struct Override {
    /// The dotted key.
    pub(super) key: String,
    pub(super) node: Node,
}

impl Override {
    /// Parses `video_tokenizer.learning_rate=1e-3`. The value is a TOML value; a
    /// bare word is a string. `source` is the caller's name for overrides; errors put it
    /// before the text.
    ///
    /// # Errors
    /// There is no `=`, the key is empty or malformed, or the value is invalid.
    pub fn parse(source: &str, text: &str) -> Result<Override, ConfigError> {
        read_override(source, text)
    }

    /// The dotted key.
    pub fn key(&self) -> &str {
        &self.key
    }
}

fn read_override(source: &str, text: &str) -> Result<Override, ConfigError> {
    let location = Location::Override {
        source: Arc::from(source),
        text: Arc::from(shortened(text)),
    };
    let reject = |why| {
        let fault = Fault::Override {
            text: shortened(text),
            why,
        };
        let location = location.clone();
        ConfigError::Invalid {
            problems: vec![Problem { location, fault }],
        }
    };
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| reject("there is no `=`"))?;
    let (key, value) = (key.trim(), value.trim());
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    if !key.split('.').all(plain) {
        return Err(reject("the key is not a dotted name"));
    }
    if value.is_empty() {
        return Err(reject("the value is empty"));
    }
    if key.split('.').count() > 16 || too_deep(value).is_some() {
        return Err(reject("it is nested too deeply"));
    }
    let value = match DeValue::parse(value) {
        Ok(parsed) => convert(parsed.get_ref(), &|_| location.clone()),
        Err(_) if value.starts_with(['[', '{', '"', '\'']) => {
            return Err(reject("the value is not valid TOML"));
        }
        Err(_) => Value::Text(value.to_owned()),
    };
    Ok(Override {
        key: key.to_owned(),
        node: Node { location, value },
    })
}

/// The tree of a TOML text; errors call it `file`.
pub(super) fn from_toml(text: &str, file: &Arc<str>) -> Result<Node, Vec<Problem>> {
    let starts: Vec<usize> = std::iter::once(0)
        .chain(text.match_indices('\n').map(|(at, _)| at + 1))
        .collect();
    let location = |at: usize| Location::Line {
        file: Arc::clone(file),
        line: starts.partition_point(|start| *start <= at).max(1),
    };
    if let Some(at) = too_deep(text) {
        let message = "a key has more than 500 parts".to_owned();
        return Err(vec![Problem {
            location: location(at),
            fault: Fault::Syntax { message },
        }]);
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors
            .iter()
            .map(|error| Problem {
                location: match error.span() {
                    Some(span) => location(span.start),
                    None => Location::Whole {
                        file: Arc::clone(file),
                    },
                },
                fault: Fault::Syntax {
                    message: error.message().replace('\n', ", "),
                },
            })
            .collect());
    }
    Ok(Node {
        location: Location::Whole {
            file: Arc::clone(file),
        },
        value: convert_table(table.get_ref(), &location),
    })
}

/// The tree of the config in a run's first event.
pub(super) fn from_json(json: &serde_json::Value) -> Node {
    Node {
        location: Location::Log,
        value: convert_json(json),
    }
}

/// An empty table.
pub(super) fn empty(location: Location) -> Node {
    Node {
        location,
        value: Value::Table(BTreeMap::new()),
    }
}

/// Sets the override's value, creating tables as needed and replacing any old value.
pub(super) fn overlay(tree: &mut Node, change: &Override) {
    let mut here = tree;
    for part in change.key.split('.') {
        if !matches!(here.value, Value::Table(_)) {
            here.value = Value::Table(BTreeMap::new());
            here.location = change.node.location.clone();
        }
        let Value::Table(entries) = &mut here.value else {
            return;
        };
        here = entries
            .entry(part.to_owned())
            .or_insert_with(|| empty(change.node.location.clone()));
    }
    *here = change.node.clone();
}

/// Where a dotted key is so long that its nested tables could overflow the stack; the
/// parser only limits the depth of brackets. This looks at bytes, not tokens, so a
/// string with that many dots is rejected too.
fn too_deep(text: &str) -> Option<usize> {
    let mut dots = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'.' => dots += 1,
            b'=' | b',' | b'[' | b']' | b'{' | b'}' | b'\n' => dots = 0,
            _ => {}
        }
        if dots > 500 {
            return Some(at);
        }
    }
    None
}

fn convert_table(table: &DeTable<'_>, location: &dyn Fn(usize) -> Location) -> Value {
    Value::Table(
        table
            .iter()
            .map(|(key, value)| {
                let node = Node {
                    location: location(key.span().start),
                    value: convert(value.get_ref(), location),
                };
                (key.get_ref().to_string(), node)
            })
            .collect(),
    )
}

fn convert(value: &DeValue<'_>, location: &dyn Fn(usize) -> Location) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Value::Integer(n),
            Err(_) => Value::TooLarge(n.to_string()),
        },
        DeValue::Float(x) => match x.as_str().parse::<f64>() {
            Ok(parsed) if parsed.is_infinite() && !x.as_str().contains("inf") => {
                Value::TooLarge(x.to_string())
            }
            Ok(parsed) => Value::Float(parsed),
            Err(_) => Value::TooLarge(x.to_string()),
        },
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| convert(item.get_ref(), location))
                .collect(),
        ),
        DeValue::Table(table) => convert_table(table, location),
    }
}

fn convert_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(flag) => Value::Flag(*flag),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(n), _) => Value::Integer(n),
            (None, Some(x)) if !n.is_u64() => Value::Float(x),
            (None, _) => Value::TooLarge(n.to_string()),
        },
        serde_json::Value::String(text) => Value::Text(text.clone()),
        serde_json::Value::Array(items) => Value::List(items.iter().map(convert_json).collect()),
        serde_json::Value::Object(entries) => Value::Table(
            entries
                .iter()
                .map(|(key, value)| {
                    let node = Node {
                        location: Location::Log,
                        value: convert_json(value),
                    };
                    (key.clone(), node)
                })
                .collect(),
        ),
    }
}

/// The first 60 characters of text quoted in an error.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
