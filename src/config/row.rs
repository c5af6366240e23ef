//! A row of the table of keys: everything the program knows about one key.
//!
//! A row says which values are valid, what they mean, what the default is, whether the
//! key may change on resume, and which field holds the value. Reading, writing,
//! explaining and comparing configs are loops over rows, so no other code lists keys.
//! Rows are values, so a stage can define some at run time.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::events::{SettingKey, StageName, StagePolicy};
use crate::presets::{self, ModelKind, Preset};

use super::custom::CustomStage;
use super::key_value::{FieldType, KeyValue};
use super::kind::Kind;
use super::types::{Config, Network};

/// The description of a key, independent of the field that holds its value.
pub(super) struct Key {
    /// Dotted, within the config or within the table of a stage.
    pub path: Cow<'static, str>,
    pub kind: Kind,
    /// Empty if it has none.
    pub unit: Cow<'static, str>,
    pub meaning: Cow<'static, str>,
    pub change: Change,
    /// The criteria that read the key; without any of them it has no effect.
    /// Empty for a key that always has an effect.
    pub criteria: Vec<Cow<'static, str>>,
}

impl Key {
    /// Whether this criterion reads the key.
    pub fn is_read_by(&self, criterion: &str) -> bool {
        self.criteria.iter().any(|name| name == criterion)
    }
}

/// Whether a key may change when a run is resumed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// By an event that changes this setting.
    Setting(SettingKey),
    /// Freely: it belongs to the process, not to the run.
    Process,
    /// Not at all, for this reason.
    Fixed(&'static str),
}

impl Change {
    pub const SHAPE: Change = Change::Fixed("it is part of the model's shape");
    pub const RULES: Change =
        Change::Fixed("it is part of the policy, which decides the whole log");
}

/// A key, its default, and the field of an `S` that holds it.
pub(super) struct Row<S> {
    pub key: Key,
    default: Fallback<S>,
    field: Field<S>,
}

impl<S> Row<S> {
    /// `None`: the key does not apply to this `S`.
    pub fn get(&self, from: &S) -> Option<KeyValue> {
        (self.field.get)(from)
    }

    pub fn set(&self, to: &mut S, given: &KeyValue) {
        (self.field.set)(to, given);
    }

    /// Sets the default. The rows before this one must have been set.
    ///
    /// # Errors
    /// The key is required; the error says what it means.
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

    /// Declares which criteria of a gate read the key.
    pub fn read_by<N: Into<Cow<'static, str>>>(
        mut self,
        criteria: impl IntoIterator<Item = N>,
    ) -> Row<S> {
        self.key.criteria = criteria.into_iter().map(N::into).collect();
        self
    }
}

/// The value of a key that is not set.
pub(super) enum Fallback<S> {
    /// The value that the preset has put there.
    Preset,
    /// Computed from the rows before it.
    Computed(Compute<S>),
    /// None: the key is required. The text says what it means.
    Required(&'static str),
}

type Compute<S> = Box<dyn Fn(&S) -> Result<KeyValue, &'static str> + Send + Sync>;

/// A default that depends on nothing.
pub(super) fn always<S>(value: impl FieldType + Send + Sync + 'static) -> Fallback<S> {
    Fallback::Computed(Box::new(move |_| Ok(value.to_key_value())))
}

/// A default that follows from the rows before it.
pub(super) fn computed<S, T: FieldType>(
    compute: impl Fn(&S) -> T + Send + Sync + 'static,
) -> Fallback<S> {
    Fallback::Computed(Box::new(move |it| Ok(compute(it).to_key_value())))
}

/// Reads and writes the field of an `S` that holds a key's value.
pub(super) struct Field<S> {
    get: Get<S>,
    set: Set<S>,
}

type Get<S> = Box<dyn Fn(&S) -> Option<KeyValue> + Send + Sync>;
type Set<S> = Box<dyn Fn(&mut S, &KeyValue) + Send + Sync>;

impl<S> Field<S> {
    pub fn new(
        get: impl Fn(&S) -> Option<KeyValue> + Send + Sync + 'static,
        set: impl Fn(&mut S, &KeyValue) + Send + Sync + 'static,
    ) -> Field<S> {
        Field {
            get: Box::new(get),
            set: Box::new(set),
        }
    }
}

/// A [`Field`] from a place expression: `field!(Config, shape.frame_size)`.
macro_rules! field {
    ($of:ty, $($place:tt)+) => {
        $crate::config::row::Field::new(
            |it: &$of| Some($crate::config::key_value::FieldType::to_key_value(&it.$($place)+)),
            |it: &mut $of, given: &$crate::config::key_value::KeyValue| {
                if let Some(value) = $crate::config::key_value::FieldType::from_key_value(given) {
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

/// What a stage trains, which determines its keys.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum StageKind {
    /// A model of TinyWorlds.
    BuiltIn(ModelKind),
    /// A stage that the config defines.
    Custom(CustomStage),
}

impl StageKind {
    pub fn of_policy(policy: &StagePolicy) -> StageKind {
        match CustomStage::of_policy(policy) {
            Some(custom) => StageKind::Custom(custom),
            None => {
                let model = ModelKind::of(&policy.model);
                StageKind::BuiltIn(model.unwrap_or(ModelKind::VideoTokenizer))
            }
        }
    }

    /// The stage's model; `None` for a custom stage.
    pub fn built_in(&self) -> Option<ModelKind> {
        match self {
            StageKind::BuiltIn(model) => Some(*model),
            StageKind::Custom(_) => None,
        }
    }
}

/// A stage whose keys are being read or written.
#[derive(Clone)]
pub(super) struct StageDraft {
    pub preset: Preset,
    pub kind: StageKind,
    pub policy: StagePolicy,
    pub network: Network,
    /// The keys of its table that were set.
    pub given: BTreeSet<String>,
}

impl StageDraft {
    /// A stage before its keys are read, with the preset's values for its kind.
    pub fn new(name: &str, preset: Preset, kind: &StageKind) -> StageDraft {
        let policy = match kind {
            StageKind::BuiltIn(model) => StagePolicy {
                name: StageName::new(name),
                ..presets::stage(preset, *model)
            },
            StageKind::Custom(custom) => custom.policy(name, preset),
        };
        StageDraft {
            preset,
            kind: kind.clone(),
            policy,
            network: Network::blank(),
            given: BTreeSet::new(),
        }
    }

    /// A stage of a finished config.
    pub fn of(config: &Config, policy: &StagePolicy) -> StageDraft {
        StageDraft {
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

    /// The name of the stage's model. Setting it replaces the stage with the preset's
    /// stage for that model.
    pub fn model() -> Field<StageDraft> {
        Field::new(
            |stage: &StageDraft| Some(KeyValue::Text(stage.policy.model.as_str().to_owned())),
            |stage, given| {
                if let Some(model) = given.text().and_then(ModelKind::from_name) {
                    let kind = StageKind::BuiltIn(model);
                    *stage = StageDraft {
                        given: std::mem::take(&mut stage.given),
                        ..StageDraft::new(stage.policy.name.as_str(), stage.preset, &kind)
                    };
                }
            },
        )
    }
}
