//! A trainer as the host supervises it: one command at a time, checked reports, limited silence.

use crate::events::{CheckpointJudged, ChunkFailure, Step};
use crate::machine::{JudgeCheckpoint, TrainChunk};
use crate::trainer::{
    CommandsGiven, Ended, Judge, NoProgress, Patience, Progress, Report, StopRequest, TICK,
    Trainer, TrainerCommand, TrainerError, TrainerFact, Verdict,
};

/// What a controller drives a run with.
pub struct Host<'a> {
    pub trainer: &'a dyn Trainer,
    pub judge: &'a dyn Judge,
    pub patience: Patience,
    /// Set by a signal; passed on to the trainer.
    pub stop: &'a StopRequest,
}

pub(super) struct Supervised<'a> {
    host: Host<'a>,
    given: CommandsGiven,
    under_way: Option<TrainerCommand>,
    /// Last update that it reported of the chunk under way.
    step: Step,
    told_to_stop: bool,
}

/// What came of waiting for a trainer.
pub(super) enum Heard {
    Fact(TrainerFact),
    Interrupted { signal: String },
    Environment { detail: String },
    NoProgress(NoProgress, Ended),
}

impl<'a> Supervised<'a> {
    pub fn new(host: Host<'a>) -> Supervised<'a> {
        Supervised {
            host,
            given: CommandsGiven::default(),
            under_way: None,
            step: Step::FIRST,
            told_to_stop: false,
        }
    }

    pub fn under_way(&self) -> Option<&TrainerCommand> {
        self.under_way.as_ref()
    }

    /// The chunk under way, if it is a chunk.
    pub fn chunk(&self) -> Option<&TrainChunk> {
        match &self.under_way {
            Some(TrainerCommand::TrainChunk(train)) => Some(train),
            Some(TrainerCommand::MeasureStage(_)) | None => None,
        }
    }

    /// Last update done of the chunk under way, as far as the trainer said.
    pub fn step(&self) -> Step {
        self.step
    }

    /// Gives a command, unless it is under way already.
    ///
    /// # Errors
    /// A trainer that is gone.
    pub fn command(&mut self, command: TrainerCommand) -> Result<(), TrainerError> {
        if self.under_way.as_ref() == Some(&command) {
            return Ok(());
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
        self.host.trainer.send(command.clone())?;
        self.under_way = Some(command);
        Ok(())
    }

    /// Forgets the command under way, since its trainer was ended.
    pub fn forget(&mut self) {
        self.under_way = None;
    }

    /// Waits for something that the log must know, and passes on what it need not.
    ///
    /// # Errors
    /// A trainer that is gone, or that says what it may not.
    pub fn hear(&mut self, mut progressed: impl FnMut(&Progress)) -> Result<Heard, TrainerError> {
        loop {
            self.pass_on_stop();
            let Some(report) = self.host.trainer.receive(TICK)? else {
                match self.host.patience.waited() {
                    Ok(()) => continue,
                    Err(silent) => return Ok(Heard::NoProgress(silent, self.host.trainer.end())),
                }
            };
            self.host.patience.heard();
            match report {
                Report::Progress(progress) => {
                    self.step = progress.step;
                    progressed(&progress);
                }
                Report::Fact(fact) => {
                    self.given.check(&fact)?;
                    if matches!(fact, TrainerFact::ChunkFinished(_)) {
                        self.host.patience.finished_chunk();
                    }
                    return Ok(Heard::Fact(fact));
                }
                Report::Interrupted { signal } => return Ok(Heard::Interrupted { signal }),
                Report::Environment { detail } => return Ok(Heard::Environment { detail }),
            }
        }
    }

    fn pass_on_stop(&mut self) {
        if !self.told_to_stop
            && let Some(signal) = self.host.stop.requested()
        {
            self.host.trainer.stop(&signal);
            self.told_to_stop = true;
        }
    }

    pub fn judge(&self, asked: &JudgeCheckpoint) -> Verdict {
        self.host.judge.judge(asked, false)
    }

    /// What is wrong with the checkpoint that the chunk under way starts from, where it failed by that.
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
