//! libtorch's trainer, from its start to its end.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::ranks::Formed;
use crate::config::Config;
use crate::controller::{ControlError, Ending, Host, Observer};
use crate::data::Frames;
use crate::events::StageName;
use crate::events::{HeldOutBatches, ProcessStarted};
use crate::run::Run;
use crate::run::dry_run::{DryRunError, StageCost, measure};
use crate::run::retrain::StartedTrainer;
use crate::run::{Draft, Group};
use crate::train::actor::{self, ActorSetup, SpawnError};
use crate::trainer::{Channels, FileJudge, Judge, Patience, StopRequest};

pub type StartError = SpawnError;

/// What the trainer is started with.
pub struct TrainerSetup {
    /// Of the run, or a scratch folder.
    pub directory: PathBuf,
    pub config: Config,
    pub frames: Arc<Frames>,
    /// As the run's first event says.
    pub held_out: HeldOutBatches,
    pub stop: Arc<StopRequest>,
}

/// A thread of this process that owns libtorch, ready for commands.
pub struct BuiltinTrainer {
    directory: PathBuf,
    process: ProcessStarted,
    group: Group,
    stop: Arc<StopRequest>,
    channels: Channels,
    patience: Patience,
    thread: JoinHandle<()>,
}

impl BuiltinTrainer {
    /// Starts the thread. It writes nothing before its first command.
    ///
    /// # Errors
    /// Data without a window for the config, or a thread that cannot be started.
    pub fn start(setup: TrainerSetup, formed: Formed) -> Result<BuiltinTrainer, StartError> {
        let process = formed.process();
        let group = formed.group();
        let directory = setup.directory.clone();
        let stop = Arc::clone(&setup.stop);
        // Ranks limit how long they wait for each other.
        let patience = Patience::new(setup.config.no_progress_seconds)
            .with_floor(2 * u64::from(setup.config.rank_timeout_seconds));
        let (channels, thread) = actor::spawn(ActorSetup {
            directory: setup.directory,
            config: setup.config,
            frames: setup.frames,
            device: formed.device,
            threads: formed.threads,
            stop: setup.stop,
            ranks: formed.ranks,
            held_out: setup.held_out,
        })?;
        Ok(BuiltinTrainer {
            directory,
            process,
            group,
            stop,
            channels,
            patience,
            thread,
        })
    }

    /// The ranks that train.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Drives a run until it ends or this process must. Then the trainer ends too, unless it hangs
    /// ([`Ending::NoProgress`]).
    ///
    /// # Errors
    /// As [`Run::drive`].
    pub fn drive(self, run: &mut Run, observer: &mut dyn Observer) -> Result<Ending, ControlError> {
        self.host(
            |process, host| run.drive(process, host, observer),
            |ended| matches!(ended, Ok(Ending::NoProgress(_))),
        )
    }

    /// Measures what a run would cost, in the directory that this trainer was started with.
    ///
    /// # Errors
    /// As [`measure`].
    pub fn measure(
        self,
        draft: &Draft,
        begun: &mut dyn FnMut(&StageName),
    ) -> Result<Option<Vec<StageCost>>, DryRunError> {
        let (group, scratch) = (self.group.clone(), self.directory.clone());
        self.host(
            |process, host| measure(draft, &group, &scratch, process, host, begun),
            |ended| matches!(ended, Err(DryRunError::NoProgress(_))),
        )
    }

    /// Only the trainer, for single commands. Its thread ends when its channels are dropped.
    pub fn into_started(self) -> StartedTrainer {
        StartedTrainer {
            trainer: Box::new(self.channels),
            process: self.process,
        }
    }

    fn host<T>(
        self,
        drive: impl FnOnce(ProcessStarted, Host<'_>) -> T,
        hangs: impl FnOnce(&T) -> bool,
    ) -> T {
        let judge = FileJudge::new(&self.directory);
        let host = Host {
            trainer: &self.channels,
            judge: &judge as &dyn Judge,
            patience: self.patience,
            stop: &self.stop,
        };
        let ended = drive(self.process, host);
        // Without its channels the trainer ends at the next update. libtorch must be idle when the
        // process exits.
        drop(self.channels);
        // A trainer that hangs is never joined.
        if !hangs(&ended) && self.thread.join().is_err() {
            tracing::warn!("the training thread ended in a panic");
        }
        ended
    }
}
