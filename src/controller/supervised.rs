//! Supervises a trainer: sends one command at a time, checks reports, limits silence.

use crate::events::{CheckpointJudged, ChunkFailure, Step};
use crate::machine::{JudgeCheckpoint, TrainChunk};
use crate::trainer::{
    CommandsGiven, Ended, Judge, NoProgress, Patience, Progress, Report, StopRequest, TICK,
    Trainer, TrainerCommand, TrainerError, TrainerFact, Verdict,
};

/// What a controller needs to drive a run.
pub struct Host<'a> {
    pub trainer: &'a dyn Trainer,
    pub judge: &'a dyn Judge,
    pub patience: Patience,
    /// Set by a signal; forwarded to the trainer.
    pub stop: &'a StopRequest,
}

pub(super) struct Supervised<'a> {
    host: Host<'a>,
    given: CommandsGiven,
    in_progress: Option<TrainerCommand>,
    /// The last update that the trainer reported for the current chunk.
    step: Step,
    stop_requested: bool,
}

/// The result of waiting for a trainer.
pub(super) enum Received {
    Fact(TrainerFact),
    Interrupted {
        signal: String,
    },
    Environment {
        detail: String,
    },
    NoProgress(NoProgress, Ended),
    /// It exited or sent nonsense, and was ended. The next command starts another.
    Broken {
        why: TrainerError,
        output: String,
    },
}

impl<'a> Supervised<'a> {
    pub fn new(host: Host<'a>) -> Supervised<'a> {
        Supervised {
            host,
            given: CommandsGiven::default(),
            in_progress: None,
            step: Step::FIRST,
            stop_requested: false,
        }
    }

    pub fn in_progress(&self) -> Option<&TrainerCommand> {
        self.in_progress.as_ref()
    }

    /// The current command, if it is a chunk.
    pub fn chunk(&self) -> Option<&TrainChunk> {
        match &self.in_progress {
            Some(TrainerCommand::TrainChunk(train)) => Some(train),
            Some(TrainerCommand::MeasureStage(_)) | None => None,
        }
    }

    /// The last update that the trainer reported for the current chunk.
    pub fn step(&self) -> Step {
        self.step
    }

    /// Sends a command, unless it is already in progress. `Some`: the trainer was ended instead.
    ///
    /// # Errors
    /// The trainer has exited, and can be ended only with this process.
    pub fn command(&mut self, command: TrainerCommand) -> Result<Option<Received>, TrainerError> {
        if self.in_progress.as_ref() == Some(&command) {
            return Ok(None);
        }
        self.given.add(&command);
        let stage = match &command {
            TrainerCommand::MeasureStage(measure) => &measure.stage,
            TrainerCommand::TrainChunk(train) => {
                self.step = train.start();
                &train.stage
            }
        };
        self.host.patience.begin(stage);
        self.in_progress = Some(command.clone());
        let sent = self.host.trainer.send(command);
        sent.map_or_else(|why| self.broken(why).map(Some), |()| Ok(None))
    }

    /// Ends a trainer that cannot be trusted any more.
    ///
    /// # Errors
    /// It can be ended only with this process.
    fn broken(&self, why: TrainerError) -> Result<Received, TrainerError> {
        match self.host.trainer.end() {
            Ended::Exited { output } => Ok(Received::Broken { why, output }),
            Ended::OnlyWithThisProcess => Err(why),
        }
    }

    /// Forgets the command in progress, since its trainer was ended.
    pub fn forget(&mut self) {
        self.in_progress = None;
    }

    /// Waits for a report that must be recorded; passes progress reports to `progressed`.
    ///
    /// # Errors
    /// The trainer has exited or its report is invalid, and it can be ended only with this process.
    pub fn receive(
        &mut self,
        mut progressed: impl FnMut(&Progress),
    ) -> Result<Received, TrainerError> {
        loop {
            self.forward_stop();
            let report = match self.host.trainer.receive(TICK) {
                Ok(report) => report,
                Err(why) => return self.broken(why),
            };
            let Some(report) = report else {
                match self.host.patience.waited() {
                    Ok(()) => continue,
                    Err(silent) => {
                        return Ok(Received::NoProgress(silent, self.host.trainer.end()));
                    }
                }
            };
            self.host.patience.reported();
            match report {
                Report::Progress(progress) => {
                    self.step = progress.step;
                    progressed(&progress);
                }
                Report::Fact(fact) => {
                    if let Err(why) = self.given.check(&fact) {
                        return self.broken(why.into());
                    }
                    if matches!(fact, TrainerFact::ChunkFinished(_)) {
                        self.host.patience.finished_chunk();
                    }
                    return Ok(Received::Fact(fact));
                }
                Report::Interrupted { signal } => return Ok(Received::Interrupted { signal }),
                Report::Environment { detail } => return Ok(Received::Environment { detail }),
            }
        }
    }

    fn forward_stop(&mut self) {
        if !self.stop_requested
            && let Some(signal) = self.host.stop.requested()
        {
            self.host.trainer.stop(&signal);
            self.stop_requested = true;
        }
    }

    pub fn judge(&self, asked: &JudgeCheckpoint) -> Verdict {
        self.host.judge.judge(asked, false)
    }

    /// The verdict that rejects the checkpoint from which the current chunk starts, if the chunk failed
    /// to load it.
    pub fn judge_start(&self, failure: &ChunkFailure) -> Option<CheckpointJudged> {
        let ChunkFailure::CheckpointUnloadable { path, .. } = failure else {
            return None;
        };
        let train = self.chunk()?;
        let resume = train.resume.as_ref()?;
        if resume.checkpoint.path != *path {
            return None;
        }
        let asked = JudgeCheckpoint {
            stage: train.stage.clone(),
            checkpoint: resume.checkpoint.clone(),
            files: resume.files.clone(),
        };
        match self.host.judge.judge(&asked, resume.fresh_optimizer) {
            Verdict::Judged(verdict) => Some(verdict).filter(|verdict| verdict.rejected.is_some()),
            Verdict::Absent { .. } => None,
        }
    }
}
