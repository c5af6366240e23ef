//! Why a run cannot be created, read or resumed.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use super::models::UnknownModel;
use super::stopped::StoppedRun;
use crate::advice::{Advice, Hint};
use crate::checkpoint::{RejectReason, SeveralFiles};
use crate::config::ConfigError;
use crate::controller::ControlError;
use crate::events::{CheckpointRef, ModelName, StageName, Step};
use crate::presets::ModelKind;
use crate::setup::SetupError;
use crate::store::{OpenError, ReadError};

/// Why a new run cannot be prepared or created.
#[derive(Debug, thiserror::Error)]
pub enum NewRunError {
    #[error("cannot start a run")]
    Clock { source: OpenError },
    #[error("cannot start a run in `{}`", .dir.display())]
    Start { dir: PathBuf, source: OpenError },
    #[error("`{}` is a file", .path.display())]
    DirectoryIsFile { path: PathBuf },
    #[error("cannot find `{}`", .path.display())]
    NotFound { path: PathBuf, source: io::Error },
    #[error("unknown stage `{stage}`")]
    UnknownStage {
        stage: StageName,
        known: Vec<StageName>,
    },
    #[error(transparent)]
    UnknownModel(#[from] UnknownModel),
    #[error(transparent)]
    Given(#[from] GivenError),
    #[error("no trained stage starts from a given checkpoint, so no optimizer can be left out")]
    FreshOptimizerUnused,
    #[error("`{stage}` builds on {}, which this run does not train", model_name(.model))]
    UpstreamMissing {
        stage: StageName,
        model: ModelName,
        /// A stage that trains the model.
        needed: StageName,
    },
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl Advice for NewRunError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            // The source has them.
            NewRunError::Clock { .. }
            | NewRunError::Start { .. }
            | NewRunError::NotFound { .. } => Vec::new(),
            NewRunError::DirectoryIsFile { .. } => vec![Hint::text("name a directory")],
            NewRunError::UnknownStage { known, .. } => vec![stages(known)],
            NewRunError::UnknownModel(error) => error.hints(),
            NewRunError::Given(error) => error.hints(),
            NewRunError::FreshOptimizerUnused => vec![Hint::text(
                "leave it out: a stage that is not trained needs no optimizer",
            )],
            NewRunError::UpstreamMissing { needed, .. } => vec![Hint::GiveCheckpoint {
                stage: needed.to_string(),
            }],
            NewRunError::Setup(error) => error.hints(),
            NewRunError::Control(error) => error.hints(),
        }
    }
}

/// Why a given checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GivenError {
    #[error("unknown stage `{stage}`")]
    UnknownStage {
        stage: StageName,
        known: Vec<StageName>,
    },
    #[error("there are two checkpoints for `{stage}`")]
    Twice { stage: StageName },
    #[error("cannot read `{}`", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("`{}`: {several}", .path.display())]
    Several {
        path: PathBuf,
        several: SeveralFiles,
    },
    #[error("`{}` does not say for which stage it is", .path.display())]
    NoStage {
        path: PathBuf,
        known: Vec<StageName>,
    },
    #[error("the checkpoint `{}` does not say how many updates it has done", .path.display())]
    UpdatesUnknown { path: PathBuf, stage: StageName },
    #[error("`{stage}` cannot resume from the checkpoint `{}`: {reason}", .path.display())]
    WeightsOnly {
        path: PathBuf,
        stage: StageName,
        reason: Box<RejectReason>,
    },
    #[error("the checkpoint `{}` is refused: {reason}", .path.display())]
    Refused {
        path: PathBuf,
        reason: Box<RejectReason>,
    },
    #[error(
        "the checkpoint `{}` has done {updates} updates, and the target of `{stage}` is {target}",
        .path.display()
    )]
    PastTarget {
        path: PathBuf,
        stage: StageName,
        updates: Step,
        target: u64,
    },
    #[error("the checkpoint `{}` does not fit `{stage}`", .path.display())]
    Misfit {
        path: PathBuf,
        stage: StageName,
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("`{}` is not valid Unicode, and the log keeps paths as text", .path.display())]
    NotUnicode { path: PathBuf },
}

impl Advice for GivenError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            GivenError::UnknownStage { known, .. } => vec![stages(known)],
            GivenError::Twice { .. } => vec![Hint::text("give one")],
            GivenError::Unreadable { .. } => vec![Hint::text(
                "name a checkpoint's directory, or a model in one file",
            )],
            GivenError::Several { .. } => Vec::new(),
            GivenError::NoStage { known, .. } => vec![Hint::NameStage, stages(known)],
            GivenError::UpdatesUnknown { stage, .. } => vec![Hint::text(format!(
                "rename it to `{stage}_step_N`, where N is the index of its last update"
            ))],
            GivenError::WeightsOnly { .. } => vec![Hint::FreshOptimizer],
            GivenError::Refused { reason, .. } => {
                let hints = reason.hints();
                if hints.is_empty() {
                    vec![Hint::VerifyCheckpoints]
                } else {
                    hints
                }
            }
            GivenError::PastTarget { stage, .. } => vec![
                Hint::text(format!("set `{stage}.n_updates` above it")),
                Hint::text("to build on the checkpoint alone, train the other stages only"),
                Hint::TrainSomeStages,
            ],
            // The source has them.
            GivenError::Misfit { .. } => Vec::new(),
            GivenError::NotUnicode { .. } => vec![Hint::text("rename it")],
        }
    }
}

/// A log without events, where a run was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log of `{}` is empty: there is no event in it", .path.display())]
pub struct EmptyLog {
    pub path: PathBuf,
}

impl EmptyLog {
    pub fn at(path: &Path) -> EmptyLog {
        EmptyLog {
            path: path.to_owned(),
        }
    }
}

impl Advice for EmptyLog {
    fn hints(&self) -> Vec<Hint> {
        vec![Hint::StartRun]
    }
}

/// Why a run cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadRunError {
    #[error(
        "process {pid} on host `{host}` is starting a run in `{}`, which has no event yet",
        .path.display()
    )]
    Starting {
        path: PathBuf,
        pid: String,
        host: String,
    },
    #[error("cannot read a run in `{}`", .path.display())]
    NotARun { path: PathBuf, source: OpenError },
    #[error("cannot read the log of `{}`", .path.display())]
    Log { path: PathBuf, source: ReadError },
}

impl Advice for ReadRunError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            ReadRunError::Starting { .. } => vec![Hint::text("try again in a moment")],
            // The source has them.
            ReadRunError::NotARun { .. } | ReadRunError::Log { .. } => Vec::new(),
        }
    }
}

/// Why the config of a following run cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NextCycleError {
    #[error(transparent)]
    Read(#[from] ReadRunError),
    #[error("cannot read the log")]
    Log(#[from] ReadError),
    #[error(transparent)]
    Empty(#[from] EmptyLog),
    #[error("cannot find `{}`", .run.display())]
    NotFound { run: PathBuf, source: io::Error },
    #[error("`{}` is not valid Unicode, and the log keeps paths as text", .run.display())]
    NotUnicode { run: PathBuf },
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Advice for NextCycleError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            NextCycleError::Read(error) => error.hints(),
            // The source has them.
            NextCycleError::Log(_) | NextCycleError::NotFound { .. } => Vec::new(),
            NextCycleError::Empty(error) => error.hints(),
            NextCycleError::NotUnicode { .. } => vec![Hint::text("rename it")],
            NextCycleError::Config(error) => error.hints(),
        }
    }
}

/// Why a run cannot be resumed. Nothing was recorded but the repairs of its log.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    #[error("cannot resume `{}`", .dir.display())]
    Open { dir: PathBuf, source: OpenError },
    #[error(transparent)]
    Empty(#[from] EmptyLog),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("more failures were allowed, but this run has finished")]
    RetriesOfFinishedRun,
    #[error("more failures were allowed, but no stage of this run is stopped")]
    RetriesWithoutStop,
    #[error("the run has finished, so `{key}` cannot change any more")]
    ChangeOfFinishedRun { key: String, value: String },
    #[error(
        "`{}` has passed its last gate, so `{}.{}` cannot change from {} to {}",
        .0.stage, .0.stage, .0.key, .0.from, .0.to
    )]
    ChangeOfPassedStage(Box<PassedStageChange>),
    #[error(transparent)]
    Stopped(#[from] StoppedRun),
    #[error(transparent)]
    Lost(#[from] LostError),
    #[error("the run's data is not where it was")]
    DataMoved {
        dir: PathBuf,
        source: Box<SetupError>,
    },
    #[error(transparent)]
    Setup(SetupError),
    #[error(
        "this is not the run's data: its BLAKE3 is {found}, the log says {recorded}{}",
        after_semicolon(.difference)
    )]
    OtherData {
        found: String,
        recorded: String,
        difference: Option<String>,
        /// An older build may have read the same folder in another order.
        perhaps_other_order: bool,
    },
}

impl Advice for ResumeError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            // The source has them.
            ResumeError::Open { .. } => Vec::new(),
            ResumeError::Empty(error) => error.hints(),
            ResumeError::Control(error) => error.hints(),
            ResumeError::Config(error) => error.hints(),
            ResumeError::RetriesOfFinishedRun | ResumeError::RetriesWithoutStop => {
                vec![Hint::text("leave it out")]
            }
            ResumeError::ChangeOfFinishedRun { key, value } => vec![Hint::StartRunWith {
                key: key.clone(),
                value: value.clone(),
            }],
            ResumeError::ChangeOfPassedStage(change) => {
                let PassedStageChange {
                    dir,
                    stage,
                    key,
                    to,
                    ..
                } = change.as_ref();
                let mut overrides = vec![(format!("{stage}.{key}"), to.clone())];
                // All updates are done, so further training needs more of them.
                if key != "n_updates" {
                    overrides.push((format!("{stage}.n_updates"), "UPDATES".to_owned()));
                }
                vec![Hint::TrainFurther {
                    stage: stage.to_string(),
                    dir: text(dir),
                    overrides,
                }]
            }
            ResumeError::Stopped(error) => error.hints(),
            ResumeError::Lost(error) => error.hints(),
            ResumeError::DataMoved { dir, .. } => vec![Hint::ResumeWithData { dir: text(dir) }],
            ResumeError::Setup(error) => error.hints(),
            ResumeError::OtherData {
                perhaps_other_order,
                ..
            } => {
                let mut hints = vec![Hint::OriginalData, Hint::StartAnotherRun];
                if *perhaps_other_order {
                    hints.push(Hint::text(
                        "an older build may have read the folder in another order (`0.25`, `-1`, upper case), hidden \
                         pictures too and no subfolders: copy what it read to another folder, with padded numbers in \
                         its order",
                    ));
                }
                hints
            }
        }
    }
}

/// A change of a setting of a stage that is not trained any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedStageChange {
    pub dir: PathBuf,
    pub stage: StageName,
    pub key: String,
    pub from: String,
    pub to: String,
}

/// Why missing checkpoints stop a run from being resumed or pruned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LostError {
    #[error(
        "the checkpoint `{}` (update {}) that `{stage}` resumes from is missing in `{}`",
        .needed.path, .needed.step, .dir.display()
    )]
    Needed {
        dir: PathBuf,
        stage: StageName,
        needed: CheckpointRef,
        /// The newest that is not missing.
        left: CheckpointRef,
    },
    #[error("every accepted checkpoint of `{stage}` is missing: {}", paths(.missing))]
    NoneLeft {
        stage: StageName,
        missing: Vec<CheckpointRef>,
    },
    #[error(
        "the checkpoint `{checkpoint}` that `{upstream}` handed on is missing, and `{stage}` builds on it"
    )]
    Upstream {
        path: PathBuf,
        checkpoint: String,
        upstream: StageName,
        stage: StageName,
    },
    #[error(
        "checkpoints of `{stage}` that the log has are missing in `{}`: {}",
        .dir.display(), paths(.missing)
    )]
    Pruning {
        dir: PathBuf,
        stage: StageName,
        missing: Vec<CheckpointRef>,
    },
}

impl Advice for LostError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            LostError::Needed { dir, left, .. } => vec![
                Hint::text(format!(
                    "bring its files back, or give it up and continue from `{}` (update {})",
                    left.path, left.step
                )),
                Hint::GiveUp { dir: text(dir) },
            ],
            LostError::NoneLeft { stage, .. } => vec![
                Hint::text("bring the files of one back"),
                Hint::TrainAnew {
                    stage: stage.to_string(),
                },
            ],
            LostError::Upstream { path, .. } => vec![Hint::text(format!(
                "bring its files back to `{}`; it cannot be given up",
                path.display()
            ))],
            LostError::Pruning { dir, .. } => vec![
                Hint::text("bring their files back, or give them up, before others are deleted"),
                Hint::GiveUp { dir: text(dir) },
            ],
        }
    }
}

pub(super) fn text(path: &Path) -> String {
    path.display().to_string()
}

fn paths(checkpoints: &[CheckpointRef]) -> String {
    let paths: Vec<String> = checkpoints
        .iter()
        .map(|checkpoint| format!("`{}`", checkpoint.path))
        .collect();
    paths.join(", ")
}

fn stages(known: &[StageName]) -> Hint {
    let names: Vec<String> = known.iter().map(|stage| format!("`{stage}`")).collect();
    Hint::text(format!("the stages of the config are {}", names.join(", ")))
}

fn model_name(model: &ModelName) -> &str {
    match ModelKind::of(model) {
        Some(ModelKind::VideoTokenizer) => "a video tokenizer",
        Some(ModelKind::LatentActions) => "latent actions",
        Some(ModelKind::Dynamics) => "dynamics",
        None => model.as_str(),
    }
}

fn after_semicolon(text: &Option<String>) -> String {
    text.as_ref()
        .map_or_else(String::new, |text| format!("; {text}"))
}
