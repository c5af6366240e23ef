//! The keys in words: a table, a commented file, and a config as it stands.
//!
//! All three are written from the table of keys and from what an empty config
//! resolves to, so that no default is written down twice.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use crate::events::StagePolicy;
use crate::presets::{ModelKind, Preset};

use super::criteria::{self, APPLIES, CRITERIA, LISTED};
use super::error::Place;
use super::given::Given;
use super::resolve;
use super::row::{Change, Key, Row, Stage, StageKind};
use super::schema::{ANY_STAGE, Schema, entries, inside, join};
use super::tree::{self, Node, Override, Value};
use super::types::Config;

/// A key and all there is to know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// With `STAGE` for a stage's name.
    pub key: String,
    /// What its value may be.
    pub kind: String,
    /// By stage and preset where they differ.
    pub default: String,
    /// Empty for what has none.
    pub unit: String,
    pub meaning: String,
    /// Whether it may change on resume, and why not.
    pub on_resume: String,
}

/// Every key there is.
pub fn describe() -> Vec<KeyRow> {
    let defaults = Preset::ALL.map(|preset| (preset, entries(&defaults(preset))));
    Schema::documented()
        .keys()
        .map(|(path, key)| KeyRow {
            kind: key.kind.to_string(),
            default: default_text(&path, &defaults),
            unit: key.unit.to_string(),
            meaning: key.meaning.to_string(),
            on_resume: match &key.change {
                Change::Setting(_) => "may change, by an event".to_owned(),
                Change::Process => "may change".to_owned(),
                Change::Fixed(why) => format!("fixed: {why}"),
            },
            key: path,
        })
        .collect()
}

/// A commented config with every key of a preset; what has no default in a stage is
/// commented out. `frames.h5` stands for the data.
pub fn init(preset: Preset) -> String {
    let mut out = String::from(
        "# Every key of tinygate with its default. A config needs only what differs:\n\
         # the one key without a default is `data.path`.\n",
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
            // Left to the limits below, each of which adds its criterion.
            writer.commented_out(path, &value);
        } else {
            writer.line(path, &value, "");
        }
    }
    out
}

/// A config as TOML, saying of each key whether it is a default.
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

/// What a config without any key resolves to; it lacks only the data.
fn defaults(preset: Preset) -> Config {
    let place = Place::Whole {
        file: Arc::from("defaults"),
    };
    let mut tree = tree::empty(place.clone());
    let preset = Override {
        key: "preset".to_owned(),
        node: Node {
            place,
            value: Value::Text(preset.as_str().to_owned()),
        },
    };
    tree::overlay(&mut tree, &preset);
    let (loaded, _) = resolve::judge(&tree, Path::new(""));
    loaded.config
}

fn default_text(path: &str, defaults: &[(Preset, Vec<(String, Given)>)]) -> String {
    if path == "data.path" {
        return "none: it must be set".to_owned();
    }
    let texts: Vec<(Preset, String)> = defaults
        .iter()
        .map(|(preset, entries)| (*preset, by_stage(path, entries)))
        .collect();
    match texts.as_slice() {
        [(_, first), rest @ ..] if rest.iter().all(|(_, text)| text == first) => first.clone(),
        texts => texts
            .iter()
            .map(|(preset, text)| format!("{}: {text}", preset.as_str()))
            .collect::<Vec<_>>()
            .join("; "),
    }
}

/// A key's default in each stage, once where all have the same.
fn by_stage(path: &str, entries: &[(String, Given)]) -> String {
    let value = |path: &str| {
        let given = entries.iter().find(|(known, _)| known == path);
        given.map(|(_, given)| given.to_toml())
    };
    let Some(rest) = inside(path, ANY_STAGE) else {
        return value(path).unwrap_or_else(|| "none".to_owned());
    };
    let found: Vec<(&str, String)> = ModelKind::ALL
        .map(ModelKind::as_str)
        .into_iter()
        .filter_map(|stage| Some((stage, value(&join(stage, rest))?)))
        .collect();
    match found.as_slice() {
        [] => "none".to_owned(),
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

/// The stage whose gate's own keys end before this path.
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

    /// What a key means, the first time it is written.
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

    /// The limits of the criteria that a stage could have and has not, commented out.
    fn unused(
        &mut self,
        schema: &Schema,
        preset: Preset,
        policy: &StagePolicy,
        known: &[(String, Given)],
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

/// The keys that add a criterion which the model measures, with a default or an example.
fn unused(preset: Preset, policy: &StagePolicy, rows: &[Row<Stage>]) -> Vec<(String, String)> {
    let name = policy.name.as_str();
    let kind = StageKind::of_policy(policy);
    let mut stage = Stage::new(name, preset, &kind);
    let mut found = Vec::new();
    for criterion in CRITERIA {
        // The picture's limits are many, and only the list asks for it.
        if criterion == "visual_structure" || !criteria::is_measured(&stage, criterion) {
            continue;
        }
        let Some(criterion) = criteria::fresh(preset, &kind, criterion) else {
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
