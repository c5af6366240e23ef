//! Training: everything that touches libtorch.
//!
//! [`models`] has TinyWorlds' three networks. A [`Model`] is one of them with its parameters, a [`Pipeline`] is a model
//! that takes frames and can score and predict, a [`StageTrainer`] is a pipeline with its optimizer. These take weights,
//! batches, masks and rates, and return metrics and tensors. Data, files and clocks are handled by [`actor`], other
//! processes by [`ranks`].
//!
//! Invariant: a failure inside libtorch, including a lack of memory, is an error and never a panic.

pub mod actor;
mod error;
mod init;
mod libtorch;
mod mask;
mod mean;
mod micro_batch;
mod model;
pub mod models;
mod optimizer;
mod parameters;
mod pieces;
mod pipeline;
pub mod ranks;
mod stage_trainer;
mod token_counts;
mod upstream;

pub use crate::schedule::learning_rate;
pub use error::{Result, StateError, TrainError};
pub use init::{Init, InitKey};
pub use libtorch::{DeviceError, LIBTORCH_VERSION, device, devices, use_threads};
pub use mask::{TokenMask, maskgit_mask};
pub use micro_batch::{HeldOut, MicroBatch};
pub use model::{Accumulated, Batch, CodeUse, Model, Observed, TokenBatch, Wanted};
pub use optimizer::{AdamW, CLIP_NORM, OptimizerState, UpdateMetrics, WEIGHT_DECAY};
pub use parameters::{Element, NamedTensor, Parameters, decays};
pub use pieces::Pieces;
pub use pipeline::{Evaluation, Pipeline, PredictedFrames};
pub use stage_trainer::StageTrainer;
pub use tinygate_c10d::cuda_card;
pub use token_counts::TokenCounts;
pub use upstream::Upstream;
