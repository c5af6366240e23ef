//! What ranks tell each other through the store, as JSON: who they are, what to train, why one gave up.
//!
//! Ranks of one job are of one version, which they check first, so these types need no others.

use serde::{Deserialize, Serialize};

use crate::events::{Settings, StageName};
use crate::machine::TrainChunk;
use crate::presets::ModelKind;

/// A rank introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// tinygate's and libtorch's.
    pub versions: [String; 2],
    pub host: String,
    pub pid: u32,
    /// The config this rank was started with, by key, if it was.
    pub config: Option<Vec<(String, String)>>,
}

/// Rank 0 answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Welcome {
    Config {
        config: serde_json::Value,
        /// BLAKE3 of the frames, in hex.
        dataset: String,
        /// Rank 0's: with other counts sums are taken in another order.
        threads: u16,
    },
    Refused(String),
    /// The run has ended already.
    NothingToDo,
}

/// What a rank is to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Instruction {
    Train(Box<Task>),
    End,
}

/// A chunk, as far as every rank must know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub stage: StageName,
    pub model: ModelKind,
    pub restart: u64,
    /// The chunk is `(from, to]`, and training goes on from `start`.
    pub from: u64,
    pub start: u64,
    pub to: u64,
    /// Windows consumed at `start`.
    pub samples_seen: u64,
    pub settings: Settings,
    /// Stages that this one builds on.
    pub upstream: Vec<StageName>,
    /// Names and shapes of all weights, in one hash.
    pub signature: String,
}

/// Why a rank gave up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    pub cause: Cause,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    OutOfMemory,
    /// Another rank did not go on, so this one could not.
    OtherRank,
    Own,
}

impl Task {
    pub fn of(train: &TrainChunk, signature: String) -> Task {
        Task {
            stage: train.stage.clone(),
            model: train.model,
            restart: u64::from(train.restart.get()),
            from: train.from.get(),
            start: train.start().get(),
            to: train.to.get(),
            samples_seen: train
                .resume
                .as_ref()
                .map_or(0, |resume| resume.samples_seen),
            settings: train.settings.clone(),
            upstream: train
                .upstream
                .iter()
                .map(|upstream| upstream.stage.clone())
                .collect(),
            signature,
        }
    }
}
