//! Training: everything that touches libtorch.
//!
//! TinyWorlds' three models ([`models`]), their parameters and first weights, the optimizer, the
//! schedule, and the trainer of one stage ([`StageTrainer`]). Randomness, data, gates, files and
//! clocks belong to others: weights, batches, masks and rates come in, metrics and tensors go out.
//! Invariant: a failure inside libtorch, lack of memory too, is an error and never a panic.

pub mod actor;
mod error;
mod init;
mod learner;
mod mask;
pub mod models;
mod optimizer;
mod parameters;
mod pieces;
pub mod ranks;
mod schedule;
mod stage_trainer;

pub use error::{Result, StateError, TrainError};
pub use init::{Init, InitKey};
pub use learner::{
    Accumulated, Batch, CodeUse, Learner, Observed, Stage, TokenBatch, UpdateMetrics, Wanted,
};
pub use mask::{TokenMask, maskgit_mask};
pub use optimizer::{CLIP_NORM, OptimizerState, WEIGHT_DECAY};
pub use parameters::{Element, NamedTensor, Parameters, decays};
pub use pieces::Pieces;
pub use schedule::learning_rate;
pub use stage_trainer::{
    Evaluation, FrozenModel, FrozenModels, HeldOut, MicroBatch, PredictedFrames, StageKind,
    StageTrainer, TokenCounts,
};
pub use tinygate_c10d::cuda_card;

/// Sets how many threads libtorch computes with on a CPU, in this process; at least one.
///
/// The count is part of a run's identity: sums are split by it, so another count gives other
/// bits. Call it on the thread that trains, before the first tensor.
pub fn use_threads(count: u16) {
    tch::set_num_threads(i32::from(count.max(1)));
}
