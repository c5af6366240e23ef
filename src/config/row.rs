//! A row of the table of keys: all there is to know about one key.
//!
//! A row says what its value may be, what it means, what it is when nobody sets
//! it, whether it may change on resume, and which field keeps it. Reading,
//! writing, explaining and comparing configs are loops over rows, so that no
//! other place names a key. Rows are values: a stage may bring some of its own.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::events::{SettingKey, StageName, StagePolicy};
use crate::presets::{self, ModelKind, Preset};

use super::given::{Given, Stored};
use super::kind::Kind;
use super::own::Own;
use super::types::{Config, Network};

/// What is said about a key, whatever keeps its value.
pub(super) struct Key {
    /// Dotted, within the config or within the table of a stage.
    pub path: Cow<'static, str>,
    pub kind: Kind,
    /// Empty for what has none.
    pub unit: Cow<'static, str>,
    pub meaning: Cow<'static, str>,
    pub change: Change,
    /// The criteria that read the key: without one of them it has no effect.
    /// Empty for a key that always has one.
    pub criteria: Vec<Cow<'static, str>>,
}

impl Key {
    /// Whether one of the key's criteria is among these.
    pub fn is_read_by(&self, criterion: &str) -> bool {
        self.criteria.iter().any(|name| name == criterion)
    }
}

/// Whether a key may change when a run is resumed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Setting(SettingKey),
    /// Of the process and not of the run.
    Process,
    /// Never, and why.
    Fixed(&'static str),
}

impl Change {
    pub const SHAPE: Change = Change::Fixed("it is part of the model's shape");
    pub const RULES: Change = Change::Fixed("it is part of the policy by which the log is decided");
}

/// A key, its default, and the field of an `S` that keeps it.
pub(super) struct Row<S> {
    pub key: Key,
    default: Fallback<S>,
    field: Field<S>,
}

impl<S> Row<S> {
    /// `None`: the key does not apply to this `S`.
    pub fn get(&self, from: &S) -> Option<Given> {
        (self.field.get)(from)
    }

    pub fn set(&self, to: &mut S, given: &Given) {
        (self.field.set)(to, given);
    }

    /// Sets what the key is when nobody sets it. The rows before this one have
    /// been read.
    ///
    /// # Errors
    /// What to say of a key that somebody must set.
    pub fn set_default(&self, to: &mut S) -> Result<(), &'static str> {
        match &self.default {
            Fallback::Preset => {}
            Fallback::Computed(compute) => {
                let given = compute(to)?;
                self.set(to, &given);
            }
            Fallback::Required(why) => return Err(why),
        }
        Ok(())
    }

    /// The criteria of a gate that read the key.
    pub fn read_by<N: Into<Cow<'static, str>>>(
        mut self,
        criteria: impl IntoIterator<Item = N>,
    ) -> Row<S> {
        self.key.criteria = criteria.into_iter().map(N::into).collect();
        self
    }
}

/// What a key is when nobody sets it.
pub(super) enum Fallback<S> {
    /// What stands there before the row is read.
    Preset,
    /// From the rows before it.
    Computed(Compute<S>),
    /// None: somebody must set it. What is said when nobody does.
    Required(&'static str),
}

type Compute<S> = Box<dyn Fn(&S) -> Result<Given, &'static str> + Send + Sync>;

/// A default that depends on nothing.
pub(super) fn always<S>(value: impl Stored + Send + Sync + 'static) -> Fallback<S> {
    Fallback::Computed(Box::new(move |_| Ok(value.to_given())))
}

/// A default that follows from the rows before it.
pub(super) fn computed<S, T: Stored>(
    compute: impl Fn(&S) -> T + Send + Sync + 'static,
) -> Fallback<S> {
    Fallback::Computed(Box::new(move |it| Ok(compute(it).to_given())))
}

/// How the value of a key gets out of an `S` and into it.
pub(super) struct Field<S> {
    get: Get<S>,
    set: Set<S>,
}

type Get<S> = Box<dyn Fn(&S) -> Option<Given> + Send + Sync>;
type Set<S> = Box<dyn Fn(&mut S, &Given) + Send + Sync>;

impl<S> Field<S> {
    pub fn new(
        get: impl Fn(&S) -> Option<Given> + Send + Sync + 'static,
        set: impl Fn(&mut S, &Given) + Send + Sync + 'static,
    ) -> Field<S> {
        Field {
            get: Box::new(get),
            set: Box::new(set),
        }
    }
}

/// The field that a place expression names: `field!(Config, shape.frame_size)`.
macro_rules! field {
    ($of:ty, $($place:tt)+) => {
        $crate::config::row::Field::new(
            |it: &$of| Some($crate::config::given::Stored::to_given(&it.$($place)+)),
            |it: &mut $of, given: &$crate::config::given::Given| {
                if let Some(value) = $crate::config::given::Stored::from_given(given) {
                    it.$($place)+ = value;
                }
            },
        )
    };
}
pub(super) use field;

pub(super) fn row<S>(
    path: impl Into<Cow<'static, str>>,
    kind: Kind,
    unit: &'static str,
    meaning: &'static str,
    change: Change,
    default: Fallback<S>,
    field: Field<S>,
) -> Row<S> {
    Row {
        key: Key {
            path: path.into(),
            kind,
            unit: unit.into(),
            meaning: meaning.into(),
            change,
            criteria: Vec::new(),
        },
        default,
        field,
    }
}

/// What a stage trains, which says what keys it has.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum StageKind {
    TinyWorlds(ModelKind),
    Own(Own),
}

impl StageKind {
    pub fn of_policy(policy: &StagePolicy) -> StageKind {
        match Own::of_policy(policy) {
            Some(own) => StageKind::Own(own),
            None => {
                let model = ModelKind::of(&policy.model);
                StageKind::TinyWorlds(model.unwrap_or(ModelKind::VideoTokenizer))
            }
        }
    }

    /// `None`: a stage of the user's own.
    pub fn tiny_worlds(&self) -> Option<ModelKind> {
        match self {
            StageKind::TinyWorlds(model) => Some(*model),
            StageKind::Own(_) => None,
        }
    }
}

/// A stage while its rows are read or written.
#[derive(Clone)]
pub(super) struct Stage {
    pub preset: Preset,
    pub kind: StageKind,
    pub policy: StagePolicy,
    pub network: Network,
    /// Which keys of its table somebody set.
    pub given: BTreeSet<String>,
}

impl Stage {
    /// A stage before its rows are read, as the preset has it for a model.
    pub fn new(name: &str, preset: Preset, kind: &StageKind) -> Stage {
        let policy = match kind {
            StageKind::TinyWorlds(model) => StagePolicy {
                name: StageName::new(name),
                ..presets::stage(preset, *model)
            },
            StageKind::Own(own) => own.policy(name, preset),
        };
        Stage {
            preset,
            kind: kind.clone(),
            policy,
            network: Network::blank(),
            given: BTreeSet::new(),
        }
    }

    /// A stage of a config.
    pub fn of(config: &Config, policy: &StagePolicy) -> Stage {
        Stage {
            preset: Preset::from_name(&config.policy.preset).unwrap_or(Preset::Seed),
            kind: StageKind::of_policy(policy),
            policy: policy.clone(),
            network: match config.networks.get(&policy.name) {
                Some(network) => *network,
                None => Network::blank(),
            },
            given: BTreeSet::new(),
        }
    }

    /// The name of the stage's model. Setting it gives the stage what the preset has
    /// for that model.
    pub fn model() -> Field<Stage> {
        Field::new(
            |stage: &Stage| Some(Given::Text(stage.policy.model.as_str().to_owned())),
            |stage, given| {
                if let Some(model) = given.text().and_then(ModelKind::from_name) {
                    let kind = StageKind::TinyWorlds(model);
                    *stage = Stage {
                        given: std::mem::take(&mut stage.given),
                        ..Stage::new(stage.policy.name.as_str(), stage.preset, &kind)
                    };
                }
            },
        )
    }
}
