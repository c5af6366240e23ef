//! What may change when a run goes on, and what a change becomes.
//!
//! A setting that the machine reads changes by an event, so that a replay sees
//! it. What belongs to the process (its device, its threads) changes freely. All
//! else is refused: the log's decisions would rest on two configs at once.

use crate::events::{SettingKey, SettingValue, Settings, StageName};

use super::error::{ConfigError, Fault, Problem};
use super::given::Given;
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
    /// Freely: it is of the process. Data may have moved, and its hash is checked.
    Process,
    No {
        why: &'static str,
    },
}

/// A changed setting, as the event wants it.
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
    /// With the settings in force and the overrides.
    pub config: Config,
    /// Only what differs from what was in force.
    pub settings: Vec<SettingChange>,
    /// Changed keys of the process.
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

    /// Lays overrides over a run's config. `in_force` are the stages' settings as
    /// the ladder and people left them, `max_retries` the budget; both from the fold.
    ///
    /// # Errors
    /// Unknown and unchangeable keys, values out of range, and values that do not
    /// fit together. What was out of step before the overrides is no error.
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
                    // Settings of older logs name knobs that the stage does not have.
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
        let (_, known) = resolve::judge(&plain, base);
        let (loaded, mut problems) = resolve::judge(&changed, base);
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
                    place: cause.node.place.clone(),
                    fault: Fault::Fixed { key, why },
                }),
                None => {}
            }
        }
        found
    }

    /// A setting's value; "auto" is the fifth of a chunk that it stands for.
    fn setting_value(&self, stage: Option<&StageName>, given: &Given) -> Option<SettingValue> {
        match given {
            Given::Count(n) => Some(SettingValue::Count(*n)),
            Given::Real(x) => Some(SettingValue::Real(*x)),
            Given::Auto => {
                let settings = &self.stage(stage?)?.settings;
                Some(SettingValue::Count(settings.checkpoint_every()))
            }
            Given::Flag(_)
            | Given::Text(_)
            | Given::Texts(_)
            | Given::Limit(_)
            | Given::Ladder(_) => None,
        }
    }
}

#[derive(Default)]
struct Differences {
    settings: Vec<SettingChange>,
    process: Vec<String>,
    fixed: Vec<Problem>,
}

/// An extended target keeps its rate's curve until a person changes the target.
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
    /// Whether a key is the override's or in its table.
    fn touches(&self, key: &str) -> bool {
        key == self.key || inside(key, &self.key).is_some()
    }
}
