//! The keys of one config: those of the run, and those of each of its stages.
//!
//! Which keys a stage has follows from what kind of stage it is, so a path can be
//! looked up only when the stages are known.

use std::sync::Arc;

use crate::presets::ModelKind;

use super::given::Given;
use super::keys;
use super::kind::LIST_MOST;
use super::own::Own;
use super::row::{Key, Row, Stage, StageKind};
use super::tree::Node;
use super::types::Config;

/// Stands for a stage's name in the documentation.
pub(super) const ANY_STAGE: &str = "STAGE";

pub(super) struct Schema {
    stages: Vec<StageTable>,
}

/// The table of a stage.
struct StageTable {
    name: String,
    /// `None`: nobody knows what it trains.
    kind: Option<StageKind>,
    rows: Rows,
}

/// Stages of one kind share their rows.
type Rows = Arc<[Row<Stage>]>;

impl Schema {
    /// The keys of a text. A list of stages that is damaged is reported when its own
    /// turn comes; the tables are read as far as it names them.
    pub fn of_tree(tree: &Node) -> Schema {
        let standard = || keys::STANDARD_STAGES.map(str::to_owned).to_vec();
        let names = match entry(tree, "stages").and_then(|node| node.value.list()) {
            None => standard(),
            Some(items) => items
                .iter()
                .take(LIST_MOST)
                .filter_map(|item| item.text().map(str::to_owned))
                .filter(|name| !keys::is_reserved(name))
                .collect(),
        };
        let names = if names.is_empty() { standard() } else { names };
        Schema::new(names.into_iter().map(|name| {
            let table = entry(tree, &name);
            if let Some(own) = table.and_then(|table| Own::of_tree(table, keys::is_taken)) {
                return (name, Some(StageKind::Own(own)));
            }
            let model = table.and_then(|table| entry(table, "model"));
            let model = model.and_then(|model| model.value.text()).unwrap_or(&name);
            let kind = ModelKind::from_name(model).map(StageKind::TinyWorlds);
            (name, kind)
        }))
    }

    /// The keys of a config.
    pub fn of_config(config: &Config) -> Schema {
        let stages = config.policy.stages.iter();
        Schema::new(stages.map(|stage| {
            let kind = StageKind::of_policy(stage);
            (stage.name.to_string(), Some(kind))
        }))
    }

    /// Every key there is, with [`ANY_STAGE`] for the stages.
    pub fn documented() -> Schema {
        Schema::new([(ANY_STAGE.to_owned(), None)])
    }

    fn new(stages: impl IntoIterator<Item = (String, Option<StageKind>)>) -> Schema {
        let mut tables: Vec<(Option<StageKind>, Rows)> = Vec::new();
        let stages = stages.into_iter().map(|(name, kind)| {
            let known = tables.iter().find(|(of, _)| *of == kind);
            let rows = match known {
                Some((_, rows)) => Arc::clone(rows),
                None => {
                    let rows = kind
                        .as_ref()
                        .map_or_else(keys::of_any_stage, keys::of_stage);
                    let rows: Rows = Arc::from(rows);
                    tables.push((kind.clone(), Arc::clone(&rows)));
                    rows
                }
            };
            StageTable { name, kind, rows }
        });
        Schema {
            stages: stages.collect(),
        }
    }

    /// The names of the stages, in order.
    pub fn stages(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().map(|stage| stage.name.as_str())
    }

    /// What a stage trains. `None`: nobody knows.
    pub fn kind(&self, stage: &str) -> Option<&StageKind> {
        let table = self.stages.iter().find(|table| table.name == stage)?;
        table.kind.as_ref()
    }

    /// The rows of a stage.
    pub fn rows(&self, stage: &str) -> &[Row<Stage>] {
        let table = self.stages.iter().find(|table| table.name == stage);
        table.map_or(&[], |table| &table.rows)
    }

    /// The stage in whose table a path is, and the rest of the path.
    pub fn in_stage<'p>(&self, path: &'p str) -> Option<(&str, &'p str)> {
        let (first, rest) = path.split_once('.')?;
        let stage = self.stages().find(|name| *name == first)?;
        Some((stage, rest))
    }

    pub fn find(&self, path: &str) -> Option<&Key> {
        match self.in_stage(path) {
            Some((stage, rest)) => find(self.rows(stage), rest),
            None => find(keys::of_run(), path),
        }
    }

    /// Every key with its path.
    pub fn keys(&self) -> impl Iterator<Item = (String, &Key)> {
        let of_run = keys::of_run().iter();
        let of_run = of_run.map(|row| (row.key.path.to_string(), &row.key));
        let of_stages = self.stages.iter().flat_map(|stage| {
            let of_stage = stage.rows.iter();
            of_stage.map(|row| (join(&stage.name, &row.key.path), &row.key))
        });
        of_run.chain(of_stages)
    }

    /// The first key whose last word this is.
    pub fn named(&self, word: &str) -> Option<String> {
        let is_named = |key: &Key| key.path.rsplit('.').next() == Some(word);
        if let Some(row) = keys::of_run().iter().find(|row| is_named(&row.key)) {
            return Some(row.key.path.to_string());
        }
        let mut before: Option<&Rows> = None;
        for stage in &self.stages {
            if before.is_some_and(|before| Arc::ptr_eq(before, &stage.rows)) {
                continue;
            }
            if let Some(row) = stage.rows.iter().find(|row| is_named(&row.key)) {
                return Some(join(&stage.name, &row.key.path));
            }
            before = Some(&stage.rows);
        }
        None
    }

    /// Whether the path is a table that holds keys.
    pub fn is_table(&self, path: &str) -> bool {
        path.is_empty() || self.stages().any(|name| name == path) || !self.inside(path).is_empty()
    }

    /// The words that may stand in a table.
    pub fn inside(&self, table: &str) -> Vec<&str> {
        match self.in_stage(table) {
            Some((stage, rest)) => words(self.rows(stage), rest),
            None if self.stages().any(|name| name == table) => words(self.rows(table), ""),
            None if table.is_empty() => words(keys::of_run(), "")
                .into_iter()
                .chain(self.stages())
                .collect(),
            None => words(keys::of_run(), table),
        }
    }
}

fn entry<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    node.entry(name)
}

fn find<'a, S>(rows: &'a [Row<S>], path: &str) -> Option<&'a Key> {
    let row = rows.iter().find(|row| row.key.path == path);
    row.map(|row| &row.key)
}

fn words<'a, S>(rows: &'a [Row<S>], table: &str) -> Vec<&'a str> {
    let rest = rows.iter().filter_map(|row| inside(&row.key.path, table));
    let mut words: Vec<&str> = rest.filter_map(|rest| rest.split('.').next()).collect();
    words.dedup();
    words
}

/// Every key of a config with its value, in the order of a config file.
pub(super) fn entries(config: &Config) -> Vec<(String, Given)> {
    let schema = Schema::of_config(config);
    let of_run = keys::of_run().iter();
    let of_run = of_run.filter_map(|row| Some((row.key.path.to_string(), row.get(config)?)));
    let mut entries: Vec<(String, Given)> = of_run.collect();
    for policy in &config.policy.stages {
        let (name, stage) = (policy.name.as_str(), Stage::of(config, policy));
        let rows = schema.rows(name).iter();
        entries.extend(rows.filter_map(|row| Some((join(name, &row.key.path), row.get(&stage)?))));
    }
    entries
}

/// The rest of a path inside a table.
pub(super) fn inside<'a>(path: &'a str, table: &str) -> Option<&'a str> {
    if table.is_empty() {
        return Some(path);
    }
    path.strip_prefix(table)?.strip_prefix('.')
}

pub(super) fn join(table: &str, name: &str) -> String {
    if table.is_empty() {
        name.to_owned()
    } else {
        format!("{table}.{name}")
    }
}
