//! Why a command was not carried out, and what the controller is told of it.

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

/// What a command is about, for the report of its failure.
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

/// Why a command was not carried out.
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
    /// A checkpoint to start from is not what the log says, or cannot be read.
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
    /// Something outside of training is in the way.
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
    /// The controller is gone, and with it whoever would read a report.
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

    /// A lack of memory where nothing is learned is not the chunk's failure: smaller training batches would not help, and
    /// one window at a time has been tried.
    pub fn at_one_window(self, doing: &str) -> Failure {
        if let Failure::Train(TrainError::OutOfMemory { message }) = self {
            return Failure::Environment(format!(
                "out of memory while {doing}, even one window at a time: {message}; free memory on the device"
            ));
        }
        self
    }

    /// What the controller is told of a failure after update `step`.
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
            // A stage that cannot even be measured will not train: a person must look.
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

/// The model that a command names.
///
/// # Errors
/// One that libtorch's trainer does not know.
pub(super) fn known_model(model: &ModelName) -> Result<ModelKind, Failure> {
    ModelKind::of(model).ok_or_else(|| {
        let known = ModelKind::ALL.map(|known| format!("`{}`", known.as_str()));
        Failure::Environment(format!(
            "the built-in trainer does not know the model `{model}`; it trains {}",
            known.join(", ")
        ))
    })
}
