//! What may change when a run is resumed, and how a change is recorded.
//!
//! A setting that the machine reads changes by an event, so that a replay sees the
//! change. Keys of the process, such as its device and threads, change freely. Any other
//! change is rejected: the log's decisions would depend on two different configs.

use crate::events::{SettingKey, SettingValue, Settings, StageName};

use super::error::{ConfigError, Fault, Problem};
use super::key_value::KeyValue;
use super::resolve;
use super::row::Change;
use super::schema::{Schema, entries, inside};
use super::tree::{self, Override};
use super::types::Config;

/// Whether a key may change on resume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changeable {
    /// By an event. `stage` is `None` for a setting of the whole policy.
    Yes {
        key: SettingKey,
        stage: Option<StageName>,
    },
    /// Freely: it belongs to the process. Data may have moved; its hash is checked.
    Process,
    No {
        why: &'static str,
    },
}

/// A changed setting, as the event records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingChange {
    pub stage: Option<StageName>,
    pub key: SettingKey,
    pub from: SettingValue,
    pub to: SettingValue,
}

/// A config with the overrides of a resume.
#[derive(Clone, Debug, PartialEq)]
pub struct Resumed {
    /// The config with the settings in force and the overrides.
    pub config: Config,
    /// Settings that differ from those in force.
    pub settings: Vec<SettingChange>,
    /// Keys of the process that changed.
    pub process: Vec<String>,
}

impl Config {
    /// Whether a key of this config may change on resume; `None`: no such key.
    pub fn changeable(&self, key: &str) -> Option<Changeable> {
        let schema = Schema::of_config(self);
        let stage = schema.in_stage(key);
        Some(match schema.find(key)?.change.clone() {
            Change::Setting(key) => Changeable::Yes {
                key,
                stage: stage.map(|(name, _)| StageName::new(name)),
            },
            Change::Process => Changeable::Process,
            Change::Fixed(why) => Changeable::No { why },
        })
    }

    /// Applies overrides to a run's config. `in_force` are the stages' current settings
    /// and `max_retries` the current limit, both from the state of the run.
    ///
    /// # Errors
    /// Unknown and unchangeable keys, values out of range, and values that contradict
    /// each other. Contradictions that existed before the overrides are ignored.
    pub fn resume<'a>(
        &self,
        in_force: impl IntoIterator<Item = (&'a StageName, &'a Settings)>,
        max_retries: u32,
        overrides: &[Override],
    ) -> Result<Resumed, ConfigError> {
        let mut before = self.clone();
        before.policy.max_retries = max_retries;
        for (name, settings) in in_force {
            for stage in &mut before.policy.stages {
                if stage.name == *name {
                    let knobs = stage.settings.knobs.keys().cloned().collect::<Vec<_>>();
                    stage.settings = settings.clone();
                    // Settings in older logs contain knobs that the stage does not have.
                    stage.settings.knobs.retain(|name, _| knobs.contains(name));
                }
            }
        }
        let base = std::path::Path::new("");
        let plain = tree::from_json(&before.to_json());
        let mut changed = plain.clone();
        for change in overrides {
            tree::overlay(&mut changed, change);
        }
        let (_, known) = resolve::resolve_partial(&plain, base);
        let (loaded, mut problems) = resolve::resolve_partial(&changed, base);
        let mut config = loaded.config;
        problems.retain(|problem| !known.contains(problem));
        let differences = before.differences(&config, overrides);
        if !differences.fixed.is_empty() {
            problems = differences.fixed;
        }
        if !problems.is_empty() {
            return Err(ConfigError::Invalid { problems });
        }
        keep_curves(&before, &mut config);
        Ok(Resumed {
            config,
            settings: differences.settings,
            process: differences.process,
        })
    }

    fn differences(&self, after: &Config, overrides: &[Override]) -> Differences {
        let mut found = Differences::default();
        let old = entries(self);
        for (key, to) in entries(after) {
            let from = old.iter().find(|(known, _)| *known == key).map(|(_, g)| g);
            let Some(cause) = overrides.iter().rev().find(|change| change.touches(&key)) else {
                continue;
            };
            if from == Some(&to) {
                continue;
            }
            match self.changeable(&key) {
                Some(Changeable::Yes { key, stage }) => {
                    let from = from.and_then(|from| self.setting_value(stage.as_ref(), from));
                    let to = after.setting_value(stage.as_ref(), &to);
                    if let (Some(from), Some(to)) = (from, to)
                        && from != to
                    {
                        found.settings.push(SettingChange {
                            stage,
                            key,
                            from,
                            to,
                        });
                    }
                }
                Some(Changeable::Process) => found.process.push(key),
                Some(Changeable::No { why }) => found.fixed.push(Problem {
                    location: cause.node.location.clone(),
                    fault: Fault::Fixed { key, why },
                }),
                None => {}
            }
        }
        found
    }

    /// The value of a setting; "auto" is replaced by the interval it stands for.
    fn setting_value(&self, stage: Option<&StageName>, given: &KeyValue) -> Option<SettingValue> {
        match given {
            KeyValue::Count(n) => Some(SettingValue::Count(*n)),
            KeyValue::Real(x) => Some(SettingValue::Real(*x)),
            KeyValue::Auto => {
                let settings = &self.stage(stage?)?.settings;
                Some(SettingValue::Count(settings.checkpoint_every()))
            }
            KeyValue::Flag(_)
            | KeyValue::Text(_)
            | KeyValue::Texts(_)
            | KeyValue::Limit(_)
            | KeyValue::Ladder(_) => None,
        }
    }
}

#[derive(Default)]
struct Differences {
    settings: Vec<SettingChange>,
    process: Vec<String>,
    fixed: Vec<Problem>,
}

/// Extending a target does not change the learning rate's curve; only a person's change does.
fn keep_curves(before: &Config, after: &mut Config) {
    for stage in &mut after.policy.stages {
        if let Some(old) = before.stage(&stage.name)
            && old.settings.n_updates == stage.settings.n_updates
        {
            stage.settings.schedule_updates = old.settings.schedule_updates;
        }
    }
}

impl Override {
    /// Whether the override sets this key or a table that contains it.
    fn touches(&self, key: &str) -> bool {
        key == self.key || inside(key, &self.key).is_some()
    }
}
