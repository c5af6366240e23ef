//! The keys in words: a table, a commented file, and a config as it stands.
//!
//! All three are written from the table of keys and from what an empty config
//! resolves to, so that no default is written down twice.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use crate::events::ModelKind;
use crate::machine::presets::{self, Preset};

use super::error::Place;
use super::keys::{self, Change, Key};
use super::tree::{self, Node, Override, Value};
use super::values::{Given, join};
use super::{Config, entries, gate, resolve};

/// A key and all there is to know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// With `STAGE` for a stage's name.
    pub key: &'static str,
    /// What its value may be.
    pub kind: String,
    /// By stage and preset where they differ.
    pub default: String,
    /// Empty for what has none.
    pub unit: &'static str,
    pub meaning: &'static str,
    /// Whether it may change on resume, and why not.
    pub on_resume: String,
}

/// Every key there is.
pub fn describe() -> Vec<KeyRow> {
    let defaults = Preset::ALL.map(|preset| (preset, entries::entries(&defaults(preset))));
    keys::KEYS
        .iter()
        .map(|key| KeyRow {
            key: key.path,
            kind: key.kind.to_string(),
            default: default_text(key, &defaults),
            unit: key.unit,
            meaning: key.meaning,
            on_resume: match key.change {
                Change::Setting(_) => "may change, by an event".to_owned(),
                Change::Process => "may change".to_owned(),
                Change::Fixed(why) => format!("fixed: {why}"),
            },
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
    let mut writer = Writer::new(&mut out);
    let config = defaults(preset);
    let entries = entries::entries(&config);
    for (path, given) in &entries {
        let value = match path.as_str() {
            "data.path" => "\"frames.h5\"".to_owned(),
            _ => entries::toml_value(given),
        };
        if let Some(stage) = leaving_gate(path, &writer.table) {
            writer.unused(&config, preset, stage, &entries);
        }
        writer.explain(path);
        if path.ends_with(".gate.criteria") {
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
    for (path, value) in entries::entries(config) {
        let note = if given.contains(&path) {
            ""
        } else {
            "  # default"
        };
        writer.line(&path, &entries::toml_value(&value), note);
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

fn default_text(key: &Key, defaults: &[(Preset, Vec<(String, Given)>)]) -> String {
    if key.path == "data.path" {
        return "none: it must be set".to_owned();
    }
    let texts: Vec<(Preset, String)> = defaults
        .iter()
        .map(|(preset, entries)| (*preset, by_stage(key, entries)))
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
fn by_stage(key: &Key, entries: &[(String, Given)]) -> String {
    let value = |path: &str| {
        let given = entries.iter().find(|(known, _)| known == path);
        given.map(|(_, given)| entries::toml_value(given))
    };
    let Some(rest) = key.path.strip_prefix("STAGE.") else {
        return value(key.path).unwrap_or_else(|| "none".to_owned());
    };
    let found: Vec<(&str, String)> = presets::MODELS
        .into_iter()
        .map(presets::model_name)
        .filter_map(|stage| Some((stage, value(&join(stage, rest))?)))
        .collect();
    match found.as_slice() {
        [] => "none".to_owned(),
        [(_, first), others @ ..]
            if found.len() == presets::MODELS.len() && others.iter().all(|(_, v)| v == first) =>
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
fn leaving_gate<'a>(path: &'a str, table: &str) -> Option<&'a str> {
    let (stage, rest) = path.split_once('.')?;
    let ends = table == join(stage, "gate") && rest.starts_with("gate.applies.");
    ends.then_some(stage)
}

/// Writes keys under the headers of their tables.
struct Writer<'a> {
    out: &'a mut String,
    table: String,
    explained: BTreeSet<&'static str>,
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
    fn explain(&mut self, path: &str) {
        let pattern = match path.split_once('.') {
            Some((first, rest)) if !keys::is_reserved(first) => join("STAGE", rest),
            _ => path.to_owned(),
        };
        let (table, _) = path.rsplit_once('.').unwrap_or(("", path));
        self.header(table);
        let Some(key) = keys::find(&pattern) else {
            return;
        };
        if !self.explained.insert(key.path) || key.path.starts_with("STAGE.gate.applies.") {
            return;
        }
        let (meaning, kind) = (key.meaning, key.kind);
        match key.unit {
            "" => self.put(format_args!("# {meaning} ({kind})\n")),
            unit => self.put(format_args!("# {meaning} [{unit}] ({kind})\n")),
        }
    }

    /// The limits of the criteria that a stage could have and has not, commented out.
    fn unused(&mut self, config: &Config, preset: Preset, stage: &str, known: &[(String, Given)]) {
        let Some(policy) = config
            .policy
            .stages
            .iter()
            .find(|s| s.name.as_str() == stage)
        else {
            return;
        };
        for (path, value) in unused(preset, policy.model, stage) {
            if !known.iter().any(|(key, _)| *key == path) {
                self.explain(&path);
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
fn unused(preset: Preset, model: ModelKind, stage: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in gate::CRITERIA {
        if !gate::is_measured(model, name) {
            continue;
        }
        match presets::criterion(preset, model, name) {
            Some(criterion) => found.extend(
                gate::entries(stage, &[criterion])
                    .into_iter()
                    .filter(|(path, _)| gate::adds_its_criterion(stage, path))
                    .map(|(path, given)| (path, entries::toml_value(&given))),
            ),
            None => found.push((join(stage, &join("gate", name)), "0.5".to_owned())),
        }
    }
    found
}
