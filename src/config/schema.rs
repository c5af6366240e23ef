//! The keys of one config: those of the run, and those of each stage.
//!
//! The keys of a stage depend on its kind, so paths can only be looked up once the
//! stages are known.

use std::sync::Arc;

use crate::presets::ModelKind;

use super::custom::CustomStage;
use super::key_value::KeyValue;
use super::keys;
use super::kind::LIST_MOST;
use super::row::{Key, Row, StageDraft, StageKind};
use super::tree::Node;
use super::types::Config;

/// Stands for a stage's name in the documentation.
pub(super) const ANY_STAGE: &str = "STAGE";

pub(super) struct Schema {
    stages: Vec<StageTable>,
}

/// The keys of a stage.
struct StageTable {
    name: String,
    /// `None`: its model is unknown.
    kind: Option<StageKind>,
    rows: Rows,
}

/// Stages of one kind share their rows.
type Rows = Arc<[Row<StageDraft>]>;

impl Schema {
    /// The keys of a parsed text. Invalid entries of `stages` are skipped here and
    /// reported when that key is checked.
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
            if let Some(custom) =
                table.and_then(|table| CustomStage::of_tree(table, keys::is_taken))
            {
                return (name, Some(StageKind::Custom(custom)));
            }
            let model = table.and_then(|table| entry(table, "model"));
            let model = model.and_then(|model| model.value.text()).unwrap_or(&name);
            let kind = ModelKind::from_name(model).map(StageKind::BuiltIn);
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

    /// Every key of the run and of built-in stages, with [`ANY_STAGE`] for their names.
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

    /// The kind of a stage. `None`: its model is unknown.
    pub fn kind(&self, stage: &str) -> Option<&StageKind> {
        let table = self.stages.iter().find(|table| table.name == stage)?;
        table.kind.as_ref()
    }

    /// The rows of a stage.
    pub fn rows(&self, stage: &str) -> &[Row<StageDraft>] {
        let table = self.stages.iter().find(|table| table.name == stage);
        table.map_or(&[], |table| &table.rows)
    }

    /// The stage whose table contains a path, and the rest of the path.
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

    /// The first key whose last part is `name`.
    pub fn named(&self, name: &str) -> Option<String> {
        let is_named = |key: &Key| key.path.rsplit('.').next() == Some(name);
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

    /// Whether the path is a table.
    pub fn is_table(&self, path: &str) -> bool {
        path.is_empty() || self.stages().any(|name| name == path) || !self.inside(path).is_empty()
    }

    /// The names of keys and tables directly in a table.
    pub fn inside(&self, table: &str) -> Vec<&str> {
        match self.in_stage(table) {
            Some((stage, rest)) => names(self.rows(stage), rest),
            None if self.stages().any(|name| name == table) => names(self.rows(table), ""),
            None if table.is_empty() => names(keys::of_run(), "")
                .into_iter()
                .chain(self.stages())
                .collect(),
            None => names(keys::of_run(), table),
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

fn names<'a, S>(rows: &'a [Row<S>], table: &str) -> Vec<&'a str> {
    let rest = rows.iter().filter_map(|row| inside(&row.key.path, table));
    let mut names: Vec<&str> = rest.filter_map(|rest| rest.split('.').next()).collect();
    names.dedup();
    names
}

/// Every key of a config with its value, in the order of a config file.
pub(super) fn entries(config: &Config) -> Vec<(String, KeyValue)> {
    let schema = Schema::of_config(config);
    let of_run = keys::of_run().iter();
    let of_run = of_run.filter_map(|row| Some((row.key.path.to_string(), row.get(config)?)));
    let mut entries: Vec<(String, KeyValue)> = of_run.collect();
    for policy in &config.policy.stages {
        let (name, stage) = (policy.name.as_str(), StageDraft::of(config, policy));
        let rows = schema.rows(name).iter();
        entries.extend(rows.filter_map(|row| Some((join(name, &row.key.path), row.get(&stage)?))));
    }
    entries
}

/// The rest of a path that is inside a table.
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
