//! Text to a tree of values, each with its place.
//!
//! Three sources become the same tree: a TOML file, an override `key=value`, and the
//! JSON of a run's first event. Nothing is judged here but syntax; nothing is
//! dropped, so that a later complaint can name the line. Depth is bounded by the
//! parsers.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Fault, Place, Problem};

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

impl Node {
    /// What stands under a name, where this is a table that has it.
    pub fn entry(&self, name: &str) -> Option<&Node> {
        if let Value::Table(entries) = &self.value {
            entries.get(name)
        } else {
            None
        }
    }

    /// The entries of a table, by name; none where this is no table.
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
    /// An integer or a float that fits no machine number.
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

    /// For an error: what stands there.
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
    /// Reads `video_tokenizer.learning_rate=1e-3`. The value is a TOML value; a
    /// bare word is a string. In errors, `source` stands before the text: what the
    /// caller calls an override.
    ///
    /// # Errors
    /// A text without `=`, with an empty or malformed key, or with a broken value.
    pub fn parse(source: &str, text: &str) -> Result<Override, ConfigError> {
        read_override(source, text)
    }

    /// The dotted key.
    pub fn key(&self) -> &str {
        &self.key
    }
}

fn read_override(source: &str, text: &str) -> Result<Override, ConfigError> {
    let place = Place::Override {
        source: Arc::from(source),
        text: Arc::from(shortened(text)),
    };
    let refuse = |why| {
        let fault = Fault::Override {
            text: shortened(text),
            why,
        };
        let place = place.clone();
        ConfigError::Invalid {
            problems: vec![Problem { place, fault }],
        }
    };
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| refuse("there is no `=`"))?;
    let (key, value) = (key.trim(), value.trim());
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    if !key.split('.').all(plain) {
        return Err(refuse("the key is not a dotted name"));
    }
    if value.is_empty() {
        return Err(refuse("the value is empty"));
    }
    if key.split('.').count() > 16 || too_deep(value).is_some() {
        return Err(refuse("it is nested too deeply"));
    }
    let value = match DeValue::parse(value) {
        Ok(parsed) => convert(parsed.get_ref(), &|_| place.clone()),
        Err(_) if value.starts_with(['[', '{', '"', '\'']) => {
            return Err(refuse("the value is not valid TOML"));
        }
        Err(_) => Value::Text(value.to_owned()),
    };
    Ok(Override {
        key: key.to_owned(),
        node: Node { place, value },
    })
}

/// The tree of a TOML text; `file` names it in errors.
pub(super) fn from_toml(text: &str, file: &Arc<str>) -> Result<Node, Vec<Problem>> {
    let starts: Vec<usize> = std::iter::once(0)
        .chain(text.match_indices('\n').map(|(at, _)| at + 1))
        .collect();
    let place = |at: usize| Place::Line {
        file: Arc::clone(file),
        line: starts.partition_point(|start| *start <= at).max(1),
    };
    if let Some(at) = too_deep(text) {
        let message = "a key of more than 500 parts".to_owned();
        return Err(vec![Problem {
            place: place(at),
            fault: Fault::Syntax { message },
        }]);
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors
            .iter()
            .map(|error| Problem {
                place: match error.span() {
                    Some(span) => place(span.start),
                    None => Place::Whole {
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
        place: Place::Whole {
            file: Arc::clone(file),
        },
        value: convert_table(table.get_ref(), &place),
    })
}

/// The tree of the config in a run's first event.
pub(super) fn from_json(json: &serde_json::Value) -> Node {
    Node {
        place: Place::Log,
        value: convert_json(json),
    }
}

/// An empty tree of a file.
pub(super) fn empty(place: Place) -> Node {
    Node {
        place,
        value: Value::Table(BTreeMap::new()),
    }
}

/// Puts the override's value in its place, making tables on the way and
/// replacing whatever stood there.
pub(super) fn overlay(tree: &mut Node, change: &Override) {
    let mut here = tree;
    for part in change.key.split('.') {
        if !matches!(here.value, Value::Table(_)) {
            here.value = Value::Table(BTreeMap::new());
            here.place = change.node.place.clone();
        }
        let Value::Table(entries) = &mut here.value else {
            return;
        };
        here = entries
            .entry(part.to_owned())
            .or_insert_with(|| empty(change.node.place.clone()));
    }
    *here = change.node.clone();
}

/// Where a dotted key is so long that the nested tables could overflow the stack;
/// the parser bounds the depth of brackets only. Seen from the bytes alone, so a
/// text with that many dots in a row is refused too.
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

fn convert_table(table: &DeTable<'_>, place: &dyn Fn(usize) -> Place) -> Value {
    Value::Table(
        table
            .iter()
            .map(|(key, value)| {
                let node = Node {
                    place: place(key.span().start),
                    value: convert(value.get_ref(), place),
                };
                (key.get_ref().to_string(), node)
            })
            .collect(),
    )
}

fn convert(value: &DeValue<'_>, place: &dyn Fn(usize) -> Place) -> Value {
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
                .map(|item| convert(item.get_ref(), place))
                .collect(),
        ),
        DeValue::Table(table) => convert_table(table, place),
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
                        place: Place::Log,
                        value: convert_json(value),
                    };
                    (key.clone(), node)
                })
                .collect(),
        ),
    }
}

/// Foreign text in an error: its first 60 characters.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
