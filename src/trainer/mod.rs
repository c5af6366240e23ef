//! What trains, seen from the host: commands go to it, reports come back.
//!
//! A [`Trainer`] may be a thread of this process (libtorch's actor behind [`Channels`]), a script in
//! a test, or a program that speaks JSON lines ([`wire`]). It says [`TrainerFact`]s, which are all
//! that a trainer may say; whether a checkpoint is what it should be, and whether the trainer still
//! makes progress, the host judges ([`Judge`], [`Patience`]). Nothing here needs libtorch.

mod channels;
mod command;
mod fact;
mod judge;
mod patience;
pub mod wire;

use std::sync::OnceLock;
use std::time::Duration;

use crate::events::{StageName, Step};

pub use channels::Channels;
pub use command::TrainerCommand;
pub(crate) use fact::CommandsGiven;
pub use fact::{Misreport, Subject, TrainerFact};
pub use judge::{FileJudge, Judge, Verdict, accept, is_absent, refusal};
pub use patience::{NoProgress, Patience, TICK};

/// What a trainer says.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Something that happened, for the log.
    Fact(TrainerFact),
    /// For the progress line only; never logged.
    Progress(Progress),
    /// It stopped because it was asked to; a checkpoint was written if an update was done.
    Interrupted { signal: String },
    /// The disk is full, a file is missing: nobody's failure.
    Environment { detail: String },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    pub stage: StageName,
    pub step: Step,
    /// The present chunk's end.
    pub gate: Step,
    /// The stage's target.
    pub target: Step,
    pub loss: f64,
    pub updates_per_second: f64,
}

/// What carries out commands.
pub trait Trainer {
    /// Gives it a command. It has carried out the one before, or was ended.
    ///
    /// # Errors
    /// [`TrainerError::Lost`] when nobody is there to take it.
    fn send(&self, command: TrainerCommand) -> Result<(), TrainerError>;

    /// Waits for what it says next, at most for `patience`. `None`: it said nothing.
    ///
    /// # Errors
    /// [`TrainerError::Lost`] when nobody is there to say anything any more, and
    /// [`TrainerError::Misreported`] for what no trainer may say.
    fn receive(&self, patience: Duration) -> Result<Option<Report>, TrainerError>;

    /// Asks it to stop at the next update, with a checkpoint. It answers by
    /// [`Report::Interrupted`].
    fn stop(&self, signal: &str);

    /// Ends it whatever it is doing; the next command begins with a new one.
    fn end(&self) -> Ended;
}

/// What came of ending a trainer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is gone; `output` is the end of what it wrote.
    Gone { output: String },
    /// A thread cannot be ended from outside: this process must exit.
    WithThisProcessOnly,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrainerError {
    #[error("the trainer exited without a report")]
    Lost,
    #[error(transparent)]
    Misreported(#[from] Misreport),
}

/// A request to stop at the next update, with a checkpoint. Set once, by a signal;
/// the trainer looks at it between updates.
#[derive(Debug, Default)]
pub struct StopRequest(OnceLock<String>);

impl StopRequest {
    /// Asks the trainer to stop; the first signal's name stays.
    pub fn request(&self, signal: &str) {
        let _ = self.0.set(signal.to_owned());
    }

    /// The signal that asked, if one did.
    pub fn requested(&self) -> Option<String> {
        self.0.get().cloned()
    }
}
