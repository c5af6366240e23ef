//! The thread that owns libtorch: commands in, reports out, over channels.
//!
//! It trains the chunk it is told to train, from the checkpoint it is told to
//! start from, and says what happened. It decides nothing: whether a result is
//! good, where to go on and with which rate stands in the next command. It reads
//! a clock for throughput and for flushing metrics, and writes two kinds of
//! files: checkpoints and pictures.
//!
//! Invariant: what it trains is a function of the command, the config and the
//! data; a chunk that is cut anywhere and gone on with from its newest
//! checkpoint gives the same weights and the same samples.

mod chunk;
pub mod fit;
mod measure;
mod metrics;
mod samples;
mod scores;
mod session;
mod weights;
pub mod worker;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::error::TrainError;
use super::ranks::{Lost, LostHow, Ranks, RanksError};
use crate::checkpoint::{LoadError, OptimizerError, RejectReason, WriteError};
use crate::config::Config;
use crate::controller::{Report, StopRequest, Trainer};
use crate::data::Frames;
use crate::data::WindowError;
use crate::events::{
    Attempt, CheckpointJudged, CheckpointRef, ChunkFailed, ChunkFailure, ChunkNumber, Event,
    HeldOutBatches, Rejection, StageName, Step,
};
use crate::machine::Command;
use crate::picture::png::PictureError;
use crate::picture::structure::StructureError;
use session::Session;

/// What the actor is given once, when its process starts.
pub struct ActorSetup {
    /// The run's directory.
    pub directory: PathBuf,
    pub config: Config,
    pub frames: Arc<Frames>,
    pub device: tch::Device,
    /// Threads libtorch computes with.
    pub threads: u16,
    pub stop: Arc<StopRequest>,
    pub ranks: Ranks,
    /// As the run's first event says.
    pub held_out: HeldOutBatches,
}

/// Starts the actor. It ends when the controller's end of the commands is gone.
///
/// # Errors
/// Data without a window for the config, or no thread to be had.
pub fn spawn(setup: ActorSetup) -> Result<(Trainer, JoinHandle<()>), SpawnError> {
    let (command_sender, command_receiver) = unbounded();
    let (report_sender, report_receiver) = unbounded();
    let threads = setup.threads;
    let session = Session::new(setup)?;
    let thread = std::thread::Builder::new()
        .name("tinygate-train".to_owned())
        .spawn(move || {
            super::use_threads(threads);
            serve(session, &command_receiver, &report_sender);
        })
        .map_err(SpawnError::Thread)?;
    Ok((
        Trainer {
            commands: command_sender,
            reports: report_receiver,
        },
        thread,
    ))
}

#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error(transparent)]
    Windows(#[from] WindowError),
    #[error("the training thread could not be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// The device that `device = ...` names, on this machine, for the process of a local rank.
///
/// # Errors
/// A CUDA device that is not there.
pub fn device(wanted: crate::config::Device, local_rank: u32) -> Result<tch::Device, DeviceError> {
    use crate::config::Device;
    let count = tch::Cuda::device_count().max(0) as u32;
    match wanted {
        Device::Cpu => Ok(tch::Device::Cpu),
        Device::Auto if count == 0 => Ok(tch::Device::Cpu),
        Device::Auto if local_rank < count => Ok(tch::Device::Cuda(local_rank as usize)),
        Device::Auto => Err(DeviceError {
            index: local_rank,
            count,
        }),
        Device::Cuda(index) => {
            let index = index.unwrap_or(local_rank);
            if count <= index {
                return Err(DeviceError { index, count });
            }
            Ok(tch::Device::Cuda(index as usize))
        }
    }
}

/// Devices that ranks on this machine can have; `None`: as many as they want, as on a CPU each rank is a device.
pub fn devices(wanted: crate::config::Device) -> Option<u32> {
    use crate::config::Device;
    let count = tch::Cuda::device_count().max(0) as u32;
    match wanted {
        Device::Cpu => None,
        Device::Auto => Some(count).filter(|count| 0 < *count),
        Device::Cuda(None) => Some(count),
        Device::Cuda(Some(_)) => Some(1),
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "device `cuda:{index}` is not there: libtorch sees {count} CUDA devices\n\nhint: set `device = \"cpu\"` or \
     `\"auto\"`, or build with a libtorch that has CUDA"
)]
pub struct DeviceError {
    index: u32,
    count: u32,
}

/// The version of the libtorch that this build is linked to, as the log records it.
pub const LIBTORCH_VERSION: &str = match option_env!("TINYGATE_LIBTORCH_VERSION") {
    Some(version) => version,
    None => "unknown",
};

fn serve(mut session: Session, commands: &Receiver<Command>, reports: &Sender<Report>) {
    for command in commands {
        let place = Place::of(&command);
        // libtorch and the file formats answer errors; a panic is a bug, and still only costs the chunk.
        let done = catch_unwind(AssertUnwindSafe(|| session.perform(&command, reports)));
        let failure = match done {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => failure,
            Err(panic) => Failure::Panicked(panic_text(panic.as_ref())),
        };
        let failure = session.give_up(failure);
        for report in failure.reports(&place, session.step()) {
            if reports.send(report).is_err() {
                return;
            }
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "no message".to_owned())
}

/// What a command is about, for the report of its failure.
struct Place {
    stage: StageName,
    chunk: Option<(ChunkNumber, Attempt)>,
}

impl Place {
    fn of(command: &Command) -> Place {
        match command {
            Command::MeasureStage(measure) => Place {
                stage: measure.stage.clone(),
                chunk: None,
            },
            Command::JudgeCheckpoint(judge) => Place {
                stage: judge.stage.clone(),
                chunk: None,
            },
            Command::TrainChunk(train) => Place {
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
    /// The ranks parted because a signal asked them to stop.
    #[error("stopped by {signal}")]
    Interrupted { signal: String },
    /// Another rank went away, or did not answer.
    #[error("{}: {}", .0.status, .0.stderr)]
    RankLost(Lost),
    #[error("{0}")]
    Bug(String),
    #[error("the training thread panicked: {0}")]
    Panicked(String),
    /// The controller is gone; nobody is left to tell.
    #[error("the controller went away")]
    Alone,
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

    fn reports(self, place: &Place, step: Step) -> Vec<Report> {
        let text = self.to_string();
        let failed = |failure: ChunkFailure| match place.chunk {
            Some((chunk, attempt)) => Report::Fact(Event::ChunkFailed(ChunkFailed {
                stage: place.stage.clone(),
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
            Failure::Ranks(RanksError::Parted) => vec![Report::Environment { detail: text }],
            Failure::Write(error) if error.is_environment() => {
                vec![Report::Environment { detail: text }]
            }
            Failure::Picture(PictureError::Write { .. }) | Failure::Environment(_) => {
                vec![Report::Environment { detail: text }]
            }
            Failure::Rejected { checkpoint, reason } => {
                let detail = reason.to_string();
                let rejected = Some(Rejection {
                    code: reason.code().to_owned(),
                    text: detail.clone(),
                });
                let judged = CheckpointJudged {
                    stage: place.stage.clone(),
                    checkpoint: checkpoint.clone(),
                    rejected,
                };
                vec![
                    Report::Fact(Event::CheckpointJudged(judged)),
                    failed(ChunkFailure::CheckpointUnloadable {
                        path: checkpoint.path,
                        detail,
                    }),
                ]
            }
            Failure::Unloadable { checkpoint, detail } => {
                vec![failed(ChunkFailure::CheckpointUnloadable {
                    path: checkpoint.path,
                    detail,
                })]
            }
            Failure::Alone => Vec::new(),
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

/// Sends a fact; without a controller there is nothing left to do.
fn tell(reports: &Sender<Report>, event: Event) -> Result<(), Failure> {
    reports
        .send(Report::Fact(event))
        .map_err(|_| Failure::Alone)
}

#[cfg(test)]
mod tests;
