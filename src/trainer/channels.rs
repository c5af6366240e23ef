//! A trainer in a thread of this process, connected by two channels.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::{Ended, Report, StopRequest, Trainer, TrainerCommand, TrainerError};

/// The host's ends of the channels.
pub struct Channels {
    commands: Sender<TrainerCommand>,
    reports: Receiver<Report>,
    stop: Arc<StopRequest>,
}

impl Channels {
    /// The host's and the trainer's ends. The trainer checks `stop` between updates.
    pub fn new(stop: Arc<StopRequest>) -> (Channels, Receiver<TrainerCommand>, Sender<Report>) {
        let (commands, commanded) = unbounded();
        let (reporting, reports) = unbounded();
        let channels = Channels {
            commands,
            reports,
            stop,
        };
        (channels, commanded, reporting)
    }
}

impl Trainer for Channels {
    fn send(&self, command: TrainerCommand) -> Result<(), TrainerError> {
        let sent = self.commands.send(command);
        sent.map_err(|_| TrainerError::Lost)
    }

    fn receive(&self, patience: Duration) -> Result<Option<Report>, TrainerError> {
        match self.reports.recv_timeout(patience) {
            Ok(report) => Ok(Some(report)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(TrainerError::Lost),
        }
    }

    fn stop(&self, signal: &str) {
        self.stop.request(signal);
    }

    fn end(&self) -> Ended {
        Ended::OnlyWithThisProcess
    }
}
