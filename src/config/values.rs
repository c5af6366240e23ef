//! Checks a tree of values key by key against the table of keys.
//!
//! Each value is checked alone: is the key known, has the value the right type, is it
//! in range. [`super::resolve`] then checks values against each other. Rejected and
//! missing keys are remembered so that one mistake is not reported twice.

use std::collections::{BTreeMap, BTreeSet};

use crate::advice::Hint;

use super::error::{Fault, Location, Problem};
use super::key_value::KeyValue;
use super::keys;
use super::kind::nearest;
use super::row::Row;
use super::schema::{Schema, inside, join};
use super::tree::{Node, Value, shortened};

pub(super) struct Values {
    /// The source as a whole.
    pub whole: Location,
    pub problems: Vec<Problem>,
    entries: BTreeMap<String, (KeyValue, Location)>,
    rejected: BTreeSet<String>,
}

/// After this many problems the rest is not read: the text is probably not a config.
const PROBLEMS_MOST: usize = 1_000;

impl Values {
    /// Checks every value of the tree.
    pub fn read(tree: &Node, schema: &Schema) -> Values {
        let mut values = Values {
            whole: tree.location.clone(),
            problems: Vec::new(),
            entries: BTreeMap::new(),
            rejected: BTreeSet::new(),
        };
        values.walk(schema, tree, "");
        values
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether none of these keys was rejected or is missing.
    pub fn none_rejected(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| !self.rejected.contains(*key))
    }

    /// Keys that were set.
    pub fn given(&self) -> BTreeSet<String> {
        self.entries.keys().cloned().collect()
    }

    /// Keys that were set in a table, without its name.
    pub fn given_in(&self, table: &str) -> BTreeSet<String> {
        let keys = self.entries.keys();
        keys.filter_map(|key| inside(key, table).map(str::to_owned))
            .collect()
    }

    /// Sets every key of a table to its given value or its default. A required key that
    /// is missing is reported at the first of the keys `near` that was set.
    pub fn fill<S>(&mut self, to: &mut S, table: &str, rows: &[Row<S>], near: &[&str]) {
        for row in rows {
            let path = join(table, &row.key.path);
            if let Some((given, _)) = self.entries.get(&path) {
                row.set(to, given);
                continue;
            }
            if let Err(meaning) = row.set_default(to) {
                let tables = path.match_indices('.').map(|(at, _)| &path[..at]);
                let read = tables.chain([path.as_str()]).chain(near.iter().copied());
                if self.none_rejected(&read.collect::<Vec<&str>>()) {
                    let fault = Fault::Missing {
                        key: path.clone(),
                        meaning: meaning.to_owned(),
                    };
                    self.report(near, fault);
                    self.rejected.insert(path);
                }
            }
        }
    }

    /// Reports a problem at the first of the keys that an override set, else the first that was set.
    pub fn report(&mut self, keys: &[&str], fault: Fault) {
        let locations = keys.iter().filter_map(|key| self.location(key));
        let location = locations
            .clone()
            .find(|location| matches!(location, Location::Override { .. }))
            .or_else(|| locations.clone().next())
            .unwrap_or(&self.whole)
            .clone();
        self.problems.push(Problem { location, fault });
    }

    /// Where a key was set.
    pub fn location(&self, key: &str) -> Option<&Location> {
        self.entries.get(key).map(|(_, location)| location)
    }

    fn walk(&mut self, schema: &Schema, node: &Node, path: &str) {
        if self.problems.len() >= PROBLEMS_MOST {
            return;
        }
        if let Some(key) = schema.find(path) {
            match key.kind.check(&key.unit, path, &node.value) {
                Ok(given) => {
                    self.entries
                        .insert(path.to_owned(), (given, node.location.clone()));
                }
                Err(fault) => self.reject(path, node, fault),
            }
        } else if schema.is_table(path) {
            let Value::Table(entries) = &node.value else {
                let fault = Fault::WrongType {
                    key: if path.is_empty() { "config" } else { path }.to_owned(),
                    found: node.value.found(),
                    expected: "a table".to_owned(),
                    suggestion: None,
                };
                return self.reject(path, node, fault);
            };
            for (name, entry) in entries {
                // A quoted name may contain dots or be empty; it is still one name.
                let name = if name.contains('.') || name.is_empty() {
                    format!("\"{}\"", shortened(name))
                } else {
                    name.clone()
                };
                self.walk(schema, entry, &join(path, &name));
            }
        } else {
            let fault = Fault::UnknownKey {
                key: shortened(path),
                hints: hints(schema, path, node),
            };
            self.reject(path, node, fault);
        }
    }

    fn reject(&mut self, path: &str, node: &Node, fault: Fault) {
        self.rejected.insert(path.to_owned());
        self.problems.push(Problem {
            location: node.location.clone(),
            fault,
        });
    }
}

/// What the author of an unknown key probably meant.
fn hints(schema: &Schema, path: &str, node: &Node) -> Vec<Hint> {
    let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
    if let Some((_, hints)) = keys::TINYWORLDS_KEYS.iter().find(|(key, _)| *key == name) {
        return hints.to_vec();
    }
    let is_stage_table = table.is_empty() && matches!(node.value, Value::Table(_));
    let meant = if let Some(key) = schema.named(name) {
        format!("did you mean `{key}`?")
    } else if is_stage_table && keys::STANDARD_STAGES.contains(&name) {
        format!("add `{name}` to `stages`")
    } else if let Some(near) = nearest(name, schema.inside(table)) {
        format!("did you mean `{}`?", join(table, near))
    } else if is_stage_table {
        format!("to define a stage `{name}`, add it to `stages`")
    } else {
        return Vec::new();
    };
    vec![Hint::text(meant)]
}
