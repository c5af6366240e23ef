//! Sends reports to the controller.

use crossbeam_channel::Sender;

use super::failure::Failure;
use crate::trainer::{Progress, Report, TrainerFact};

/// The channel of reports. Every call fails once the controller is gone, which ends the command.
#[derive(Clone)]
pub(super) struct Reports(Sender<Report>);

impl Reports {
    pub fn new(sender: Sender<Report>) -> Reports {
        Reports(sender)
    }

    /// Reports a fact.
    pub fn fact(&self, fact: TrainerFact) -> Result<(), Failure> {
        self.send(Report::Fact(fact))
    }

    /// Reports the progress of a chunk.
    pub fn progress(&self, progress: Progress) -> Result<(), Failure> {
        self.send(Report::Progress(progress))
    }

    /// Reports that a signal stopped a chunk.
    pub fn interrupted(&self, signal: String) -> Result<(), Failure> {
        self.send(Report::Interrupted { signal })
    }

    pub fn send(&self, report: Report) -> Result<(), Failure> {
        self.0.send(report).map_err(|_| Failure::ControllerGone)
    }
}
