//! Messages in JSON: what rank 0 tells the others to do, and why a rank gave up.
//!
//! The handshake checks that all ranks have the same version, so these types need no version of their own.

use serde::{Deserialize, Serialize};

use crate::events::{Settings, StageName};
use crate::machine::TrainChunk;
use crate::presets::ModelKind;

/// What a rank is to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Instruction {
    Train(Box<Task>),
    End,
}

/// What every rank must know about a chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub stage: StageName,
    pub model: ModelKind,
    pub restart: u64,
    /// The chunk is `(from, to]`, and training continues after `start`.
    pub from: u64,
    pub start: u64,
    pub to: u64,
    /// Windows consumed before `start`.
    pub samples_seen: u64,
    pub settings: Settings,
    /// The stages that this one builds on.
    pub upstream: Vec<StageName>,
    /// A hash of the names and shapes of all weights.
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
    /// Another rank failed, so this one could not continue.
    OtherRank,
    Own,
}

impl Task {
    /// The task of a command. `model` is the kind of its model.
    pub fn of(train: &TrainChunk, model: ModelKind, signature: String) -> Task {
        Task {
            stage: train.stage.clone(),
            model,
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
