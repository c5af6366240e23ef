//! Which models a trainer knows. A run is prepared for a trainer, which is asked before anything
//! is written.

use std::error::Error;
use std::path::Path;

use crate::advice::{Advice, Hint};
use crate::config::Config;
use crate::events::{ModelName, StageName, StagePolicy};
use crate::presets::ModelKind;

/// What preparing a run must know of the trainer that will train it.
pub trait Models {
    /// The version of what computes, as the log records it.
    fn version(&self) -> &str;

    /// # Errors
    /// A stage whose model the trainer does not know.
    fn check_stage(&self, stage: &StagePolicy) -> Result<(), UnknownModel>;

    /// # Errors
    /// A checkpoint that does not fit the stage it is given to.
    fn check_given(&self, given: &GivenUse<'_>) -> Result<(), Box<dyn Error + Send + Sync>>;
}

/// A checkpoint from outside of the run, and its use.
#[derive(Clone, Copy, Debug)]
pub struct GivenUse<'a> {
    pub config: &'a Config,
    pub stage: &'a StageName,
    pub model: &'a ModelName,
    pub path: &'a Path,
    /// Whether the stage resumes from it and needs its moments. Else its weights suffice.
    pub resumes: bool,
    /// Whether it may have been made with other settings, if it fits.
    pub allow_other_settings: bool,
}

/// Any model and any checkpoint: for a trainer that checks them itself.
#[derive(Clone, Copy, Debug)]
pub struct AnyModel;

impl Models for AnyModel {
    fn version(&self) -> &str {
        "none"
    }

    fn check_stage(&self, _: &StagePolicy) -> Result<(), UnknownModel> {
        Ok(())
    }

    fn check_given(&self, _: &GivenUse<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
}

/// TinyWorlds' models, which the built-in trainer knows. Without the feature `train` no checkpoint
/// is loaded into a model, so it is not known whether it fits.
#[derive(Clone, Copy, Debug)]
pub struct TinyWorlds;

impl Models for TinyWorlds {
    fn version(&self) -> &str {
        #[cfg(feature = "train")]
        return crate::train::LIBTORCH_VERSION;
        #[cfg(not(feature = "train"))]
        return "none";
    }

    fn check_stage(&self, stage: &StagePolicy) -> Result<(), UnknownModel> {
        match ModelKind::of(&stage.model) {
            Some(_) => Ok(()),
            None => Err(UnknownModel {
                stage: stage.name.clone(),
                model: stage.model.clone(),
            }),
        }
    }

    fn check_given(&self, given: &GivenUse<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        #[cfg(feature = "train")]
        if let Some(model) = ModelKind::of(given.model) {
            use crate::checkpoint::Need;
            use crate::train::actor::fit::{Wanted, check};
            let wanted = Wanted {
                need: if given.resumes {
                    Need::Resume
                } else {
                    Need::Weights
                },
                other_settings: given.allow_other_settings,
            };
            check(given.config, given.stage, model, given.path, wanted)?;
        }
        #[cfg(not(feature = "train"))]
        let _ = given;
        Ok(())
    }
}

/// A stage that the built-in trainer cannot train.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{stage}` trains `{model}`, which the built-in trainer does not know; it trains {}",
    known()
)]
pub struct UnknownModel {
    pub stage: StageName,
    pub model: ModelName,
}

impl Advice for UnknownModel {
    fn hints(&self) -> Vec<Hint> {
        vec![Hint::TrainSomeStages, Hint::CheckConfig]
    }
}

fn known() -> String {
    let known = ModelKind::ALL.map(|model| format!("`{}`", model.as_str()));
    known.join(", ")
}
