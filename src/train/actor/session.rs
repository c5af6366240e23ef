//! The state of the actor between commands, and how it carries them out.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::ranks::Ranks;
use super::batches::Batches;
use super::chunk::Chunk;
use super::directory::RunDirectory;
use super::failure::{Failure, known_model};
use super::measure;
use super::reports::Reports;
use super::stages::Stages;
use crate::config::Config;
use crate::data::{Frames, WindowError};
use crate::events::{HeldOutBatches, Step};
use crate::machine::MeasureStage;
use crate::presets::ModelKind;
use crate::trainer::{StopRequest, TrainerCommand, TrainerFact};

/// What the actor is started with.
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
    /// How held-out batches are sized, from the run's first event.
    pub held_out: HeldOutBatches,
}

pub(super) struct Session {
    data: Batches,
    directory: RunDirectory,
    stages: Stages,
    ranks: Ranks,
    stop: Arc<StopRequest>,
    /// The last update done, for the report of a failure.
    step: Step,
}

impl Session {
    pub fn new(setup: ActorSetup) -> Result<Session, WindowError> {
        Ok(Session {
            data: Batches::new(setup.config.clone(), setup.frames, setup.held_out)?,
            directory: RunDirectory::new(setup.directory),
            stages: Stages::new(setup.config, setup.device),
            ranks: setup.ranks,
            stop: setup.stop,
            step: Step::FIRST,
        })
    }

    pub fn perform(&mut self, command: &TrainerCommand, reports: &Reports) -> Result<(), Failure> {
        match command {
            TrainerCommand::MeasureStage(measure) => self.measure(measure, reports),
            TrainerCommand::TrainChunk(train) => Chunk {
                train,
                data: &self.data,
                directory: &mut self.directory,
                ranks: &mut self.ranks,
                stop: &self.stop,
                reports,
                step: &mut self.step,
            }
            .run(&mut self.stages),
        }
    }

    /// After a failure: drops the trainer, whose weights may be half updated, and disconnects ranks that wait for this one.
    /// If another rank caused the failure, returns that as the failure.
    pub fn recover(&mut self, failure: Failure) -> Failure {
        self.stages.forget();
        let error = if let Failure::Ranks(error) = &failure {
            Some(error)
        } else {
            None
        };
        match (self.ranks.disconnect(error), self.stop.requested()) {
            // The others get the same signal, and may have exited first.
            (Some(_), Some(signal)) => Failure::Interrupted { signal },
            (Some(lost), None) => Failure::RankLost(lost),
            (None, _) => failure,
        }
    }

    /// Last update done.
    pub fn step(&self) -> Step {
        self.step
    }

    #[cfg(test)]
    pub fn data(&self) -> &Batches {
        &self.data
    }

    #[cfg(test)]
    pub fn data_mut(&mut self) -> &mut Batches {
        &mut self.data
    }

    fn measure(&self, measure: &MeasureStage, reports: &Reports) -> Result<(), Failure> {
        let measured = match known_model(&measure.model)? {
            ModelKind::VideoTokenizer | ModelKind::LatentActions => {
                measure::frames(&self.data, measure)?
            }
            ModelKind::Dynamics => {
                let (stage, upstream) = (&measure.stage, &measure.upstream);
                let upstream = self.stages.upstream(stage, upstream, &self.directory)?;
                measure::tokens(&self.data, measure, &upstream)?
            }
        };
        reports.fact(TrainerFact::StageMeasured(measured))
    }
}
