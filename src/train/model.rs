//! A network with its parameters: batches in; outputs, losses and gradients out.
//!
//! A [`Model`] has no optimizer, so a frozen one, or one loaded for inference, holds only its weights.
//! [`Model::accumulate`] returns gradients without applying them, so that ranks can average them. Batches are complete:
//! frames, masks and the outputs of upstream models are arguments. Nothing here uses a file, a clock or a generator.
//!
//! Invariant: the same weights, batches and thread count give the same bits on a CPU.

use std::collections::BTreeSet;

use tch::{Device, Kind, Tensor};

use super::error::{Result, TrainError};
use super::init::InitKey;
use super::mask::TokenMask;
use super::models::dynamics::{Dynamics, Tokens};
use super::models::latent_actions::{LatentActions, action_indices};
use super::models::video_tokenizer::VideoTokenizer;
use super::models::{ModelConfig, Quantizer};
use super::models::{check_frames, frames_of, patches_of_bytes};
use super::parameters::{GROUPS, Layout, NamedTensor, Parameters, Weights};
use crate::presets::ModelKind;

/// The networks of the three kinds of model.
pub(crate) enum Network {
    Video(VideoTokenizer),
    Latent(LatentActions),
    Dynamics(Dynamics),
}

impl Network {
    fn new(kind: ModelKind, config: &ModelConfig, device: Device) -> Result<(Network, Layout)> {
        match kind {
            ModelKind::VideoTokenizer => VideoTokenizer::new(config, device)
                .map(|(network, layout)| (Network::Video(network), layout)),
            ModelKind::LatentActions => LatentActions::new(config, device)
                .map(|(network, layout)| (Network::Latent(network), layout)),
            ModelKind::Dynamics => Dynamics::new(config, device)
                .map(|(network, layout)| (Network::Dynamics(network), layout)),
        }
    }
}

/// The input of a model in one micro-batch.
pub enum Batch {
    /// Patch rows `[B, T, P, 3 p^2]`, for video tokenizer and latent actions.
    Rows(Tensor),
    /// Tokens, actions and mask, for dynamics.
    Masked(TokenBatch),
}

/// A micro-batch of dynamics.
pub struct TokenBatch {
    pub(crate) tokens: Tokens,
    pub(crate) mask: TokenMask,
}

/// What an update reports besides loss and gradient norm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    pub actions: bool,
    pub codebook: bool,
}

/// Loss, unclipped gradients and observations, over an update's micro-batches.
pub struct Accumulated {
    gradients: [Tensor; GROUPS],
    loss: f64,
    observed: Observed,
}

/// What [`Wanted`] selects, over all micro-batches of the update.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// How often each action occurred (latent actions and dynamics).
    pub action_counts: Option<Vec<u64>>,
    /// Distinct codes in the batch, and the size of the codebook (video tokenizer).
    pub codes: Option<CodeUse>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeUse {
    pub seen: BTreeSet<i64>,
    pub codebook_size: i64,
}

impl Observed {
    /// How many different actions occur.
    pub fn unique_actions(&self) -> Option<u64> {
        let counts = self.action_counts.as_ref()?;
        Some(counts.iter().filter(|count| **count > 0).count() as u64)
    }

    /// `-sum p ln(p + 1e-8)` over the actions' shares, in nats.
    pub fn action_entropy(&self) -> Option<f64> {
        let counts = self.action_counts.as_ref()?;
        let total = counts.iter().sum::<u64>().max(1) as f64;
        let share = |count: &u64| *count as f64 / total;
        Some(counts.iter().map(share).map(|p| -p * (p + 1e-8).ln()).sum())
    }

    /// The share of the codebook that occurs.
    pub fn codebook_usage(&self) -> Option<f64> {
        let codes = self.codes.as_ref()?;
        Some(codes.seen.len() as f64 / codes.codebook_size as f64)
    }

    /// Adds the observations of another micro-batch.
    pub fn merge(&mut self, other: Observed) {
        match (&mut self.action_counts, other.action_counts) {
            (Some(mine), Some(theirs)) => mine
                .iter_mut()
                .zip(theirs)
                .for_each(|(mine, theirs)| *mine += theirs),
            (mine, theirs) => *mine = mine.take().or(theirs),
        }
        match (&mut self.codes, other.codes) {
            (Some(mine), Some(theirs)) => mine.seen.extend(theirs.seen),
            (mine, theirs) => *mine = mine.take().or(theirs),
        }
    }
}

impl Batch {
    /// Frames u8 `[B, T, H, W, 3]` for video tokenizer or latent actions.
    pub fn from_frames(frames: &Tensor, config: &ModelConfig, device: Device) -> Result<Batch> {
        check_frames(frames, config)?;
        Ok(Batch::Rows(patches_of_bytes(
            frames,
            config.patch_size,
            device,
        )?))
    }

    /// Codes `[B, T, P]` i64 and quantized actions `[B, T - 1, A]` f32 for dynamics.
    pub fn from_codes(
        codes: &Tensor,
        actions: &Tensor,
        mask: TokenMask,
        config: &ModelConfig,
        device: Device,
    ) -> Result<Batch> {
        let quantizer = Quantizer::new(config.latent_dim, config.num_bins);
        let codes = codes.f_to_device(device)?;
        let latents = quantizer.latents_of_codes(&codes)?;
        let actions = actions.f_to_device(device)?;
        Ok(Batch::Masked(TokenBatch {
            tokens: Tokens {
                codes,
                latents,
                actions,
            },
            mask,
        }))
    }
}

/// A network and its parameters, without an optimizer.
pub struct Model {
    network: Network,
    config: ModelConfig,
    parameters: Parameters,
}

impl Model {
    /// A new model, whose initial weights depend on `key` alone.
    ///
    /// # Errors
    /// An invalid config.
    pub fn new(
        kind: ModelKind,
        config: &ModelConfig,
        key: &InitKey,
        device: Device,
    ) -> Result<Model> {
        let (network, layout) = Network::new(kind, config, device)?;
        Ok(Model {
            network,
            config: config.clone(),
            parameters: layout.build(key, device)?,
        })
    }

    /// A model whose weights are zero until others are loaded or received.
    ///
    /// # Errors
    /// An invalid config.
    pub fn zeros(kind: ModelKind, config: &ModelConfig, device: Device) -> Result<Model> {
        let (network, layout) = Network::new(kind, config, device)?;
        Ok(Model {
            network,
            config: config.clone(),
            parameters: layout.zeros(device)?,
        })
    }

    /// A model with the given weights.
    ///
    /// # Errors
    /// An invalid config, or weights of another model.
    pub fn from_weights(
        kind: ModelKind,
        config: &ModelConfig,
        weights: &[NamedTensor],
        device: Device,
    ) -> Result<Model> {
        let mut model = Model::zeros(kind, config, device)?;
        model.load(weights)?;
        Ok(model)
    }

    pub fn kind(&self) -> ModelKind {
        match self.network {
            Network::Video(_) => ModelKind::VideoTokenizer,
            Network::Latent(_) => ModelKind::LatentActions,
            Network::Dynamics(_) => ModelKind::Dynamics,
        }
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub(crate) fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// The flat tensors that hold the weights.
    pub(crate) fn flats_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.parameters.flats_mut().iter_mut()
    }

    pub fn device(&self) -> Device {
        self.parameters.device()
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// The weights, detached from autograd.
    pub(crate) fn weights(&self) -> Result<Weights> {
        self.parameters.frozen()
    }

    /// Parameters and buffers in `state_dict()` order.
    pub fn export(&self) -> Result<Vec<NamedTensor>> {
        self.parameters.export()
    }

    /// Replaces the weights. On an error nothing changes.
    pub fn load(&mut self, weights: &[NamedTensor]) -> Result<()> {
        self.parameters.load(weights)
    }

    /// The first value that TinyWorlds' `forward` returns: frames `[B, T or T - 1, 3, H, W]`, or
    /// scores `[B, T, P, codebook]` for dynamics.
    pub fn output(&self, batch: &Batch) -> Result<Tensor> {
        let weights = self.weights()?;
        let rows = match (&self.network, batch) {
            (Network::Video(model), Batch::Rows(rows)) => model.forward(&weights, rows)?.0,
            (Network::Latent(model), Batch::Rows(rows)) => {
                model.forward(&weights, rows)?.prediction
            }
            (Network::Dynamics(model), Batch::Masked(batch)) => {
                return model.scores(&weights, &batch.tokens, &batch.mask);
            }
            (network, _) => return Err(wrong_batch(network)),
        };
        frames_of(&rows, self.config.patch_size, self.config.frame_size)
    }

    /// Codes `[B, T, P]` of the video tokenizer.
    pub fn codes(&self, batch: &Batch) -> Result<Tensor> {
        match (&self.network, batch) {
            (Network::Video(model), Batch::Rows(rows)) => {
                Ok(model.tokenize(&self.weights()?, rows)?.0)
            }
            (network, _) => Err(wrong_batch(network)),
        }
    }

    /// Loss and gradients of one update: the mean over its micro-batches.
    pub fn accumulate(&self, batches: &[Batch], wanted: Wanted) -> Result<Accumulated> {
        let leaves = self.parameters.leaves()?;
        let share = 1.0 / batches.len() as f64;
        let mut sum: Option<Accumulated> = None;
        for batch in batches {
            let weights = self.parameters.weights(&leaves)?;
            let (loss, observed) = self.loss(&weights, batch, wanted)?;
            let divided = if batches.len() == 1 {
                loss.shallow_clone()
            } else {
                loss.f_mul_scalar(share)?
            };
            let gradients = Tensor::f_run_backward(&[divided], &leaves, false, false)?;
            let gradients: [Tensor; GROUPS] = gradients
                .try_into()
                .map_err(|_| TrainError::Tensor("bug: a gradient is missing".to_owned()))?;
            let loss = loss.f_double_value(&[])?;
            match &mut sum {
                None => {
                    sum = Some(Accumulated {
                        gradients,
                        loss,
                        observed,
                    })
                }
                Some(sum) => sum.add(gradients, loss, observed)?,
            }
        }
        let mut sum = sum.ok_or_else(|| TrainError::missing("the list of micro-batches"))?;
        sum.loss *= share;
        Ok(sum)
    }

    /// Gradients by parameter, in `state_dict()` order.
    pub fn export_gradients(&self, accumulated: &Accumulated) -> Result<Vec<NamedTensor>> {
        self.parameters.export_flats(&accumulated.gradients)
    }

    fn loss(&self, weights: &Weights, batch: &Batch, wanted: Wanted) -> Result<(Tensor, Observed)> {
        let mut observed = Observed::default();
        let loss = match (&self.network, batch) {
            (Network::Video(model), Batch::Rows(rows)) => {
                let (reconstruction, quantized) = model.forward(weights, rows)?;
                if wanted.codebook {
                    let seen = host_integers(&model.codes_of_quantized(&quantized)?)?
                        .into_iter()
                        .collect();
                    observed.codes = Some(CodeUse {
                        seen,
                        codebook_size: self.config.codebook_size(),
                    });
                }
                model.loss(&reconstruction, rows)?
            }
            (Network::Latent(model), Batch::Rows(rows)) => {
                let pass = model.forward(weights, rows)?;
                if wanted.actions {
                    observed.action_counts = Some(self.action_counts(&pass.quantized)?);
                }
                model.loss(&pass, rows)?
            }
            (Network::Dynamics(model), Batch::Masked(batch)) => {
                if wanted.actions {
                    observed.action_counts = Some(self.action_counts(&batch.tokens.actions)?);
                }
                model.loss(weights, &batch.tokens, &batch.mask)?
            }
            (network, _) => return Err(wrong_batch(network)),
        };
        Ok((loss, observed))
    }

    fn action_counts(&self, quantized: &Tensor) -> Result<Vec<u64>> {
        let mut counts = vec![0; self.config.n_actions as usize];
        for index in host_integers(&action_indices(quantized)?)? {
            // A diverged model has no valid actions. They are not counted; its loss shows the failure.
            if let Some(count) = usize::try_from(index)
                .ok()
                .and_then(|index| counts.get_mut(index))
            {
                *count += 1;
            }
        }
        Ok(counts)
    }
}

impl Accumulated {
    fn add(&mut self, gradients: [Tensor; GROUPS], loss: f64, observed: Observed) -> Result<()> {
        for (mine, theirs) in self.gradients.iter_mut().zip(&gradients) {
            let _ = mine.f_add_(theirs)?;
        }
        self.loss += loss;
        self.observed.merge(observed);
        Ok(())
    }

    /// The mean of the micro-batches' losses.
    pub fn loss(&self) -> f64 {
        self.loss
    }

    pub(crate) fn set_loss(&mut self, loss: f64) {
        self.loss = loss;
    }

    pub(crate) fn into_parts(self) -> ([Tensor; GROUPS], f64, Observed) {
        (self.gradients, self.loss, self.observed)
    }

    pub(crate) fn gradients_mut(&mut self) -> [&mut Tensor; GROUPS] {
        self.gradients.each_mut()
    }

    pub(crate) fn observed_mut(&mut self) -> &mut Observed {
        &mut self.observed
    }
}

/// All elements of an integer tensor, row-major.
pub(crate) fn host_integers(tensor: &Tensor) -> Result<Vec<i64>> {
    let host = tensor
        .f_to_device(Device::Cpu)?
        .f_to_kind(Kind::Int64)?
        .f_contiguous()?;
    let mut values = vec![0; host.numel()];
    host.f_copy_data(&mut values, host.numel())?;
    Ok(values)
}

fn wrong_batch(network: &Network) -> TrainError {
    let (found, expected) = match network {
        Network::Video(_) | Network::Latent(_) => ("tokens", "frames"),
        Network::Dynamics(_) => ("frames", "tokens, actions and a mask"),
    };
    TrainError::Input {
        what: "a micro-batch of this stage",
        found: found.to_owned(),
        expected: expected.to_owned(),
    }
}
