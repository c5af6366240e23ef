//! Where a given config differs from the one that a run was created with.

use std::collections::BTreeSet;
use std::path::Path;

use super::read::read;
use crate::config::{Config, Override};
use crate::events::Event;

/// A key with two values, as TOML writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigDifference {
    pub key: String,
    /// `None`: the given config does not have the key.
    pub given: Option<String>,
    pub recorded: Option<String>,
}

/// The keys in which `given` differs from the config in the log of `run`, but for those that
/// `overridden` names. A log that cannot be read has no differences: whoever opens it says why.
pub fn differences(run: &Path, given: &Config, overridden: &[Override]) -> Vec<ConfigDifference> {
    let Some(recorded) = recorded(run) else {
        return Vec::new();
    };
    let overridden: BTreeSet<&str> = overridden.iter().map(Override::key).collect();
    let (given, recorded) = (given.entries(), recorded.entries());
    let value = |all: &[(String, String)], key: &str| {
        let found = all.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.clone())
    };
    let keys: BTreeSet<&String> = given.iter().chain(&recorded).map(|(key, _)| key).collect();
    let difference = |key: &String| ConfigDifference {
        key: key.clone(),
        given: value(&given, key),
        recorded: value(&recorded, key),
    };
    keys.into_iter()
        .filter(|key| !overridden.contains(key.as_str()))
        .map(difference)
        .filter(|difference| difference.given != difference.recorded)
        .collect()
}

fn recorded(run: &Path) -> Option<Config> {
    let first = read(run).ok()?.next()?.ok()?;
    let Event::RunCreated(created) = first.event else {
        return None;
    };
    Config::from_json(&created.config).ok()
}
