//! What to do about an error, as data.
//!
//! An error says what is wrong; its hints say what to do, apart from its text. A
//! hint about this program says what it can do and never how a person asks for it:
//! the wording, with the names of commands and flags, belongs to the layer that talks
//! to the person. Depends on no other crate of tinygate.

#![no_std]

extern crate alloc;

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Something outside of this program.
    Text(Cow<'static, str>),
    /// Look at a config that this program writes.
    ExampleConfig,
    /// Look at the list of all keys of a config.
    ListKeys,
    /// Write an override of a config in its form.
    OverrideForm,
    /// From which folder a relative path starts: in a config, and in an override.
    RelativePaths,
    /// Start a run: there is none yet.
    StartRun,
    /// Start another run: this one cannot take the change.
    StartAnotherRun,
    /// Start a run from a checkpoint.
    StartFromCheckpoint,
    /// Start a run with the weights of a checkpoint, without its optimizer.
    FreshOptimizer,
    /// Take a checkpoint's weights although its settings differ.
    WeightsOfOtherSettings,
    /// Take a checkpoint's moments although its optimizer's settings differ.
    MomentsOfOtherSettings,
    /// Take a checkpoint's weights, and begin with moments of zero.
    ZeroMoments,
    /// Allow the run to continue with one rank.
    SingleRankFallback,
    /// Name another place of the data.
    DataElsewhere,
    /// Resume the run on every rank.
    ResumeEveryRank,
    /// Train one stage alone.
    OneStage { stage: &'static str },
    /// Resume the run.
    Resume,
    /// Resume the run in the directory that it was moved to.
    ResumeMoved { dir: String },
    /// Show the run while a process writes it.
    ReadWhileRunning,
    /// Rebuild a copy of the log from the other one.
    RebuildLog,
    /// Copy the events before the damage to a file.
    ExportSoundEvents,
    /// Continue with one of two copies of the log that differ.
    KeepOneCopy,
    /// Give up the events that are damaged in both copies of the log.
    AcceptLoss,
    /// Replace the file that exists.
    ReplaceFile,
    /// Read the events of the log.
    ReadLog,
    /// Recompute the decisions of the log and compare.
    AuditLog,
    /// Report the fault together with the log.
    ReportWithLog,
    /// Start another run with this override.
    StartRunWith { key: String, value: String },
    /// Say which stage a given checkpoint is for.
    NameStage,
    /// Give a checkpoint for this stage.
    GiveCheckpoint { stage: String },
    /// Find out what checkpoints can be used for.
    VerifyCheckpoints,
    /// Train some stages of the config only.
    TrainSomeStages,
    /// Check a config without training.
    CheckConfig,
    /// Train a passed stage of a run further, in another run with these overrides.
    TrainFurther {
        stage: String,
        dir: String,
        overrides: Vec<(String, String)>,
    },
    /// Train a stage from its start, in another run.
    TrainAnew { stage: String },
    /// Give up checkpoints whose files are missing.
    GiveUp { dir: String },
    /// Resume the run with the path that its data was moved to.
    ResumeWithData { dir: String },
    /// Resume the run with the data that it was created with.
    OriginalData,
    /// Show why the run's last decision was made.
    Explain { dir: String },
    /// Allow a stopped run more failures, perhaps with an override.
    AllowRetries {
        dir: String,
        /// `key=VALUE`, where the user chooses the value.
        set: Option<String>,
    },
    /// Continue with this many ranks, fewer than the run asks for.
    FewerRanks { ranks: u32 },
}

impl Hint {
    pub fn text(text: impl Into<Cow<'static, str>>) -> Hint {
        Hint::Text(text.into())
    }
}

/// An error that may suggest what to do about it.
pub trait Advice {
    /// What to do, in this order; empty when there is nothing to suggest.
    fn hints(&self) -> Vec<Hint>;
}
