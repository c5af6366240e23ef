//! Documentation of the keys: a list, a commented example, and a finished config.
//!
//! All of it is generated from the table of keys and from what an empty config resolves
//! to, so no default is written down twice.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use crate::events::{SettingKey, StagePolicy};
use crate::presets::{self, ModelKind, Preset};

use super::criteria::{self, APPLIES, CRITERIA, LISTED};
use super::custom::CustomStage;
use super::error::Location;
use super::key_value::KeyValue;
use super::keys;
use super::resolve;
use super::row::{Change, Key, Row, StageDraft, StageKind};
use super::schema::{ANY_STAGE, Schema, entries, inside, join};
use super::tree::{self, Node, Override, Value};
use super::types::Config;

/// A key and its documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// The path; `STAGE` stands for a stage's name.
    pub key: String,
    /// Which values are valid.
    pub kind: String,
    /// By stage and preset if they differ.
    pub default: String,
    /// Empty if it has none.
    pub unit: String,
    pub meaning: String,
    /// Whether it may change on resume, or why it cannot.
    pub on_resume: String,
}

/// Every key of the run and of the built-in stages.
pub fn describe() -> Vec<KeyRow> {
    let defaults = Preset::ALL.map(|preset| (preset, entries(&defaults(preset))));
    Schema::documented()
        .keys()
        .map(|(path, key)| key_row(key, default_text(&path, &defaults), path))
        .collect()
}

/// The keys that only a custom stage has, or that have another kind or default there.
/// `KNOB` and `METRIC` stand for names that the user chooses.
pub fn describe_custom() -> Vec<KeyRow> {
    let built_in = describe();
    let (knob, metric) = ("KNOB".to_owned(), "METRIC".to_owned());
    let kind = StageKind::Custom(CustomStage {
        knobs: [(knob, false)].into(),
        at_least: vec![metric],
    });
    let rows = keys::of_stage(&kind);
    let mut stages = Preset::ALL.map(|preset| (preset, StageDraft::new(ANY_STAGE, preset, &kind)));
    let mut found = Vec::new();
    for row in &rows {
        let mut is_required = false;
        for (_, stage) in &mut stages {
            is_required |= row.set_default(stage).is_err();
        }
        let default = if is_required {
            REQUIRED.to_owned()
        } else if row.key.path == SettingKey::ChunkSize.as_str() {
            "`n_updates` / 10".to_owned()
        } else {
            by_preset(stages.iter().map(|(preset, stage)| {
                let text = match row.get(stage) {
                    None => NO_DEFAULT.to_owned(),
                    Some(KeyValue::Limit(limit)) if presets::is_unset(&limit) => {
                        REQUIRED.to_owned()
                    }
                    Some(value) => value.to_toml(),
                };
                (*preset, text)
            }))
        };
        let described = key_row(&row.key, default, join(ANY_STAGE, &row.key.path));
        let is_known = |known: &KeyRow| {
            known.key == described.key
                && known.kind == described.kind
                && [known.default.as_str(), NO_DEFAULT].contains(&described.default.as_str())
        };
        if !built_in.iter().any(is_known) {
            found.push(described);
        }
    }
    found
}

const REQUIRED: &str = "none: it must be set";
const NO_DEFAULT: &str = "none";

fn key_row(key: &Key, default: String, path: String) -> KeyRow {
    KeyRow {
        key: path,
        kind: key.kind.to_string(),
        default,
        unit: key.unit.to_string(),
        meaning: key.meaning.to_string(),
        on_resume: match &key.change {
            Change::Setting(_) => "may change; the change is an event".to_owned(),
            Change::Process => "may change".to_owned(),
            Change::Fixed(why) => format!("fixed: {why}"),
        },
    }
}

/// A commented config with every key of a preset. Keys without a default are commented
/// out; `frames.h5` stands for the data.
pub fn init(preset: Preset) -> String {
    let mut out = String::from(
        "# Every key of tinygate with its default. A config only needs the keys that differ, and\n\
         # `data.path`, which has no default.\n",
    );
    let config = defaults(preset);
    let schema = Schema::of_config(&config);
    let mut writer = Writer::new(&mut out);
    let entries = entries(&config);
    for (path, given) in &entries {
        let value = match path.as_str() {
            "data.path" => "\"frames.h5\"".to_owned(),
            _ => given.to_toml(),
        };
        if let Some(stage) = leaving_gate(&schema, path, &writer.table) {
            let policy = config.policy.stages.iter();
            for policy in policy.filter(|policy| policy.name.as_str() == stage) {
                writer.unused(&schema, preset, policy, &entries);
            }
        }
        writer.explain(&schema, path);
        if schema.in_stage(path).is_some_and(|(_, key)| key == LISTED) {
            // The limits below add their criteria as long as the list is not set.
            writer.commented_out(path, &value);
        } else {
            writer.line(path, &value, "");
        }
    }
    out
}

/// A config as TOML, with a comment on each key that has its default.
pub(super) fn show(config: &Config, given: &BTreeSet<String>) -> String {
    let mut out = String::new();
    let mut writer = Writer::new(&mut out);
    for (path, value) in entries(config) {
        let note = if given.contains(&path) {
            ""
        } else {
            "  # default"
        };
        writer.line(&path, &value.to_toml(), note);
    }
    out
}

/// What an empty config resolves to. Only the data is missing.
fn defaults(preset: Preset) -> Config {
    let location = Location::Whole {
        file: Arc::from("defaults"),
    };
    let mut tree = tree::empty(location.clone());
    let preset = Override {
        key: "preset".to_owned(),
        node: Node {
            location,
            value: Value::Text(preset.as_str().to_owned()),
        },
    };
    tree::overlay(&mut tree, &preset);
    let (loaded, _) = resolve::resolve_partial(&tree, Path::new(""));
    loaded.config
}

fn default_text(path: &str, defaults: &[(Preset, Vec<(String, KeyValue)>)]) -> String {
    if path == "data.path" {
        return REQUIRED.to_owned();
    }
    let texts = defaults.iter();
    by_preset(texts.map(|(preset, entries)| (*preset, by_stage(path, entries))))
}

/// A default of each preset, written once if they are all the same.
fn by_preset(texts: impl Iterator<Item = (Preset, String)>) -> String {
    let texts: Vec<(Preset, String)> = texts.collect();
    match texts.as_slice() {
        [(_, first), rest @ ..] if rest.iter().all(|(_, text)| text == first) => first.clone(),
        texts => texts
            .iter()
            .map(|(preset, text)| format!("{}: {text}", preset.as_str()))
            .collect::<Vec<_>>()
            .join("; "),
    }
}

/// A key's default in each stage, written once if they are all the same.
fn by_stage(path: &str, entries: &[(String, KeyValue)]) -> String {
    let value = |path: &str| {
        let given = entries.iter().find(|(known, _)| known == path);
        given.map(|(_, given)| given.to_toml())
    };
    let Some(rest) = inside(path, ANY_STAGE) else {
        return value(path).unwrap_or_else(|| NO_DEFAULT.to_owned());
    };
    let found: Vec<(&str, String)> = ModelKind::ALL
        .map(ModelKind::as_str)
        .into_iter()
        .filter_map(|stage| Some((stage, value(&join(stage, rest))?)))
        .collect();
    match found.as_slice() {
        [] => NO_DEFAULT.to_owned(),
        [(_, first), others @ ..]
            if found.len() == ModelKind::ALL.len() && others.iter().all(|(_, v)| v == first) =>
        {
            first.clone()
        }
        some => some
            .iter()
            .map(|(stage, value)| format!("{value} ({stage})"))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// The stage whose `gate` table ends before this path.
fn leaving_gate<'a>(schema: &'a Schema, path: &str, table: &str) -> Option<&'a str> {
    let (stage, key) = schema.in_stage(path)?;
    let ends = table == join(stage, "gate") && key.starts_with(APPLIES);
    ends.then_some(stage)
}

/// Writes keys under the headers of their tables.
struct Writer<'a> {
    out: &'a mut String,
    table: String,
    explained: BTreeSet<String>,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut String) -> Writer<'a> {
        Writer {
            out,
            table: String::new(),
            explained: BTreeSet::new(),
        }
    }

    fn line(&mut self, path: &str, value: &str, note: &str) {
        let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
        self.header(table);
        self.put(format_args!("{name} = {value}{note}\n"));
    }

    fn commented_out(&mut self, path: &str, value: &str) {
        let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
        self.header(table);
        self.put(format_args!("# {name} = {value}\n"));
    }

    fn header(&mut self, table: &str) {
        if table != self.table {
            table.clone_into(&mut self.table);
            self.put(format_args!("\n[{table}]\n"));
        }
    }

    /// Writes what a key means, the first time it occurs.
    fn explain(&mut self, schema: &Schema, path: &str) {
        let (table, _) = path.rsplit_once('.').unwrap_or(("", path));
        self.header(table);
        let Some(key) = schema.find(path) else {
            return;
        };
        let documented = match schema.in_stage(path) {
            Some((_, rest)) => join(ANY_STAGE, rest),
            None => path.to_owned(),
        };
        if !self.explained.insert(documented) || key.path.starts_with(APPLIES) {
            return;
        }
        let Key {
            meaning,
            kind,
            unit,
            ..
        } = key;
        if unit.is_empty() {
            self.put(format_args!("# {meaning} ({kind})\n"));
        } else {
            self.put(format_args!("# {meaning} [{unit}] ({kind})\n"));
        }
    }

    /// Writes the limits of criteria that a stage does not have, commented out.
    fn unused(
        &mut self,
        schema: &Schema,
        preset: Preset,
        policy: &StagePolicy,
        known: &[(String, KeyValue)],
    ) {
        let rows = schema.rows(policy.name.as_str());
        for (path, value) in unused(preset, policy, rows) {
            if !known.iter().any(|(key, _)| *key == path) {
                self.explain(schema, &path);
                self.commented_out(&path, &value);
            }
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.out.write_fmt(text);
    }
}

/// The keys that add a criterion which the stage can measure, with a default or an example.
fn unused(preset: Preset, policy: &StagePolicy, rows: &[Row<StageDraft>]) -> Vec<(String, String)> {
    let name = policy.name.as_str();
    let kind = StageKind::of_policy(policy);
    let mut stage = StageDraft::new(name, preset, &kind);
    let mut found = Vec::new();
    for criterion in CRITERIA {
        // This criterion has many limits, and is only added by the list.
        if criterion == "visual_structure" || !criteria::is_measured(&stage, criterion) {
            continue;
        }
        let Some(criterion) = criteria::default_criterion(preset, &kind, criterion) else {
            continue;
        };
        let is_unset = criteria::is_unset(&criterion);
        stage.policy.criteria = vec![criterion];
        for row in rows.iter().filter(|row| criteria::adds(&row.key)) {
            if let Some(given) = row.get(&stage) {
                let value = if is_unset {
                    "0.5".to_owned()
                } else {
                    given.to_toml()
                };
                found.push((join(name, &row.key.path), value));
            }
        }
    }
    found
}
