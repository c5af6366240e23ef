//! From a config file to the settings and the policy of a run.
//!
//! A TOML file, overrides (`key=value`) and the config in a run's first event all go
//! through the same three steps: parse into a tree of values with locations, check
//! each value against the table of keys, check the values against each other. All
//! problems are collected. The result is a complete [`Config`], which a run's log
//! stores as JSON, so resuming needs no file. Nothing here opens a data set, queries
//! devices or reads the environment; only [`Config::load`] reads a file.
//!
//! Invariant: `from_json(to_json(config))` is the same config.

mod criteria;
mod custom;
mod custom_rows;
mod describe;
mod error;
mod gate;
mod key_value;
mod keys;
mod kind;
mod ladder;
mod resolve;
mod resume;
mod row;
mod schema;
#[cfg(test)]
mod tests;
mod tree;
mod types;
mod values;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

pub use describe::{KeyRow, describe, describe_custom, init};
pub use error::{ConfigError, Fault, Location, Problem};
pub use resume::{Changeable, Resumed, SettingChange};
pub use tree::Override;
pub use types::{Config, DataConfig, Device, Loaded, Network, Shape, TrainerConfig, TrainerKind};

/// Largest config file, in bytes.
pub const FILE_MOST: u64 = 1 << 20;
/// Path that means standard input.
pub const STDIN: &str = "-";

impl Config {
    /// Reads a TOML file and applies the overrides to it; `-` reads standard input.
    /// Relative paths in a file are resolved against the file's folder; those in
    /// overrides and on standard input, against the working directory.
    ///
    /// # Errors
    /// An unreadable file, or every problem of the config.
    pub fn load(path: &Path, overrides: &[Override]) -> Result<Loaded, ConfigError> {
        let piped = path == Path::new(STDIN);
        let name = if piped {
            "standard input".to_owned()
        } else {
            path.display().to_string()
        };
        let unreadable = |error: std::io::Error| ConfigError::Unreadable {
            path: name.clone(),
            reason: error.to_string(),
        };
        let bytes = if piped {
            bounded(std::io::stdin().lock())
        } else {
            File::open(path).and_then(bounded)
        };
        let text = String::from_utf8(bytes.map_err(unreadable)?).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            ConfigError::not_utf8(name.clone(), error.as_bytes(), valid)
        })?;
        let absolute = std::path::absolute(path).map_err(unreadable)?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        Config::parse(&text, &name, base, overrides)
    }

    /// Parses a config from a string. Errors call it `name`; relative paths are
    /// resolved against `base`.
    ///
    /// # Errors
    /// Every problem of the config.
    pub fn parse(
        text: &str,
        name: &str,
        base: &Path,
        overrides: &[Override],
    ) -> Result<Loaded, ConfigError> {
        let mut tree = tree::from_toml(text, &Arc::from(name))
            .map_err(|problems| ConfigError::Invalid { problems })?;
        for change in overrides {
            tree::overlay(&mut tree, change);
        }
        resolve::resolve(&tree, base).map_err(|problems| ConfigError::Invalid { problems })
    }

    /// The config with every key, as a run's first event stores it.
    pub fn to_json(&self) -> serde_json::Value {
        key_value::to_json(schema::entries(self))
    }

    /// Reads what [`Config::to_json`] wrote in this version or an older one. A
    /// missing key gets its default.
    ///
    /// # Errors
    /// Every problem of the config.
    pub fn from_json(json: &serde_json::Value) -> Result<Config, ConfigError> {
        resolve::resolve(&tree::from_json(json), Path::new(""))
            .map(|loaded| loaded.config)
            .map_err(|problems| ConfigError::Invalid { problems })
    }

    /// The config with overrides, for a new run: any key may change.
    /// [`Config::resume`] is for an existing run.
    ///
    /// # Errors
    /// Every problem of the config.
    pub fn with(&self, overrides: &[Override]) -> Result<Config, ConfigError> {
        let mut tree = tree::from_json(&self.to_json());
        for change in overrides {
            tree::overlay(&mut tree, change);
        }
        resolve::resolve(&tree, Path::new(""))
            .map(|loaded| loaded.config)
            .map_err(|problems| ConfigError::Invalid { problems })
    }

    /// The config as TOML. Keys that are not in `given` are marked as defaults.
    pub fn to_toml(&self, given: &BTreeSet<String>) -> String {
        describe::show(self, given)
    }

    /// Every key and its value as TOML writes it, in the order of a config file.
    pub fn entries(&self) -> Vec<(String, String)> {
        schema::entries(self)
            .into_iter()
            .map(|(key, given)| (key, given.to_toml()))
            .collect()
    }

    /// Whether the processes of a run may have different values for this key.
    pub fn is_of_process(key: &str) -> bool {
        of_process().any(|row| row.key.path == key)
    }

    /// This config with the keys of the process (data, device, threads) taken from `process`.
    #[must_use]
    pub fn with_process_of(mut self, process: &Config) -> Config {
        for row in of_process() {
            if let Some(given) = row.get(process) {
                row.set(&mut self, &given);
            }
        }
        self
    }
}

fn of_process() -> impl Iterator<Item = &'static row::Row<Config>> {
    let rows = keys::of_run().iter();
    rows.filter(|row| row.key.change == row::Change::Process)
}

fn bounded(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(FILE_MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MOST {
        let most = crate::numbers::bytes(FILE_MOST);
        return Err(std::io::Error::other(format!("it is larger than {most}")));
    }
    Ok(bytes)
}
