//! Checks whether a stage can start from a checkpoint that the user gives, or build on it.
//!
//! This runs before a run has a directory: it builds the model and loads the
//! checkpoint into it, as training does.

use super::super::{AdamW, Model, TrainError};
use super::stages::model_config;
use super::weights;
use crate::advice::{Advice, Hint};
use crate::checkpoint::torch_file::Value;
use crate::checkpoint::{self, AdamWState, CheckpointContent, LoadError, Need};
use crate::config::Config;
use crate::events::StageName;
use crate::presets::ModelKind;
use crate::train::models::ModelConfig;

/// Why a stage cannot start from a checkpoint, or build on it.
#[derive(Debug, thiserror::Error)]
pub enum Misfit {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("it holds {found}, expected {expected}")]
    Model {
        found: &'static str,
        expected: &'static str,
    },
    /// `settings`: key, value of the checkpoint, value of the config.
    #[error("{what}")]
    Shape {
        what: String,
        settings: Vec<(&'static str, i64, i64)>,
    },
    /// The shapes fit, but with these settings the model computes something else.
    #[error("its weights have the right shapes, but it was made with {}", both(.settings))]
    Settings {
        settings: Vec<(&'static str, i64, i64)>,
    },
    #[error("{what}")]
    Optimizer { what: String },
    /// The shapes of the moments fit, but they were computed with other settings.
    #[error("its optimizer was set to {settings}")]
    OptimizerSettings { settings: String },
    #[error(transparent)]
    Train(TrainError),
}

impl Advice for Misfit {
    fn hints(&self) -> Vec<Hint> {
        match self {
            Misfit::Model { found, .. } => {
                vec![Hint::text(format!(
                    "give it to a stage that trains {found}"
                ))]
            }
            Misfit::Shape { settings, .. } if settings.is_empty() => vec![Hint::text(
                "set the model's shape to what the checkpoint was trained with",
            )],
            Misfit::Shape { settings, .. } => {
                let made = both(settings);
                vec![Hint::text(format!("the checkpoint was made with {made}"))]
            }
            Misfit::Settings { .. } => vec![
                Hint::text("set the same in the config"),
                Hint::WeightsOfOtherSettings,
            ],
            Misfit::Optimizer { .. } => vec![Hint::ZeroMoments],
            Misfit::OptimizerSettings { .. } => {
                vec![Hint::MomentsOfOtherSettings, Hint::ZeroMoments]
            }
            Misfit::Load(_) | Misfit::Train(_) => Vec::new(),
        }
    }
}

fn both(settings: &[(&'static str, i64, i64)]) -> String {
    let setting =
        |(key, made, here): &(&str, i64, i64)| format!("`{key}` = {made} (the config has {here})");
    let made: Vec<String> = settings.iter().map(setting).collect();
    made.join(", ")
}

/// What a given checkpoint must provide.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Resuming needs the moments, too.
    pub need: Need,
    /// Accept weights and moments that fit even if they were made with other settings.
    pub other_settings: bool,
}

/// Loads the checkpoint at `path` into the model of a stage.
///
/// # Errors
/// What does not fit: what was found and what was expected.
pub fn check(
    config: &Config,
    stage: &StageName,
    model: ModelKind,
    path: &std::path::Path,
    wanted: Wanted,
) -> Result<(), Misfit> {
    let content = match wanted.need {
        Need::Resume => checkpoint::load(path)?,
        Need::Weights => checkpoint::load_weights(path)?,
    };
    if let Some(found) = kind_of(&content)
        && found != model
    {
        return Err(Misfit::Model {
            found: name(found),
            expected: name(model),
        });
    }
    let shape = model_config(config, stage);
    let mut loaded = Model::zeros(model, &shape, tch::Device::Cpu).map_err(Misfit::Train)?;
    let misfit = |what: String| Misfit::Shape {
        what,
        settings: differences(&content, model, &shape),
    };
    let weights = weights::from_content(&content).map_err(misfit)?;
    loaded
        .load(&weights)
        .map_err(|error| misfit(error.to_string()))?;
    let settings = differences(&content, model, &shape);
    if !settings.is_empty() && !wanted.other_settings {
        return Err(Misfit::Settings { settings });
    }
    if wanted.need == Need::Resume {
        let optimizer = |what| Misfit::Optimizer { what };
        let moments = weights::optimizer_from_content(&content).map_err(optimizer)?;
        AdamW::import(loaded.parameters(), &moments)
            .map_err(|error| optimizer(format!("of the optimizer, {error}")))?;
        let state = AdamWState::from_value(&content.optimizer)
            .map_err(|error| optimizer(error.to_string()))?;
        let settings = checkpoint::other_settings(&state);
        if !settings.is_empty() && !wanted.other_settings {
            let settings = settings.join(", ");
            return Err(Misfit::OptimizerSettings { settings });
        }
    }
    Ok(())
}

const fn name(model: ModelKind) -> &'static str {
    match model {
        ModelKind::VideoTokenizer => "a video tokenizer",
        ModelKind::LatentActions => "latent actions",
        ModelKind::Dynamics => "dynamics",
    }
}

/// The kind of model, by a parameter that only this kind has.
fn kind_of(content: &CheckpointContent) -> Option<ModelKind> {
    let has = |wanted: &str| content.model.iter().any(|(name, _)| name.contains(wanted));
    [
        ("encoder.latent_head.", ModelKind::VideoTokenizer),
        ("encoder.action_head.", ModelKind::LatentActions),
        ("mask_token", ModelKind::Dynamics),
    ]
    .into_iter()
    .find_map(|(wanted, model)| has(wanted).then_some(model))
}

/// Settings in the config that a kind of model does not depend on.
const fn ignored(model: ModelKind) -> &'static [&'static str] {
    match model {
        ModelKind::VideoTokenizer => &["n_actions"],
        ModelKind::LatentActions => &["latent_dim", "num_bins"],
        ModelKind::Dynamics => &[],
    }
}

/// Settings in which the checkpoint's own config, if it has one, differs.
fn differences(
    content: &CheckpointContent,
    model: ModelKind,
    shape: &ModelConfig,
) -> Vec<(&'static str, i64, i64)> {
    let made = content.state.get("config");
    let made = |key: &str| {
        made.and_then(|config| config.get(key))
            .and_then(Value::as_number)
            .filter(|made| made.fract() == 0.0)
            .map(|made| made as i64)
    };
    shape
        .entries()
        .into_iter()
        .filter_map(|(key, here)| Some((key, made(key)?, here)))
        .filter(|(key, made, here)| made != here && !ignored(model).contains(key))
        .collect()
}
