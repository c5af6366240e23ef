//! A tree of values, checked key by key against the table of keys.
//!
//! Each value is judged alone: is it known, of its kind, in its range. What must
//! fit together is judged later, by [`super::resolve`]. A value that was refused
//! is remembered, so that no second problem is made of the first.

use std::collections::{BTreeMap, BTreeSet};

use crate::events::{Limit, Rung, Scalar};

use super::error::{Fault, Place, Problem};
use super::keys::{self, Key, Kind};
use super::ladder;
use super::tree::{Node, Value, shortened};

/// A value of its kind and in its range.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Given {
    Count(u64),
    Auto,
    Real(Scalar),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    Limit(Limit),
    Ladder(Vec<Rung>),
}

pub(super) struct Values {
    /// The source as a whole.
    pub whole: Place,
    pub problems: Vec<Problem>,
    entries: BTreeMap<String, (Given, Place)>,
    refused: BTreeSet<String>,
    stages: Vec<String>,
}

/// Problems after which a text is no config at all, and is read no further.
const PROBLEMS_MOST: usize = 1_000;

pub(super) const STANDARD_STAGES: [&str; 3] = ["video_tokenizer", "latent_actions", "dynamics"];

impl Values {
    /// Checks every value of the tree.
    pub fn read(tree: &Node) -> Values {
        let mut values = Values {
            whole: tree.place.clone(),
            problems: Vec::new(),
            entries: BTreeMap::new(),
            refused: BTreeSet::new(),
            stages: stage_names(tree),
        };
        values.walk(tree, "", "");
        values
    }

    /// The stages' names, in order.
    pub fn stages(&self) -> &[String] {
        &self.stages
    }

    pub fn get(&self, key: &str) -> Option<&Given> {
        self.entries.get(key).map(|(given, _)| given)
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

    /// Notes a problem at the first of the keys that was set, an override before all.
    pub fn complain(&mut self, keys: &[&str], fault: Fault) {
        let places = keys.iter().filter_map(|key| self.place(key));
        let place = places
            .clone()
            .find(|place| matches!(place, Place::CommandLine { .. }))
            .or_else(|| places.clone().next())
            .unwrap_or(&self.whole)
            .clone();
        self.problems.push(Problem { place, fault });
    }

    /// Where a key was set.
    pub fn place(&self, key: &str) -> Option<&Place> {
        self.entries.get(key).map(|(_, place)| place)
    }

    pub fn count(&self, key: &str, default: u64) -> u64 {
        if let Some(Given::Count(n)) = self.get(key) {
            *n
        } else {
            default
        }
    }

    /// A count whose range fits 32 bits; the table of keys sees to that.
    pub fn count32(&self, key: &str, default: u32) -> u32 {
        u32::try_from(self.count(key, u64::from(default))).unwrap_or(default)
    }

    /// A count, or `None` for "auto" and for nothing at all.
    pub fn count_or_auto(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Given::Count(n) => Some(*n),
            Given::Auto
            | Given::Real(_)
            | Given::Flag(_)
            | Given::Text(_)
            | Given::Texts(_)
            | Given::Limit(_)
            | Given::Ladder(_) => None,
        }
    }

    pub fn real(&self, key: &str, default: Scalar) -> Scalar {
        if let Some(Given::Real(x)) = self.get(key) {
            *x
        } else {
            default
        }
    }

    pub fn flag(&self, key: &str, default: bool) -> bool {
        if let Some(Given::Flag(flag)) = self.get(key) {
            *flag
        } else {
            default
        }
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        if let Some(Given::Text(text)) = self.get(key) {
            Some(text)
        } else {
            None
        }
    }

    pub fn texts(&self, key: &str) -> Option<&[String]> {
        if let Some(Given::Texts(texts)) = self.get(key) {
            Some(texts)
        } else {
            None
        }
    }

    pub fn limit(&self, key: &str) -> Option<&Limit> {
        if let Some(Given::Limit(limit)) = self.get(key) {
            Some(limit)
        } else {
            None
        }
    }

    pub fn ladder(&self, key: &str) -> Option<&[Rung]> {
        if let Some(Given::Ladder(rungs)) = self.get(key) {
            Some(rungs)
        } else {
            None
        }
    }

    /// `path` is as the user writes it, `pattern` as the table of keys does.
    fn walk(&mut self, node: &Node, path: &str, pattern: &str) {
        if self.problems.len() >= PROBLEMS_MOST {
            return;
        }
        if let Some(key) = keys::find(pattern) {
            match check(key, path, node) {
                Ok(given) => {
                    self.entries
                        .insert(path.to_owned(), (given, node.place.clone()));
                }
                Err(fault) => self.refuse(path, node, fault),
            }
        } else if pattern.is_empty() || keys::is_table(pattern) {
            let Value::Table(entries) = &node.value else {
                let fault = Fault::WrongType {
                    key: if path.is_empty() { "config" } else { path }.to_owned(),
                    found: node.value.found(),
                    expected: "a table".to_owned(),
                    hint: None,
                };
                return self.refuse(path, node, fault);
            };
            for (name, entry) in entries {
                // A dot inside a quoted name is not a path.
                let name = if name.contains('.') {
                    format!("\"{}\"", shortened(name))
                } else {
                    name.clone()
                };
                let is_stage = pattern.is_empty() && self.stages.contains(&name);
                let in_pattern = match name.as_str() {
                    _ if is_stage => "STAGE",
                    "STAGE" if pattern.is_empty() => "\"STAGE\"",
                    name => name,
                };
                self.walk(entry, &join(path, &name), &join(pattern, in_pattern));
            }
        } else {
            let fault = Fault::UnknownKey {
                key: shortened(path),
                hint: self.hint(path, pattern, node),
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

    /// What an unknown key was probably meant to be.
    fn hint(&self, path: &str, pattern: &str, node: &Node) -> Option<String> {
        let (table, name) = pattern.rsplit_once('.').unwrap_or(("", pattern));
        let shown_table = path.rsplit_once('.').map_or("", |(table, _)| table);
        if let Some((_, text)) = keys::ELSEWHERE.iter().find(|(key, _)| *key == name) {
            return Some((*text).to_owned());
        }
        let first_stage = self.stages.first().map_or("STAGE", String::as_str);
        let shown = |path: &str| path.replacen("STAGE", first_stage, 1);
        if let Some(key) = keys::KEYS
            .iter()
            .find(|key| key.path.rsplit('.').next() == Some(name))
        {
            return Some(format!("it belongs elsewhere: `{}`", shown(key.path)));
        }
        let is_stage_table = table.is_empty() && matches!(node.value, Value::Table(_));
        if is_stage_table && STANDARD_STAGES.contains(&name) {
            return Some(format!("`{name}` is not in `stages`"));
        }
        let mut known: Vec<&str> = keys::KEYS
            .iter()
            .filter_map(|key| keys::inside(key.path, table)?.split('.').next())
            .filter(|name| *name != "STAGE")
            .collect();
        if table.is_empty() {
            known.extend(self.stages.iter().map(String::as_str));
        }
        known.dedup();
        match nearest(name, known) {
            Some(near) => Some(format!("did you mean `{}`?", join(shown_table, near))),
            None if is_stage_table => Some(format!("a stage `{name}` must be in `stages`")),
            None => None,
        }
    }
}

/// The candidate that differs least, when it differs little.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let name = shortened(name).to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::normalized_damerau_levenshtein(&name, candidate),
                candidate,
            )
        })
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

pub(super) fn join(table: &str, name: &str) -> String {
    if table.is_empty() {
        name.to_owned()
    } else {
        format!("{table}.{name}")
    }
}

/// The names under which the stages' tables may stand. A broken list is reported
/// when its own turn comes; its tables are read as far as it names them.
fn stage_names(tree: &Node) -> Vec<String> {
    let standard = || STANDARD_STAGES.map(str::to_owned).to_vec();
    let Value::Table(entries) = &tree.value else {
        return standard();
    };
    let Some(items) = entries.get("stages").and_then(|node| node.value.list()) else {
        return standard();
    };
    let items = items.iter().take(keys::LIST_MOST);
    let named = items.filter_map(|item| item.text().map(str::to_owned));
    named.filter(|name| !keys::is_reserved(name)).collect()
}

/// One value against its key.
fn check(key: &Key, path: &str, node: &Node) -> Result<Given, Fault> {
    let value = &node.value;
    match key.kind {
        Kind::Count { least, most } => count(key, path, value, least, most),
        Kind::CountOrAuto { .. } if value.text() == Some("auto") => Ok(Given::Auto),
        Kind::CountOrAuto { least, most } => count(key, path, value, least, most),
        Kind::Real { above, least, most } => {
            let range = real_range(above, least, most, key.unit);
            let x = real(key, path, value)?;
            let inside = above.is_none_or(|above| x > above) && x >= least && x <= most;
            if inside {
                Ok(Given::Real(Scalar::new(x)))
            } else {
                Err(out_of_range(path, format!("{x:?}"), range))
            }
        }
        Kind::Flag => {
            if let Value::Flag(flag) = value {
                Ok(Given::Flag(*flag))
            } else {
                Err(wrong_type(key, path, value))
            }
        }
        Kind::Choice(choices) => choice(key, path, value, choices),
        Kind::Device => match value.text().and_then(super::Device::from_name) {
            Some(device) => Ok(Given::Text(device.to_string())),
            None => choice(key, path, value, &["auto", "cpu", "cuda", "cuda:0"]),
        },
        Kind::Paths => paths(key, path, value),
        Kind::Stages => stages(key, path, value),
        Kind::Criteria => criteria(key, path, value),
        Kind::Limit { least, most } => limit(key, path, value, least, most),
        Kind::Ladder => rungs(key, path, value),
    }
}

fn wrong_type(key: &Key, path: &str, value: &Value) -> Fault {
    Fault::WrongType {
        key: path.to_owned(),
        found: value.found(),
        expected: key.kind.to_string(),
        hint: None,
    }
}

fn out_of_range(path: &str, found: String, range: String) -> Fault {
    Fault::OutOfRange {
        key: path.to_owned(),
        found,
        range,
    }
}

fn not_a_choice(path: &str, found: &str, choices: &[&str]) -> Fault {
    Fault::NotAChoice {
        key: path.to_owned(),
        found: shortened(found),
        choices: choices.iter().map(|&choice| choice.to_owned()).collect(),
        nearest: nearest(found, choices.iter().copied()).map(str::to_owned),
    }
}

fn choice(key: &Key, path: &str, value: &Value, choices: &[&str]) -> Result<Given, Fault> {
    let Some(text) = value.text() else {
        return Err(wrong_type(key, path, value));
    };
    if choices.contains(&text) {
        Ok(Given::Text(text.to_owned()))
    } else {
        Err(not_a_choice(path, text, choices))
    }
}

fn count(key: &Key, path: &str, value: &Value, least: u64, most: u64) -> Result<Given, Fault> {
    let outside = |found: String| {
        let range = format!("{least} to {most}{}", spaced(key.unit));
        Err(out_of_range(path, found, range))
    };
    match value {
        Value::Integer(n) => match u64::try_from(*n) {
            Ok(n) if (least..=most).contains(&n) => Ok(Given::Count(n)),
            _ => outside(n.to_string()),
        },
        Value::TooLarge(text) => outside(shortened(text)),
        Value::Float(x) if x.fract() == 0.0 && x.abs() < 1e15 => Err(Fault::WrongType {
            key: path.to_owned(),
            found: value.found(),
            expected: key.kind.to_string(),
            hint: Some(format!("write `{x:.0}`")),
        }),
        Value::Float(_)
        | Value::Text(_)
        | Value::Flag(_)
        | Value::Date(_)
        | Value::Null
        | Value::List(_)
        | Value::Table(_) => Err(wrong_type(key, path, value)),
    }
}

/// A TOML integer counts as a real number too.
fn real(key: &Key, path: &str, value: &Value) -> Result<f64, Fault> {
    match value {
        Value::Float(x) => Ok(*x),
        Value::Integer(n) => Ok(*n as f64),
        Value::TooLarge(_)
        | Value::Text(_)
        | Value::Flag(_)
        | Value::Date(_)
        | Value::Null
        | Value::List(_)
        | Value::Table(_) => Err(wrong_type(key, path, value)),
    }
}

fn real_range(above: Option<f64>, least: f64, most: f64, unit: &str) -> String {
    match above {
        Some(above) => format!("above {above} to {most}{}", spaced(unit)),
        None => format!("{least} to {most}{}", spaced(unit)),
    }
}

fn spaced(unit: &str) -> String {
    if unit.is_empty() {
        String::new()
    } else {
        format!(" {unit}")
    }
}

/// A list of strings, not too long.
fn texts(key: &Key, path: &str, value: &Value) -> Result<Vec<String>, Fault> {
    let Some(items) = value.list() else {
        return Err(wrong_type(key, path, value));
    };
    if items.len() > keys::LIST_MOST {
        let range = format!("0 to {} entries", keys::LIST_MOST);
        return Err(out_of_range(path, value.found(), range));
    }
    items
        .iter()
        .map(|item| match item.text() {
            Some(text) => Ok(text.to_owned()),
            None => Err(Fault::WrongType {
                key: path.to_owned(),
                found: format!("a list with {}", item.found()),
                expected: key.kind.to_string(),
                hint: None,
            }),
        })
        .collect()
}

fn twice(path: &str, names: &[String]) -> Result<(), Fault> {
    let mut seen = BTreeSet::new();
    match names.iter().find(|name| !seen.insert(name.as_str())) {
        Some(name) => Err(Fault::Twice {
            key: path.to_owned(),
            found: shortened(name),
        }),
        None => Ok(()),
    }
}

fn not_empty(path: &str, names: &[String]) -> Result<(), Fault> {
    if names.is_empty() {
        let range = format!("1 to {} entries", keys::LIST_MOST);
        return Err(out_of_range(path, "an empty list".to_owned(), range));
    }
    Ok(())
}

fn paths(key: &Key, path: &str, value: &Value) -> Result<Given, Fault> {
    let found = match value.text() {
        Some(text) => vec![text.to_owned()],
        None => texts(key, path, value)?,
    };
    not_empty(path, &found)?;
    if found
        .iter()
        .any(|path| path.is_empty() || path.contains('\0'))
    {
        let range = "the paths there can be".to_owned();
        return Err(out_of_range(
            path,
            "an empty path or one with a NUL".to_owned(),
            range,
        ));
    }
    twice(path, &found)?;
    Ok(Given::Texts(found))
}

fn stages(key: &Key, path: &str, value: &Value) -> Result<Given, Fault> {
    let names = texts(key, path, value)?;
    not_empty(path, &names)?;
    for name in &names {
        let why = if keys::is_reserved(name) {
            "a key has this name"
        } else if name.len() > 64 {
            "it is longer than 64 characters"
        } else if !name.starts_with(|c: char| c.is_ascii_lowercase())
            || !name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            "it must be of a-z, 0-9 and `_`, a letter first"
        } else {
            continue;
        };
        return Err(Fault::StageName {
            key: path.to_owned(),
            found: shortened(name),
            why,
        });
    }
    twice(path, &names)?;
    Ok(Given::Texts(names))
}

fn criteria(key: &Key, path: &str, value: &Value) -> Result<Given, Fault> {
    let names = texts(key, path, value)?;
    for name in &names {
        if !super::gate::CRITERIA.contains(&name.as_str()) {
            return Err(not_a_choice(path, name, &super::gate::CRITERIA));
        }
    }
    twice(path, &names)?;
    Ok(Given::Texts(names))
}

fn limit(key: &Key, path: &str, value: &Value, least: f64, most: f64) -> Result<Given, Fault> {
    let one = |value: &Value| -> Result<Scalar, Fault> {
        let x = real(key, path, value)?;
        if x >= least && x <= most {
            Ok(Scalar::new(x))
        } else {
            let range = real_range(None, least, most, key.unit);
            Err(out_of_range(path, format!("{x:?}"), range))
        }
    };
    let bad = |why: String| Fault::Schedule {
        key: path.to_owned(),
        why,
    };
    let Some(rows) = value.list() else {
        return one(value).map(|x| Given::Limit(Limit::Constant(x)));
    };
    if rows.is_empty() || rows.len() > keys::LIST_MOST {
        return Err(bad(format!(
            "it has {} entries, outside 1 to {}",
            rows.len(),
            keys::LIST_MOST
        )));
    }
    let mut schedule: Vec<(u64, Scalar)> = Vec::with_capacity(rows.len());
    for row in rows {
        let Some([Value::Integer(step), limit]) = row.list() else {
            return Err(bad(format!(
                "entry {} is {}, not a step and a limit",
                schedule.len() + 1,
                row.found()
            )));
        };
        let step = match u64::try_from(*step) {
            Ok(step) if schedule.last().is_none_or(|(last, _)| *last < step) => step,
            _ => return Err(bad(format!("step {step} does not rise"))),
        };
        schedule.push((step, one(limit)?));
    }
    Ok(Given::Limit(Limit::Schedule(schedule)))
}

fn rungs(key: &Key, path: &str, value: &Value) -> Result<Given, Fault> {
    let rungs: Result<Vec<Rung>, Fault> = texts(key, path, value)?
        .iter()
        .map(|text| {
            ladder::parse(text).map_err(|why| Fault::Rung {
                key: path.to_owned(),
                rung: shortened(text),
                why,
            })
        })
        .collect();
    rungs.map(Given::Ladder)
}

impl std::fmt::Display for Kind {
    /// What is expected, for errors and documentation.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Count { least, most } => write!(f, "an integer, {least} to {most}"),
            Kind::CountOrAuto { least, most } => {
                write!(f, "\"auto\" or an integer, {least} to {most}")
            }
            Kind::Real { above, least, most } => {
                write!(f, "a number, {}", real_range(*above, *least, *most, ""))
            }
            Kind::Flag => f.write_str("true or false"),
            Kind::Choice(choices) => {
                for (index, choice) in choices.iter().enumerate() {
                    let before = match index {
                        0 => "",
                        _ if index + 1 == choices.len() => " or ",
                        _ => ", ",
                    };
                    write!(f, "{before}\"{choice}\"")?;
                }
                Ok(())
            }
            Kind::Device => f.write_str("\"auto\", \"cpu\", \"cuda\" or \"cuda:N\""),
            Kind::Paths => f.write_str("a path or a list of paths"),
            Kind::Stages => f.write_str("a list of stage names"),
            Kind::Criteria => f.write_str("a list of criteria"),
            Kind::Limit { least, most } => {
                write!(f, "a number, {least} to {most}, or [[step, limit], ...]")
            }
            Kind::Ladder => f.write_str("a list of rungs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_are_kept_in_32_bits_fit_them() {
        let wide = [
            "seed",
            "STAGE.n_updates",
            "STAGE.chunk_size",
            "STAGE.log_interval",
            "STAGE.checkpoint_interval",
        ];
        for key in keys::KEYS.iter().filter(|key| !wide.contains(&key.path)) {
            if let Kind::Count { most, .. } | Kind::CountOrAuto { most, .. } = key.kind {
                assert!(u32::try_from(most).is_ok(), "{}", key.path);
            }
        }
    }

    #[track_caller]
    fn check_nearest(name: &str, typed: &str, want: Option<&str>) {
        let known = ["learning_rate", "log_interval", "seed", "threads"];
        assert_eq!(nearest(typed, known), want, "{name}");
    }

    #[test]
    fn nearest_key() {
        check_nearest("a letter left out", "learning_rte", Some("learning_rate"));
        check_nearest("two letters swapped", "sede", Some("seed"));
        check_nearest("capitals", "SEED", Some("seed"));
        check_nearest("nothing like it", "momentum", None);
        check_nearest("no letters at all", "", None);
    }
}
