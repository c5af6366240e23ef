//! The kinds of values: type and bounds, as a check and as text.

use std::collections::BTreeSet;
use std::fmt;

use crate::events::{Limit, Rung, Scalar};

use super::error::Fault;
use super::key_value::KeyValue;
use super::ladder;
use super::tree::{Value, shortened};
use super::types::Device;

/// Most entries of any list.
pub(super) const LIST_MOST: usize = 1_000;

/// Which values are valid for a key.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Count {
        least: u64,
        most: u64,
    },
    CountOrAuto {
        least: u64,
        most: u64,
    },
    Real {
        above: Option<f64>,
        least: f64,
        most: f64,
    },
    Flag,
    Choice(Vec<&'static str>),
    Device,
    Paths,
    /// One path.
    Path,
    /// A program and its arguments, or an empty list.
    Command,
    /// A list of stage names, none of them reserved.
    Stages {
        is_reserved: fn(&str) -> bool,
    },
    /// A string without line breaks.
    Text,
    /// A list of different strings.
    Texts,
    Criteria(Vec<String>),
    /// A real number, or `[[step, limit], ...]`.
    Limit {
        least: f64,
        most: f64,
    },
    /// Rungs that change the core settings or these knobs; the flag says whether a knob is an integer.
    Ladder {
        knobs: Vec<(String, bool)>,
    },
}

impl Kind {
    /// Checks one value; `unit` and `path` are for the error.
    pub fn check(&self, unit: &str, path: &str, value: &Value) -> Result<KeyValue, Fault> {
        let check = Check {
            kind: self,
            unit,
            path,
        };
        check.value(value)
    }
}

/// The check of the value at a path.
struct Check<'a> {
    kind: &'a Kind,
    unit: &'a str,
    path: &'a str,
}

impl Check<'_> {
    fn value(&self, value: &Value) -> Result<KeyValue, Fault> {
        match self.kind {
            Kind::Count { least, most } => self.count(value, *least, *most),
            Kind::CountOrAuto { .. } if value.text() == Some("auto") => Ok(KeyValue::Auto),
            Kind::CountOrAuto { least, most } => self.count(value, *least, *most),
            Kind::Real { above, least, most } => {
                let x = self.real(value)?;
                let inside = above.is_none_or(|above| x > above) && x >= *least && x <= *most;
                if inside {
                    Ok(KeyValue::Real(Scalar::new(x)))
                } else {
                    let range = real_range(*above, *least, *most, self.unit);
                    Err(self.out_of_range(format!("{x:?}"), range))
                }
            }
            Kind::Flag => {
                if let Value::Flag(flag) = value {
                    Ok(KeyValue::Flag(*flag))
                } else {
                    Err(self.wrong_type(value))
                }
            }
            Kind::Choice(choices) => self.choice(value, choices),
            Kind::Device => match value.text().and_then(Device::from_name) {
                Some(device) => Ok(KeyValue::Text(device.to_string())),
                None => self.choice(value, &["auto", "cpu", "cuda", "cuda:0"]),
            },
            Kind::Paths => self.paths(value),
            Kind::Path => match value.text() {
                Some(text) if !text.is_empty() && !text.contains('\0') => {
                    Ok(KeyValue::Text(text.to_owned()))
                }
                Some(_) | None => Err(self.wrong_type(value)),
            },
            Kind::Command => {
                let words = self.texts(value)?;
                let is_valid = |(at, word): (usize, &String)| {
                    !word.contains('\0') && (0 < at || !word.is_empty())
                };
                if words.iter().enumerate().all(is_valid) {
                    Ok(KeyValue::Texts(words))
                } else {
                    Err(self.wrong_type(value))
                }
            }
            Kind::Stages { is_reserved } => self.stages(value, *is_reserved),
            Kind::Criteria(known) => self.criteria(value, known),
            Kind::Limit { least, most } => self.limit(value, *least, *most),
            Kind::Text => match value.text() {
                Some(text) if is_one_line(text) => Ok(KeyValue::Text(text.to_owned())),
                Some(_) | None => Err(self.wrong_type(value)),
            },
            Kind::Texts => {
                let texts = self.texts(value)?;
                self.reject_duplicates(&texts)?;
                Ok(KeyValue::Texts(texts))
            }
            Kind::Ladder { knobs } => self.rungs(value, knobs),
        }
    }

    fn wrong_type(&self, value: &Value) -> Fault {
        Fault::WrongType {
            key: self.path.to_owned(),
            found: value.found(),
            expected: self.kind.to_string(),
            suggestion: None,
        }
    }

    fn out_of_range(&self, found: String, range: String) -> Fault {
        Fault::OutOfRange {
            key: self.path.to_owned(),
            found,
            range,
        }
    }

    fn not_a_choice(&self, found: &str, choices: &[&str]) -> Fault {
        Fault::NotAChoice {
            key: self.path.to_owned(),
            found: shortened(found),
            choices: choices.iter().map(|&choice| choice.to_owned()).collect(),
            nearest: nearest(found, choices.iter().copied()).map(str::to_owned),
        }
    }

    fn choice(&self, value: &Value, choices: &[&str]) -> Result<KeyValue, Fault> {
        let Some(text) = value.text() else {
            return Err(self.wrong_type(value));
        };
        if choices.contains(&text) {
            Ok(KeyValue::Text(text.to_owned()))
        } else {
            Err(self.not_a_choice(text, choices))
        }
    }

    fn count(&self, value: &Value, least: u64, most: u64) -> Result<KeyValue, Fault> {
        let outside = |found: String| {
            let range = format!("{least} to {most}{}", spaced(self.unit));
            Err(self.out_of_range(found, range))
        };
        match value {
            Value::Integer(n) => match u64::try_from(*n) {
                Ok(n) if (least..=most).contains(&n) => Ok(KeyValue::Count(n)),
                _ => outside(n.to_string()),
            },
            Value::TooLarge(text) => outside(shortened(text)),
            Value::Float(x) if x.fract() == 0.0 && x.abs() < 1e15 => Err(Fault::WrongType {
                key: self.path.to_owned(),
                found: value.found(),
                expected: self.kind.to_string(),
                suggestion: Some(format!("{x:.0}")),
            }),
            Value::Float(_)
            | Value::Text(_)
            | Value::Flag(_)
            | Value::Date(_)
            | Value::Null
            | Value::List(_)
            | Value::Table(_) => Err(self.wrong_type(value)),
        }
    }

    /// A TOML integer counts as a real number too.
    fn real(&self, value: &Value) -> Result<f64, Fault> {
        match value {
            Value::Float(x) => Ok(*x),
            Value::Integer(n) => Ok(*n as f64),
            Value::TooLarge(_)
            | Value::Text(_)
            | Value::Flag(_)
            | Value::Date(_)
            | Value::Null
            | Value::List(_)
            | Value::Table(_) => Err(self.wrong_type(value)),
        }
    }

    /// A list of strings of bounded length.
    fn texts(&self, value: &Value) -> Result<Vec<String>, Fault> {
        let Some(items) = value.list() else {
            return Err(self.wrong_type(value));
        };
        if items.len() > LIST_MOST {
            let range = format!("0 to {} entries", LIST_MOST);
            return Err(self.out_of_range(value.found(), range));
        }
        items
            .iter()
            .map(|item| match item.text() {
                Some(text) => Ok(text.to_owned()),
                None => Err(Fault::WrongType {
                    key: self.path.to_owned(),
                    found: format!("a list with {}", item.found()),
                    expected: self.kind.to_string(),
                    suggestion: None,
                }),
            })
            .collect()
    }

    fn reject_duplicates(&self, names: &[String]) -> Result<(), Fault> {
        let mut seen = BTreeSet::new();
        match names.iter().find(|name| !seen.insert(name.as_str())) {
            Some(name) => Err(Fault::Duplicate {
                key: self.path.to_owned(),
                found: shortened(name),
            }),
            None => Ok(()),
        }
    }

    fn not_empty(&self, names: &[String]) -> Result<(), Fault> {
        if names.is_empty() {
            let range = format!("1 to {} entries", LIST_MOST);
            return Err(self.out_of_range("an empty list".to_owned(), range));
        }
        Ok(())
    }

    fn paths(&self, value: &Value) -> Result<KeyValue, Fault> {
        let found = match value.text() {
            Some(text) => vec![text.to_owned()],
            None => self.texts(value)?,
        };
        self.not_empty(&found)?;
        for path in &found {
            let invalid = if path.is_empty() {
                "an empty path"
            } else if path.contains('\0') {
                "a path with a NUL character"
            } else {
                continue;
            };
            return Err(Fault::WrongType {
                key: self.path.to_owned(),
                found: invalid.to_owned(),
                expected: self.kind.to_string(),
                suggestion: None,
            });
        }
        self.reject_duplicates(&found)?;
        Ok(KeyValue::Texts(found))
    }

    fn stages(&self, value: &Value, is_reserved: fn(&str) -> bool) -> Result<KeyValue, Fault> {
        let names = self.texts(value)?;
        self.not_empty(&names)?;
        for name in &names {
            let why = if is_reserved(name) {
                "a config key has this name"
            } else if name.len() > 64 {
                "it is longer than 64 characters"
            } else if !name.starts_with(|c: char| c.is_ascii_lowercase())
                || !name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            {
                "it must start with a letter a-z and contain only a-z, 0-9 and `_`"
            } else {
                continue;
            };
            return Err(Fault::StageName {
                key: self.path.to_owned(),
                found: shortened(name),
                why,
            });
        }
        self.reject_duplicates(&names)?;
        Ok(KeyValue::Texts(names))
    }

    fn criteria(&self, value: &Value, known: &[String]) -> Result<KeyValue, Fault> {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let names = self.texts(value)?;
        for name in &names {
            if !known.contains(&name.as_str()) {
                return Err(self.not_a_choice(name, &known));
            }
        }
        self.reject_duplicates(&names)?;
        Ok(KeyValue::Texts(names))
    }

    fn limit(&self, value: &Value, least: f64, most: f64) -> Result<KeyValue, Fault> {
        let one = |value: &Value| -> Result<Scalar, Fault> {
            let x = self.real(value)?;
            if x >= least && x <= most {
                Ok(Scalar::new(x))
            } else {
                let range = real_range(None, least, most, self.unit);
                Err(self.out_of_range(format!("{x:?}"), range))
            }
        };
        let bad = |why: String| Fault::Schedule {
            key: self.path.to_owned(),
            why,
        };
        let Some(rows) = value.list() else {
            return one(value).map(|x| KeyValue::Limit(Limit::Constant(x)));
        };
        if rows.is_empty() || rows.len() > LIST_MOST {
            return Err(bad(format!(
                "it has {} entries, outside 1 to {}",
                rows.len(),
                LIST_MOST
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
                _ => return Err(bad(format!("step {step} does not increase"))),
            };
            schedule.push((step, one(limit)?));
        }
        Ok(KeyValue::Limit(Limit::Schedule(schedule)))
    }

    fn rungs(&self, value: &Value, knobs: &[(String, bool)]) -> Result<KeyValue, Fault> {
        let rungs: Result<Vec<Rung>, Fault> = self
            .texts(value)?
            .iter()
            .map(|text| {
                ladder::parse(text, knobs).map_err(|why| Fault::Rung {
                    key: self.path.to_owned(),
                    rung: shortened(text),
                    why,
                })
            })
            .collect();
        rungs.map(KeyValue::Ladder)
    }
}

fn is_one_line(text: &str) -> bool {
    text.chars().count() <= 200 && !text.chars().any(char::is_control)
}

fn real_range(above: Option<f64>, least: f64, most: f64, unit: &str) -> String {
    match above {
        Some(above) => format!("above {above} to {}{}", bound(most), spaced(unit)),
        None => format!("{} to {}{}", bound(least), bound(most), spaced(unit)),
    }
}

/// A bound, with an exponent if it is too long otherwise.
fn bound(x: f64) -> String {
    if x.abs() < 1e16 {
        x.to_string()
    } else {
        format!("{x:e}")
    }
}

fn spaced(unit: &str) -> String {
    if unit.is_empty() {
        String::new()
    } else {
        format!(" {unit}")
    }
}

impl fmt::Display for Kind {
    /// What is expected, in errors and documentation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
            Kind::Path => f.write_str("a path"),
            Kind::Command => f.write_str("a list of strings: a program and its arguments"),
            Kind::Stages { .. } => f.write_str("a list of stage names"),
            Kind::Text => f.write_str("a string of one line, at most 200 characters"),
            Kind::Texts => f.write_str("a list of strings"),
            Kind::Criteria(_) => f.write_str("a list of criteria"),
            Kind::Limit { least, most } => {
                let range = real_range(None, *least, *most, "");
                write!(f, "a number, {range}, or [[step, limit], ...]")
            }
            Kind::Ladder { .. } => f.write_str("a list of rungs"),
        }
    }
}

/// The candidate most similar to the name, if it is similar enough.
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
        .filter(|(similarity, _)| *similarity >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

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
