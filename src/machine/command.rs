//! What the machine decides and commands. It performs nothing itself.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use tinygate_events::{
    Attempt, CheckpointRef, ChunkNumber, Event, FileRecord, ModelName, Restart, Settings,
    StageName, Step,
};

/// What to do next. The driver records events until there is none to record, makes them
/// durable, and only then acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Append this event; it is a decision.
    Record(Box<Event>),
    /// Send this command, unless it is already in progress, and wait for facts.
    Act(Command),
    Idle(Idle),
}

/// Why there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// The log is empty.
    NoRun,
    Finished,
    /// Stopped at a gate; a person may allow more retries.
    Stopped,
    /// The log uses decision rules that this build does not know.
    UnknownRules {
        rules: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Measure the trivial predictors of a stage. The answer is `StageMeasured`.
    MeasureStage(MeasureStage),
    /// Check a checkpoint that was written but not yet judged, because the process ended
    /// in between. The answer is `CheckpointJudged`.
    JudgeCheckpoint(JudgeCheckpoint),
    /// Train to the end of a chunk. The answers are metrics, checkpoints and scores, then
    /// `ChunkFinished` or `ChunkFailed`.
    TrainChunk(Box<TrainChunk>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasureStage {
    pub stage: StageName,
    pub model: ModelName,
    pub settings: Settings,
    pub upstream: Vec<UpstreamModel>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgeCheckpoint {
    pub stage: StageName,
    pub checkpoint: CheckpointRef,
    pub files: Vec<FileRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainChunk {
    pub stage: StageName,
    pub model: ModelName,
    pub chunk: ChunkNumber,
    pub attempt: Attempt,
    pub restart: Restart,
    /// The chunk is `(from, to]`; a resume point inside it leaves less to train.
    pub from: Step,
    pub to: Step,
    pub settings: Settings,
    /// `None`: fresh weights at step 0.
    pub resume: Option<ResumePoint>,
    pub upstream: Vec<UpstreamModel>,
    /// Paths of recorded checkpoints, which new ones cannot use.
    pub taken: Vec<String>,
}

/// A model that a stage builds on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamModel {
    pub stage: StageName,
    pub checkpoint: CheckpointRef,
    /// Files with their hashes, as the log has them.
    pub files: Vec<FileRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    pub checkpoint: CheckpointRef,
    /// Windows on which the stage had trained at this point.
    pub samples_seen: u64,
    /// Files with their hashes, as the log has them.
    pub files: Vec<FileRecord>,
    /// The optimizer's moments start at zero, since the user gave the checkpoint only for its weights.
    pub fresh_optimizer: bool,
}

impl TrainChunk {
    /// The step at which training resumes.
    pub fn start(&self) -> Step {
        self.resume
            .as_ref()
            .map_or(Step::FIRST, |resume| resume.checkpoint.step)
    }
}
