//! Why a command failed, and how that is reported to the controller.

use super::super::error::{TrainError, with_hints};
use super::super::ranks::{Lost, LostHow, RanksError};
use crate::checkpoint::{LoadError, OptimizerError, RejectReason, WriteError};
use crate::data::WindowError;
use crate::events::{
    Attempt, CheckpointRef, ChunkFailed, ChunkFailure, ChunkNumber, ModelName, StageName, Step,
};
use crate::picture::png::PictureError;
use crate::picture::structure::StructureError;
use crate::presets::ModelKind;
use crate::trainer::{Report, TrainerCommand, TrainerFact};

/// The stage and chunk of a command, for the report of its failure.
pub(super) struct Subject {
    stage: StageName,
    chunk: Option<(ChunkNumber, Attempt)>,
}

impl Subject {
    pub fn of(command: &TrainerCommand) -> Subject {
        match command {
            TrainerCommand::MeasureStage(measure) => Subject {
                stage: measure.stage.clone(),
                chunk: None,
            },
            TrainerCommand::TrainChunk(train) => Subject {
                stage: train.stage.clone(),
                chunk: Some((train.chunk, train.attempt)),
            },
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    #[error(transparent)]
    Windows(#[from] WindowError),
    #[error(transparent)]
    Picture(#[from] PictureError),
    #[error(transparent)]
    Structure(#[from] StructureError),
    /// A checkpoint to start from cannot be read or does not match the log.
    #[error("checkpoint `{}` was rejected: {reason}", checkpoint.path)]
    Rejected {
        checkpoint: CheckpointRef,
        reason: RejectReason,
    },
    #[error("checkpoint `{}` cannot be loaded: {detail}", checkpoint.path)]
    Unloadable {
        checkpoint: CheckpointRef,
        detail: String,
    },
    /// A problem outside of training.
    #[error("{0}")]
    Environment(String),
    #[error(transparent)]
    Ranks(#[from] RanksError),
    /// A signal asked the ranks to stop, and they are no longer connected.
    #[error("stopped by {signal}")]
    Interrupted { signal: String },
    /// Another rank exited, or did not answer.
    #[error("{}: {}", .0.status, .0.stderr)]
    RankLost(Lost),
    #[error("{0}")]
    Bug(String),
    #[error("the training thread panicked: {0}")]
    Panicked(String),
    /// The controller is gone, so nothing reads reports.
    #[error("the controller is gone")]
    ControllerGone,
}

impl Failure {
    pub fn unloadable(checkpoint: &CheckpointRef, error: &LoadError) -> Failure {
        if let LoadError::Io { .. } = error {
            return Failure::Environment(error.to_string());
        }
        Failure::Unloadable {
            checkpoint: checkpoint.clone(),
            detail: error.to_string(),
        }
    }

    /// Running out of memory while a model is scored does not fail the chunk: smaller training batches would not help,
    /// and one window at a time was tried.
    pub fn at_one_window(self, doing: &str) -> Failure {
        if let Failure::Train(TrainError::OutOfMemory { message }) = self {
            return Failure::Environment(format!(
                "out of memory while {doing}, even one window at a time: {message}; free memory on the device"
            ));
        }
        self
    }

    /// The reports of a failure after update `step`.
    pub fn reports(self, subject: &Subject, step: Step) -> Vec<Report> {
        let text = if let Failure::Ranks(RanksError::Rendezvous(error)) = &self {
            with_hints(error)
        } else {
            self.to_string()
        };
        let failed = |failure: ChunkFailure| match subject.chunk {
            Some((chunk, attempt)) => Report::Fact(TrainerFact::ChunkFailed(ChunkFailed {
                stage: subject.stage.clone(),
                chunk,
                attempt,
                step,
                failure,
            })),
            // A stage that cannot be measured cannot train either: a person must look.
            None => Report::Environment {
                detail: text.clone(),
            },
        };
        let exited = |stderr: String| {
            failed(ChunkFailure::WorkerExited {
                status: "training failed".to_owned(),
                stderr,
            })
        };
        match self {
            Failure::Train(TrainError::OutOfMemory { message })
            | Failure::Ranks(RanksError::Train(TrainError::OutOfMemory { message })) => {
                vec![failed(ChunkFailure::OutOfMemory { detail: message })]
            }
            Failure::RankLost(Lost {
                how,
                status,
                stderr,
            }) => vec![failed(match how {
                LostHow::OutOfMemory => ChunkFailure::OutOfMemory {
                    detail: format!("{status}: {stderr}"),
                },
                LostHow::Exited => ChunkFailure::WorkerExited { status, stderr },
                LostHow::TimedOut { seconds } => ChunkFailure::WorkerTimedOut {
                    seconds,
                    stderr: format!("{status}: {stderr}"),
                },
            })],
            Failure::Interrupted { signal } => vec![Report::Interrupted { signal }],
            Failure::Ranks(RanksError::Disconnected) => vec![Report::Environment { detail: text }],
            Failure::Write(error) if error.is_environment() => {
                vec![Report::Environment { detail: text }]
            }
            Failure::Picture(PictureError::Write { .. }) | Failure::Environment(_) => {
                vec![Report::Environment { detail: text }]
            }
            Failure::Rejected { checkpoint, reason } => {
                vec![failed(ChunkFailure::CheckpointUnloadable {
                    path: checkpoint.path,
                    detail: reason.to_string(),
                })]
            }
            Failure::Unloadable { checkpoint, detail } => {
                vec![failed(ChunkFailure::CheckpointUnloadable {
                    path: checkpoint.path,
                    detail,
                })]
            }
            Failure::ControllerGone => Vec::new(),
            Failure::Train(
                TrainError::Tensor(_)
                | TrainError::Config(_)
                | TrainError::State(_)
                | TrainError::Input { .. },
            )
            | Failure::Write(_)
            | Failure::Optimizer(_)
            | Failure::Windows(_)
            | Failure::Picture(_)
            | Failure::Structure(_)
            | Failure::Ranks(_)
            | Failure::Bug(_)
            | Failure::Panicked(_) => vec![exited(text.clone())],
        }
    }
}

/// The model of a command.
///
/// # Errors
/// A model that the built-in trainer does not know.
pub(super) fn known_model(model: &ModelName) -> Result<ModelKind, Failure> {
    ModelKind::of(model).ok_or_else(|| {
        let known = ModelKind::ALL.map(|known| format!("`{}`", known.as_str()));
        Failure::Environment(format!(
            "the built-in trainer does not know the model `{model}`; it trains {}",
            known.join(", ")
        ))
    })
}
