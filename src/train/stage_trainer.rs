//! The trainer of one stage: micro-batches in, metrics and new weights out.
//!
//! A [`Pipeline`] computes losses and gradients, an [`AdamW`] applies them. The two halves of an update,
//! [`StageTrainer::accumulate`] and [`StageTrainer::apply`], are separate so that ranks can average gradients in between.
//! The caller chooses frames, masks and rates, and handles gates, files and clocks.

use tch::Tensor;

use super::error::Result;
use super::micro_batch::MicroBatch;
use super::model::{Accumulated, Model, Wanted};
use super::models::ModelConfig;
use super::optimizer::{AdamW, OptimizerState, UpdateMetrics};
use super::parameters::{NamedTensor, host_floats};
use super::pipeline::Pipeline;

/// A pipeline whose model is trained, and the optimizer that trains it.
pub struct StageTrainer {
    pipeline: Pipeline,
    optimizer: AdamW,
}

impl StageTrainer {
    /// Starts with moments of zero.
    pub fn new(pipeline: Pipeline) -> Result<StageTrainer> {
        let optimizer = AdamW::new(pipeline.model().parameters())?;
        Ok(StageTrainer {
            pipeline,
            optimizer,
        })
    }

    /// The pipeline, for scoring and predicting.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    pub fn model(&self) -> &Model {
        self.pipeline.model()
    }

    pub fn config(&self) -> &ModelConfig {
        self.pipeline.config()
    }

    /// All tensors that another rank needs to continue from the same state: weights and moments, then the weights of
    /// upstream models.
    pub(crate) fn flats_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        let (model, upstream) = self.pipeline.models_mut();
        model
            .flats_mut()
            .chain(self.optimizer.flats_mut())
            .chain(upstream.flat_map(Model::flats_mut))
    }

    /// A hash, in hex, of the names and shapes of all weights. Ranks whose hashes differ have different models.
    pub(crate) fn signature(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for model in self.pipeline.models() {
            for (name, shape) in model.parameters().names() {
                hasher.update(format!("{name} {shape:?}\n").as_bytes());
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    /// A hash of everything that training changes: weights, moments and the update count.
    pub(crate) fn state_hash(&self) -> Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.updates_done().to_le_bytes());
        let weights = self.model().parameters().flats();
        for flat in weights.iter().chain(self.optimizer.flats()) {
            for value in host_floats(flat)? {
                hasher.update(&value.to_le_bytes());
            }
        }
        Ok(hasher.finalize())
    }

    /// Optimizer steps taken so far.
    pub(crate) fn updates_done(&self) -> u64 {
        self.optimizer.updates_done()
    }

    pub(crate) fn set_updates_done(&mut self, updates: u64) {
        self.optimizer.set_updates_done(updates);
    }

    /// Replaces the weights and the optimizer's state; without a state the optimizer starts with moments of zero. On an
    /// error nothing changes.
    pub fn load(
        &mut self,
        weights: &[NamedTensor],
        optimizer: Option<&OptimizerState>,
    ) -> Result<()> {
        let parameters = self.model().parameters();
        let optimizer = match optimizer {
            Some(state) => AdamW::import(parameters, state)?,
            None => AdamW::new(parameters)?,
        };
        self.pipeline.load(weights)?;
        self.optimizer = optimizer;
        Ok(())
    }

    /// Parameters and buffers in `state_dict()` order.
    pub fn export(&self) -> Result<Vec<NamedTensor>> {
        self.model().export()
    }

    pub fn export_optimizer(&self) -> Result<OptimizerState> {
        self.optimizer.export(self.model().parameters())
    }

    /// One optimizer step on the mean gradient of `micro_batches`.
    ///
    /// # Errors
    /// [`TrainError::OutOfMemory`](super::TrainError::OutOfMemory) leaves weights and moments unchanged, unless it
    /// occurs in the optimizer's step; then the trainer must be loaded again.
    pub fn update(
        &mut self,
        micro_batches: &[MicroBatch],
        learning_rate: f64,
        wanted: Wanted,
    ) -> Result<UpdateMetrics> {
        let accumulated = self.accumulate(micro_batches, wanted)?;
        self.apply(accumulated, learning_rate)
    }

    /// The first half of [`StageTrainer::update`].
    pub fn accumulate(&self, micro_batches: &[MicroBatch], wanted: Wanted) -> Result<Accumulated> {
        self.pipeline.accumulate(micro_batches, wanted)
    }

    /// The second half.
    pub fn apply(&mut self, accumulated: Accumulated, learning_rate: f64) -> Result<UpdateMetrics> {
        let model = self.pipeline.model_mut();
        self.optimizer.apply(model, accumulated, learning_rate)
    }
}

#[cfg(test)]
mod tests;
