//! The host's interface to a trainer, which takes commands and returns reports.
//!
//! A [`Trainer`] can be a thread of this process (libtorch's actor behind [`Channels`]), a script in
//! a test, or a program that speaks JSON lines ([`wire`]). It can only report [`TrainerFact`]s. The
//! host judges checkpoints ([`Judge`]), and whether the trainer still makes progress ([`Patience`]).
//! Nothing here needs libtorch.

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
pub use judge::{FileJudge, Judge, Verdict, accept, is_absent, judged, refusal};
pub use patience::{NoProgress, Patience, TICK};

/// A message from a trainer.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// A fact, which is logged.
    Fact(TrainerFact),
    /// For the progress line; not logged.
    Progress(Progress),
    /// It stopped on request. It wrote a checkpoint if it had done any update.
    Interrupted { signal: String },
    /// For example a full disk or a missing file. Not a failure of the chunk.
    Environment { detail: String },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    pub stage: StageName,
    pub step: Step,
    /// The end of the current chunk.
    pub gate: Step,
    /// The stage's target.
    pub target: Step,
    pub loss: f64,
    pub updates_per_second: f64,
}

/// Carries out commands.
pub trait Trainer {
    /// Sends a command. The trainer must have carried out the previous one, or have been ended.
    ///
    /// # Errors
    /// [`TrainerError::Lost`] if the trainer has exited.
    fn send(&self, command: TrainerCommand) -> Result<(), TrainerError>;

    /// Waits for the next report for at most `patience`. `None`: there was none.
    ///
    /// # Errors
    /// [`TrainerError::Lost`] or [`TrainerError::Broken`] if the trainer has exited, and
    /// [`TrainerError::Misreported`] for an invalid report.
    fn receive(&self, patience: Duration) -> Result<Option<Report>, TrainerError>;

    /// Asks it to write a checkpoint and stop at the next update. It answers with
    /// [`Report::Interrupted`].
    fn stop(&self, signal: &str);

    /// Ends it whatever it is doing. The next command starts a new trainer.
    fn end(&self) -> Ended;
}

/// The result of ending a trainer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It has exited; `output` is the end of its output.
    Exited { output: String },
    /// It is a thread, which cannot be ended from outside: this process must exit.
    OnlyWithThisProcess,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrainerError {
    #[error("the trainer exited without a report")]
    Lost,
    #[error(transparent)]
    Misreported(#[from] Misreport),
    /// A program exited, or broke the connection or its rules; the text says how.
    #[error("{0}")]
    Broken(String),
}

/// A request to write a checkpoint and stop at the next update. A signal sets it once; the
/// trainer checks it between updates.
#[derive(Debug, Default)]
pub struct StopRequest(OnceLock<String>);

impl StopRequest {
    /// Asks the trainer to stop. Later signals do not replace the first one's name.
    pub fn request(&self, signal: &str) {
        let _ = self.0.set(signal.to_owned());
    }

    /// The signal that requested it, if any.
    pub fn requested(&self) -> Option<String> {
        self.0.get().cloned()
    }
}
