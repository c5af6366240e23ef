//! Everything that can happen in a run, as live types.
//!
//! *Facts* come from outside the machine: a chunk's result, a metric, a checkpoint, a
//! person's change. *Decisions* are the machine's answers, which a replay recomputes.
//! [`Event::is_decision`] tells them apart.
//!
//! The code works with these types. [`super::stored`] has the forms on disk, frozen by
//! version.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::ids::{Attempt, ChunkNumber, Restart, Seq, StageName, Step};
use super::kinds::event_kinds;
use super::policy::Policy;
use super::scalar::Scalar;
use super::settings::{SettingKey, SettingValue, Settings};

/// An event with its position in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub seq: Seq,
    /// Milliseconds since 1970-01-01 UTC by the writer's clock. For display only: no
    /// decision reads it.
    pub time_ms: u64,
    #[serde(flatten)]
    pub event: Event,
}

macro_rules! live {
    ($($number:literal $name:literal $source:ident $kind:ident($($type:tt)+): $($version:literal => $form:ident),+;)+) => {
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        pub enum Event {
            $(#[serde(rename = $name)] $kind($($type)+),)+
        }

        impl Event {
            /// Names of all kinds, as in the JSON form.
            pub const KINDS: [&'static str; [$($number),+].len()] = [$($name),+];

            /// Name of the kind, as in the JSON form.
            pub const fn kind(&self) -> &'static str {
                match self {
                    $(Event::$kind(_) => $name,)+
                }
            }

            /// Who recorded it.
            pub const fn source(&self) -> Source {
                match self {
                    $(Event::$kind(_) => Source::$source,)+
                }
            }
        }
    };
}

event_kinds!(live);

impl Event {
    /// Whether the machine decided it, so that a replay recomputes it.
    pub fn is_decision(&self) -> bool {
        self.source() == Source::Machine
    }

    /// The chunk and attempt of a trainer's report or of superseded samples. `None` for other events.
    pub fn of_chunk(&self) -> Option<(&StageName, ChunkNumber, Attempt)> {
        let (stage, chunk, attempt) = match self {
            Event::MetricsLogged(e) => (&e.stage, e.chunk, e.attempt),
            Event::HeldOutScored(e) => (&e.stage, e.chunk, e.attempt),
            Event::PictureScored(e) => (&e.stage, e.chunk, e.attempt),
            Event::CheckpointWritten(e) => (&e.stage, e.chunk, e.attempt),
            Event::ChunkFinished(e) => (&e.stage, e.chunk, e.attempt),
            Event::ChunkFailed(e) => (&e.stage, e.chunk, e.attempt),
            Event::SamplesSuperseded(e) => (&e.stage, e.chunk, e.attempt),
            Event::RunCreated(_)
            | Event::ProcessStarted(_)
            | Event::RunInterrupted(_)
            | Event::SettingChanged(_)
            | Event::FallbackGranted(_)
            | Event::StoreRepaired(_)
            | Event::CheckpointGivenUp(_)
            | Event::PruneRequested(_)
            | Event::StageMeasured(_)
            | Event::CheckpointJudged(_)
            | Event::StageStarted(_)
            | Event::ChunkStarted(_)
            | Event::GateDecided(_)
            | Event::PatchApplied(_)
            | Event::PatchDeferred(_)
            | Event::FailureDecided(_)
            | Event::StageReopened(_)
            | Event::CheckpointDeleted(_)
            | Event::StagePassed(_)
            | Event::StageStopped(_)
            | Event::RunFinished(_)
            | Event::RunStopped(_) => return None,
        };
        Some((stage, chunk, attempt))
    }
}

/// Who an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A process of the program, or the person who started it.
    Process,
    /// The trainer, or the host's verdict on its checkpoints. Recorded only when no decision is due.
    Trainer,
    /// The machine: a decision.
    Machine,
}

/// The first event of every log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunCreated {
    pub run: String,
    pub tinygate_version: String,
    pub libtorch_version: String,
    /// Version of the decision rules of this log.
    pub rules: u32,
    pub seed: u64,
    /// Ranks whose gradients are averaged.
    pub world_size: u32,
    /// The config with all defaults filled in.
    pub config: serde_json::Value,
    pub policy: Policy,
    pub dataset: Dataset,
    /// Held-out losses of predictors that depend only on the data and need no training.
    pub trivial_predictors: Vec<Metric>,
    pub parent: Option<Parent>,
    /// Checkpoints given by the user. Each counts as accepted at its step.
    pub init_from: Vec<InitFrom>,
    /// How the held-out windows are split into batches, at every gate of this run.
    #[serde(default, skip_serializing_if = "HeldOutBatches::is_largest")]
    pub held_out_batches: HeldOutBatches,
}

/// How many windows are in a held-out batch, including the batches for trivial predictors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldOutBatches {
    /// The largest micro-batch of any stage. Only in runs created by builds before 25 November 2026.
    #[default]
    Largest,
    /// The stage's micro-batch, as configured when the run was created.
    Stage,
}

impl HeldOutBatches {
    fn is_largest(&self) -> bool {
        *self == HeldOutBatches::Largest
    }
}

/// The training data. `recordings` and `passed_over` are empty in logs of older builds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    pub files: Vec<String>,
    /// BLAKE3 of the shape and the bytes, in hexadecimal.
    pub blake3: String,
    pub frames: u64,
    pub height: u32,
    pub width: u32,
    pub training_windows: u64,
    pub held_out_windows: u64,
    /// The recordings that were read, in the order of their frames.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recordings: Vec<Recording>,
    /// The files next to them that were not read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<PassedOver>,
}

/// Consecutive frames. No window spans two recordings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    pub path: String,
    pub frames: u64,
    /// Pixels, as in the file.
    pub height: u32,
    pub width: u32,
    /// Names of the first and last image, if the frames are files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// Numbers missing between the names of the first and the last image.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missing: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Files that were not read for the same reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// The folder or file that contains them.
    pub path: String,
    pub why: String,
    pub count: u64,
    /// The name of one of them.
    pub example: String,
}

/// The run that this one continues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    pub run: String,
    pub path: String,
    /// Deferred patches of the parent that this run's config includes.
    pub patches: Vec<SettingPatch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitFrom {
    pub stage: StageName,
    pub checkpoint: CheckpointRef,
    pub files: Vec<FileRecord>,
    /// Only the weights are used; the optimizer's moments start at zero.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub fresh_optimizer: bool,
}

/// A named number. `None`: not applicable, for example because a denominator is near 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    pub name: String,
    pub value: Option<Scalar>,
}

impl Metric {
    /// The value of the first metric of this name.
    pub fn find(metrics: &[Metric], name: &str) -> Option<Scalar> {
        metrics.iter().find(|metric| metric.name == name)?.value
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStarted {
    pub host: String,
    pub pid: u32,
    pub tinygate_version: String,
    pub libtorch_version: String,
    pub devices: Vec<String>,
    /// Threads that libtorch uses.
    pub threads: u32,
    /// The hardware of each device; an empty string if it has no name. Empty in logs of older builds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cards: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInterrupted {
    pub reason: InterruptReason,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum InterruptReason {
    /// SIGINT or SIGTERM.
    Signal { name: String },
    /// For example a full disk or a missing file. Not a failure of the chunk; the run can be resumed.
    Environment { detail: String },
}

/// A person changed a setting while resuming.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingChanged {
    /// `None`: a setting of the whole policy.
    pub stage: Option<StageName>,
    pub key: SettingKey,
    pub from: SettingValue,
    pub to: SettingValue,
    pub who: String,
    pub why: String,
}

/// The user allowed fewer devices than ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackGranted {
    pub ranks_wanted: u32,
    pub ranks_available: u32,
    /// Accumulation is multiplied by this to make up for the missing ranks.
    pub accumulation_factor: u32,
    /// `config` or `command line`.
    pub granted_by: String,
}

/// The losses of a stage's trivial predictors on its held-out windows, by the stage's own loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageMeasured {
    pub stage: StageName,
    /// `trivial_loss`, and `trivial_loss_moving` if the stage predicts frames.
    pub trivial: Vec<Metric>,
    /// Name of the trivial predictor: `mean_image`, `previous_frame`, `token_marginals`.
    pub predictor: String,
}

/// A block of samples, columnar and sparse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsLogged {
    pub stage: StageName,
    pub chunk: ChunkNumber,
    pub attempt: Attempt,
    pub columns: Vec<Column>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub steps: Steps,
    /// One per step.
    pub values: Vec<Scalar>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Steps {
    /// `first`, `first + stride`, ..., one per value.
    Stride {
        first: u64,
        stride: u64,
    },
    List(Vec<u64>),
}

impl Steps {
    /// Step of the value at `index`; `None` past the end or past `u64`.
    pub fn at(&self, index: usize) -> Option<Step> {
        match self {
            Steps::Stride { first, stride } => (index as u64)
                .checked_mul(*stride)
                .and_then(|offset| first.checked_add(offset))
                .map(Step::new),
            Steps::List(steps) => steps.get(index).copied().map(Step::new),
        }
    }
}

/// Names of the metrics that the trainer logs and the machine reads.
pub mod metric {
    pub const LOSS: &str = "train/loss";
    pub const LEARNING_RATE: &str = "learning_rate";
    pub const GRAD_NORM: &str = "grad_norm";
    pub const UNIQUE_ACTIONS: &str = "unique_actions";
    pub const ACTION_ENTROPY: &str = "action_entropy";
    pub const CODEBOOK_USAGE: &str = "codebook_usage";
    pub const UPDATES_PER_SECOND: &str = "updates_per_second";
    pub const HELD_OUT_LOSS: &str = "held_out_loss";
    pub const HELD_OUT_LOSS_MOVING: &str = "held_out_loss_moving";
    pub const TRIVIAL_LOSS: &str = "trivial_loss";
    pub const TRIVIAL_LOSS_MOVING: &str = "trivial_loss_moving";
    pub const GATE_LOSS: &str = "gate_loss";
    pub const LATEST_LOSS: &str = "latest_loss";
    pub const SKILL: &str = "skill";
    pub const SKILL_MOVING: &str = "skill_moving";
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRef {
    /// Relative to the run directory, if it is inside.
    pub path: String,
    pub step: Step,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Hexadecimal.
    pub blake3: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointWritten {
    pub stage: StageName,
    pub chunk: ChunkNumber,
    pub attempt: Attempt,
    pub checkpoint: CheckpointRef,
    /// Windows on which the stage had trained at this step.
    pub samples_seen: u64,
    pub files: Vec<FileRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointJudged {
    pub stage: StageName,
    pub checkpoint: CheckpointRef,
    /// `None`: accepted.
    pub rejected: Option<Rejection>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Stable, for programs: `missing_file`, `too_small`, ...
    pub code: String,
    /// For display.
    pub text: String,
}

/// Losses on the held-out windows at a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldOutScored {
    pub stage: StageName,
    pub chunk: ChunkNumber,
    pub attempt: Attempt,
    pub step: Step,
    pub values: Vec<Metric>,
}

/// The picture of a gate, and its scores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureScored {
    pub stage: StageName,
    pub chunk: ChunkNumber,
    pub attempt: Attempt,
    pub step: Step,
    /// Relative to the run directory.
    pub path: String,
    /// BLAKE3 of the file's bytes, which depend on the compressor.
    pub blake3: String,
    /// BLAKE3 of the decoded picture; `None` in logs of older builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pixels: Option<String>,
    /// Scores of all held-out frames together.
    pub pooled: StructureScores,
    pub frames: Vec<StructureScores>,
}

/// Structure of predicted frames compared with true ones, both minus the data's mean image.
/// `None`: the denominator of the ratio is below 1e-12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StructureScores {
    pub flatness: Option<Scalar>,
    pub stripes: Option<Scalar>,
    pub blockiness: Option<Scalar>,
    pub ssim: Option<Scalar>,
    pub mse_ratio: Option<Scalar>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkFinished {
    pub stage: StageName,
    pub chunk: ChunkNumber,
    pub attempt: Attempt,
    /// The chunk's `to`.
    pub step: Step,
    pub samples_seen: u64,
    /// Wall-clock seconds that this process spent on the chunk.
    pub seconds: Scalar,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkFailed {
    pub stage: StageName,
    pub chunk: ChunkNumber,
    pub attempt: Attempt,
    /// The last completed update.
    pub step: Step,
    pub failure: ChunkFailure,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "failure", rename_all = "snake_case")]
pub enum ChunkFailure {
    OutOfMemory {
        detail: String,
    },
    WorkerExited {
        status: String,
        stderr: String,
    },
    WorkerTimedOut {
        seconds: u64,
        stderr: String,
    },
    /// The trainer was silent for longer than the limit.
    NoProgress {
        silence_seconds: u64,
        limit_seconds: u64,
        stderr: String,
    },
    CheckpointUnloadable {
        path: String,
        detail: String,
    },
}

/// The store found one of its two copies damaged and rebuilt it from the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRepaired {
    /// `journal` or `sled`.
    pub copy: String,
    pub detail: String,
    /// Where the damaged bytes were moved, relative to the run directory.
    pub quarantine: Option<String>,
    /// Events restored in the rebuilt copy.
    pub restored: u64,
}

/// A person gave up an accepted checkpoint whose files are missing. An older one is used instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointGivenUp {
    pub stage: StageName,
    pub checkpoint: CheckpointRef,
    pub who: String,
    pub why: String,
}

/// A person asked to free disk space: retention deletes every checkpoint that it may, using this
/// `keep_last`. In force until an event that is not a deletion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneRequested {
    pub keep_last: u32,
    pub who: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageStarted {
    pub stage: StageName,
    pub settings: Settings,
    /// Checkpoints of passed stages that this one builds on, in the order of the stages.
    pub upstream: Vec<Upstream>,
    pub resume_from: Option<CheckpointRef>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    pub stage: StageName,
    pub checkpoint: CheckpointRef,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkStarted {
    pub stage: StageName,
    pub chunk: ChunkNumber,
    pub attempt: Attempt,
    pub restart: Restart,
    /// The chunk is `(from, to]`.
    pub from: Step,
    pub to: Step,
    pub samples_seen: u64,
    /// `None`: fresh weights.
    pub resume_from: Option<CheckpointRef>,
    pub settings: Settings,
}

/// A chunk resumes from a checkpoint; its samples after that step no longer count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplesSuperseded {
    pub stage: StageName,
    pub chunk: ChunkNumber,
    pub attempt: Attempt,
    pub after: Step,
    /// `None`: from fresh weights.
    pub resume_from: Option<CheckpointRef>,
}

/// What happens after a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Continue,
    Retune,
    RestartStage,
    Stop,
}

impl Action {
    pub const fn as_str(self) -> &'static str {
        match self {
            Action::Continue => "continue",
            Action::Retune => "retune",
            Action::RestartStage => "restart_stage",
            Action::Stop => "stop",
        }
    }
}

/// A gate's decision, and everything it is based on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateDecided {
    pub stage: StageName,
    pub chunk: ChunkNumber,
    pub attempt: Attempt,
    pub gate_step: Step,
    pub decision: Action,
    /// Gate loss, latest loss, skills, then the value of each criterion under its name.
    pub metrics: Vec<Metric>,
    pub resume_from: Option<CheckpointRef>,
    pub config_patch_applied: Vec<SettingPatch>,
    pub criteria: Vec<CriterionResult>,
    pub findings: Vec<Finding>,
    /// Failures of the stage after this gate.
    pub failures: u32,
    /// Position on the ladder after this gate, counted from 0.
    pub cursor: u32,
    /// The rung applied, counted from 1.
    pub rung: Option<u32>,
    pub skipped: Vec<RungSkipped>,
    /// `n_actions` for the next full cycle, if this gate deferred it.
    pub deferred: Option<SettingPatch>,
    pub restart: Option<RestartReason>,
    pub stop: Option<StopReason>,
}

/// A setting before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingPatch {
    pub key: SettingKey,
    pub from: SettingValue,
    pub to: SettingValue,
    pub why: PatchReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchReason {
    /// Rung of the ladder, counted from 1.
    Rung(u32),
    /// A failed gate at the target.
    Extension,
    OutOfMemory,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CriterionResult {
    pub name: String,
    pub verdict: Verdict,
    pub value: Option<Scalar>,
    pub limit: Option<Scalar>,
    /// Why it failed or does not apply, if the numbers do not show it.
    pub why: Option<CriterionReason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Pass,
    Fail,
    NotApplicable,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum CriterionReason {
    OnlyAtTarget,
    /// There is no earlier gate in the lineage.
    FreshStart,
    PreviousNotFinite,
    NotFinite,
    TooFewSamples {
        found: u64,
        needed: u64,
    },
    Missing {
        metric: String,
    },
    Stale {
        metric: String,
        last: Step,
        needed_after: Step,
    },
    NoPicture,
    /// The trivial loss is below 1e-9.
    NoSkillToMeasure,
    /// Every held-out frame equals the mean image. Rules version 1 uses `NoSkillToMeasure` instead.
    NoStructureToMeasure,
    NoCheckpoint,
    NotJudged,
    Rejected {
        code: String,
        text: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// The limit is `factor` times looser than the loss of a predictor that learned nothing.
    VacuousLimit {
        criterion: String,
        limit: Scalar,
        predictor: String,
        trivial_loss: Scalar,
        factor: Scalar,
    },
    /// The gate passed, but the model is no better than the trivial predictor.
    NoSkill {
        metric: String,
        skill: Scalar,
        predictor: String,
    },
    /// The gate passed, but skill cannot be measured: the predictor's loss is below 1e-9, or no pixel
    /// moves. Since rules version 2.
    NothingToMeasure { metric: String, predictor: String },
    /// The last samples are on both sides of the limit.
    DecidedByNoise {
        criterion: String,
        limit: Scalar,
        within: u32,
        beyond: u32,
    },
    Cause {
        cause: Cause,
        single_action_share: Option<Scalar>,
        median_entropy: Option<Scalar>,
        rising: bool,
        r2_learning_rate: Option<Scalar>,
        r2_entropy: Option<Scalar>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Upstream,
    Dynamics,
    Mixed,
    Undetermined,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RungSkipped {
    /// Counted from 1.
    pub rung: u32,
    pub why: SkipReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    AtBound,
    LossNotDropping,
    NoPreviousGate,
    EntropyNotCollapsed,
    AlreadyDeferred,
    ExtensionsUsedUp,
    NotASettingOfThisStage,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartReason {
    pub cause: RestartCause,
    /// The restart number from now on.
    pub restart: Restart,
    pub abandoned: Vec<ChunkNumber>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartCause {
    NoAcceptedCheckpoint,
    NonFiniteLoss,
    StructureLost,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum StopReason {
    RetriesExceeded {
        failures: u32,
        max_retries: u32,
    },
    NoRungApplies,
    ExtensionsExceeded {
        extensions: u32,
        max_extensions: u32,
    },
    ChunkFailuresExceeded {
        failures: u32,
        max_chunk_failures: u32,
    },
    OutOfMemoryAtFloor {
        batch_size_per_gpu: u32,
    },
    /// A chunk number, attempt or step would overflow.
    CountersExhausted,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchApplied {
    pub stage: StageName,
    pub gate_step: Step,
    pub patch: SettingPatch,
}

/// A patch for the next full cycle. It does not change this run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchDeferred {
    pub stage: StageName,
    pub gate_step: Step,
    pub patch: SettingPatch,
}

/// The answer to a chunk that failed without a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureDecided {
    pub stage: StageName,
    pub chunk: ChunkNumber,
    pub attempt: Attempt,
    pub cause: FailureCause,
    pub answer: FailureAnswer,
    /// Failures of the stage after this answer.
    pub failures: u32,
    /// Consecutive chunk failures after this answer.
    pub chunk_failures: u32,
    pub patches: Vec<SettingPatch>,
    /// Windows per update before and after, if halving the batch changes them.
    pub effective_batch: Option<EffectiveBatch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectiveBatch {
    pub before: u64,
    pub after: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCause {
    OutOfMemory,
    WorkerExited,
    WorkerTimedOut,
    NoProgress,
    CheckpointUnloadable,
    /// The same chunk was interrupted too often without a new checkpoint.
    Interrupted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureAnswer {
    RunAgain,
    Stop,
}

/// A stopped stage continues because a person allowed more retries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageReopened {
    pub stage: StageName,
    pub gate_step: Step,
    pub decision: Action,
    pub resume_from: Option<CheckpointRef>,
    pub config_patch_applied: Vec<SettingPatch>,
    pub cursor: u32,
    pub rung: Option<u32>,
    pub skipped: Vec<RungSkipped>,
    pub deferred: Option<SettingPatch>,
    pub restart: Option<RestartReason>,
}

/// Retention deletes a checkpoint. Its directory is removed once this event is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointDeleted {
    pub stage: StageName,
    pub checkpoint: CheckpointRef,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagePassed {
    pub stage: StageName,
    /// The checkpoint of the passing gate, which the next stages use.
    pub checkpoint: CheckpointRef,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageStopped {
    pub stage: StageName,
    pub step: Step,
    pub reason: StopReason,
    pub blocking: Vec<Blocking>,
    /// The best known checkpoint.
    pub best: Option<CheckpointRef>,
}

/// A criterion that kept a stage from passing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocking {
    pub criterion: String,
    /// The value at the last gate that it failed.
    pub value: Option<Scalar>,
    pub limit: Option<Scalar>,
    /// Number of the stage's gates that it failed.
    pub gates: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFinished {
    pub stages: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStopped {
    pub stage: StageName,
}
