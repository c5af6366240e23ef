//! The frozen upstream models of dynamics: a video tokenizer and a latent-action model.
//!
//! They turn frames into tokens and actions, and tokens back into frames. Invariant: nothing here changes a weight.

use tch::Tensor;

use super::error::{Result, TrainError};
use super::model::{Model, Network};
use super::models::dynamics::Tokens;
use super::models::{ConfigError, ModelConfig, patches_of_bytes};
use crate::presets::ModelKind;

/// A video tokenizer and a latent-action model, both frozen.
pub struct Upstream {
    tokenizer: Model,
    actions: Model,
}

impl Upstream {
    /// # Errors
    /// Models of other kinds.
    pub fn new(tokenizer: Model, actions: Model) -> Result<Upstream> {
        expect_kind(&tokenizer, ModelKind::VideoTokenizer)?;
        expect_kind(&actions, ModelKind::LatentActions)?;
        Ok(Upstream { tokenizer, actions })
    }

    /// # Errors
    /// Models for other frames, tokens or actions than those of a dynamics model of `config`.
    pub(crate) fn check(&self, config: &ModelConfig) -> Result<()> {
        check_tokenizer(self.tokenizer.config(), config)?;
        check_actions(self.actions.config(), config)
    }

    /// The config of the tokenizer, which has the shape of frames and tokens.
    pub(crate) fn config(&self) -> &ModelConfig {
        self.tokenizer.config()
    }

    pub(crate) fn models(&self) -> [&Model; 2] {
        [&self.tokenizer, &self.actions]
    }

    pub(crate) fn models_mut(&mut self) -> [&mut Model; 2] {
        [&mut self.tokenizer, &mut self.actions]
    }

    /// Tokens and actions of frames u8 `[B, T, H, W, 3]`.
    pub(crate) fn tokens(&self, frames: &Tensor) -> Result<Tokens> {
        let Upstream { tokenizer, actions } = self;
        let (Network::Video(video), Network::Latent(encoder)) =
            (tokenizer.network(), actions.network())
        else {
            return Err(other_kinds());
        };
        let rows = patches_of_bytes(frames, tokenizer.config().patch_size, tokenizer.device())?;
        let (codes, latents) = video.tokenize(&tokenizer.weights()?, &rows)?;
        let rows = if actions.config().patch_size == tokenizer.config().patch_size {
            rows
        } else {
            patches_of_bytes(frames, actions.config().patch_size, tokenizer.device())?
        };
        let actions = encoder.quantize(&encoder.encode(&actions.weights()?, &rows)?)?;
        Ok(Tokens {
            codes,
            latents,
            actions,
        })
    }

    /// Decodes codes `[B, T, P]` to patch rows.
    pub(crate) fn decode(&self, codes: &Tensor) -> Result<Tensor> {
        let Network::Video(tokenizer) = self.tokenizer.network() else {
            return Err(other_kinds());
        };
        tokenizer.detokenize(&self.tokenizer.weights()?, codes)
    }
}

fn expect_kind(model: &Model, expected: ModelKind) -> Result<()> {
    if model.kind() == expected {
        return Ok(());
    }
    Err(TrainError::Input {
        what: "an upstream model of dynamics",
        found: format!("of kind {:?}", model.kind()),
        expected: format!("{expected:?}"),
    })
}

fn other_kinds() -> TrainError {
    TrainError::Tensor("bug: upstream models have the wrong kinds".to_owned())
}

/// The tokenizer must make the tokens that dynamics predicts.
fn check_tokenizer(found: &ModelConfig, config: &ModelConfig) -> Result<()> {
    same(
        "video tokenizer",
        "frame_size",
        found.frame_size,
        config.frame_size,
    )?;
    same(
        "video tokenizer",
        "patch_size",
        found.patch_size,
        config.patch_size,
    )?;
    same(
        "video tokenizer",
        "latent_dim",
        found.latent_dim,
        config.latent_dim,
    )?;
    same(
        "video tokenizer",
        "num_bins",
        found.num_bins,
        config.num_bins,
    )?;
    same(
        "video tokenizer",
        "context_length",
        found.context_length,
        config.context_length,
    )
}

fn check_actions(found: &ModelConfig, config: &ModelConfig) -> Result<()> {
    same(
        "latent-action model",
        "frame_size",
        found.frame_size,
        config.frame_size,
    )?;
    same(
        "latent-action model",
        "n_actions",
        found.n_actions,
        config.n_actions,
    )?;
    same(
        "latent-action model",
        "context_length",
        found.context_length,
        config.context_length,
    )
}

fn same(model: &'static str, key: &'static str, found: i64, expected: i64) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(ConfigError::Frozen {
        model,
        key,
        found,
        expected,
    }
    .into())
}
