//! A tree of values, checked key by key against the table of keys.
//!
//! Each value is judged alone: is it known, of its kind, in its range. What must
//! fit together is judged later, by [`super::resolve`]. A value that was refused
//! is remembered, so that no second problem is made of the first.

use std::collections::{BTreeMap, BTreeSet};

use crate::advice::Hint;

use super::error::{Fault, Place, Problem};
use super::given::Given;
use super::keys;
use super::kind::nearest;
use super::row::Row;
use super::schema::{Schema, inside, join};
use super::tree::{Node, Value, shortened};

pub(super) struct Values {
    /// The source as a whole.
    pub whole: Place,
    pub problems: Vec<Problem>,
    entries: BTreeMap<String, (Given, Place)>,
    refused: BTreeSet<String>,
}

/// Problems after which a text is no config at all, and is read no further.
const PROBLEMS_MOST: usize = 1_000;

impl Values {
    /// Checks every value of the tree.
    pub fn read(tree: &Node, schema: &Schema) -> Values {
        let mut values = Values {
            whole: tree.place.clone(),
            problems: Vec::new(),
            entries: BTreeMap::new(),
            refused: BTreeSet::new(),
        };
        values.walk(schema, tree, "");
        values
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether none of these keys was refused.
    pub fn sound(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| !self.refused.contains(*key))
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

    /// Sets every key of a table, to what was set or to its default. A key that must
    /// be set and is not is noted at the first of the `places` that was set.
    pub fn fill<S>(&mut self, to: &mut S, table: &str, rows: &[Row<S>], places: &[&str]) {
        for row in rows {
            let path = join(table, &row.key.path);
            if let Some((given, _)) = self.entries.get(&path) {
                row.set(to, given);
                continue;
            }
            if let Err(meaning) = row.set_default(to) {
                let tables = path.match_indices('.').map(|(at, _)| &path[..at]);
                let read = tables.chain([path.as_str()]).chain(places.iter().copied());
                if self.sound(&read.collect::<Vec<&str>>()) {
                    let fault = Fault::Missing {
                        key: path.clone(),
                        meaning: meaning.to_owned(),
                    };
                    self.complain(places, fault);
                }
            }
        }
    }

    /// Notes a problem at the first of the keys that was set, an override before all.
    pub fn complain(&mut self, keys: &[&str], fault: Fault) {
        let places = keys.iter().filter_map(|key| self.place(key));
        let place = places
            .clone()
            .find(|place| matches!(place, Place::Override { .. }))
            .or_else(|| places.clone().next())
            .unwrap_or(&self.whole)
            .clone();
        self.problems.push(Problem { place, fault });
    }

    /// Where a key was set.
    pub fn place(&self, key: &str) -> Option<&Place> {
        self.entries.get(key).map(|(_, place)| place)
    }

    fn walk(&mut self, schema: &Schema, node: &Node, path: &str) {
        if self.problems.len() >= PROBLEMS_MOST {
            return;
        }
        if let Some(key) = schema.find(path) {
            match key.kind.check(&key.unit, path, &node.value) {
                Ok(given) => {
                    self.entries
                        .insert(path.to_owned(), (given, node.place.clone()));
                }
                Err(fault) => self.refuse(path, node, fault),
            }
        } else if schema.is_table(path) {
            let Value::Table(entries) = &node.value else {
                let fault = Fault::WrongType {
                    key: if path.is_empty() { "config" } else { path }.to_owned(),
                    found: node.value.found(),
                    expected: "a table".to_owned(),
                    meant: None,
                };
                return self.refuse(path, node, fault);
            };
            for (name, entry) in entries {
                // A dot inside a quoted name is not a path, and an empty name is a name.
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
            self.refuse(path, node, fault);
        }
    }

    fn refuse(&mut self, path: &str, node: &Node, fault: Fault) {
        self.refused.insert(path.to_owned());
        self.problems.push(Problem {
            place: node.place.clone(),
            fault,
        });
    }
}

/// What an unknown key was probably meant to be.
fn hints(schema: &Schema, path: &str, node: &Node) -> Vec<Hint> {
    let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
    if let Some((_, hints)) = keys::ELSEWHERE.iter().find(|(key, _)| *key == name) {
        return hints.to_vec();
    }
    let is_stage_table = table.is_empty() && matches!(node.value, Value::Table(_));
    let meant = if let Some(key) = schema.named(name) {
        format!("it belongs elsewhere: `{key}`")
    } else if is_stage_table && keys::STANDARD_STAGES.contains(&name) {
        format!("`{name}` is not in `stages`")
    } else if let Some(near) = nearest(name, schema.inside(table)) {
        format!("did you mean `{}`?", join(table, near))
    } else if is_stage_table {
        format!("a stage `{name}` must be in `stages`")
    } else {
        return Vec::new();
    };
    vec![Hint::text(meant)]
}
