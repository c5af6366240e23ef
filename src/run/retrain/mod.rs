//! Trains the recorded chunks of a run again, each from its recorded checkpoint and by the machine's
//! command of then, and compares every sample and every file with the log.
//!
//! Nothing is written into the run: checkpoints and pictures go to a scratch folder. A checkpoint that
//! retention deleted is replaced by the one that was just trained again, if it has the recorded hashes.

mod compare;
mod error;
mod recorded;

use std::error::Error;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

pub use compare::{Comparison, Difference};
pub use error::RetrainError;
pub use recorded::{End, FileHash, Found, Recorded, chunks};

use super::error::EmptyLog;
use super::read::read;
use crate::checkpoint;
use crate::config::{Config, Override};
use crate::events::{ChunkFailed, Event, HeldOutBatches, ProcessStarted, Record, StageName, Step};
use crate::machine::{Machine, RunState, TrainChunk};
use crate::trainer::{Report, TICK, Trainer, TrainerCommand, TrainerFact};

/// Which chunks to train again, and with what.
#[derive(Clone, Debug, Default)]
pub struct Retrain {
    /// Those of one stage only.
    pub stage: Option<StageName>,
    /// Those with these numbers only.
    pub chunks: Option<RangeInclusive<u32>>,
    /// Where the data is now, the device, the threads.
    pub changes: Vec<Override>,
}

/// The chunks to train again, in order.
pub struct Plan {
    /// The run's, with this process's data, device and threads.
    pub config: Config,
    pub held_out: HeldOutBatches,
    pub chunks: Vec<Recorded>,
}

impl Retrain {
    /// Reads the log of a run.
    ///
    /// # Errors
    /// A log that cannot be read, a stage that the run does not have, a setting that may not change.
    pub fn plan(&self, run: &Path) -> Result<Plan, RetrainError> {
        let records: Vec<Record> = read(run)?.collect::<Result<_, _>>()?;
        let mut machine = Machine::default();
        for record in &records {
            machine.apply(&record.event);
        }
        let state = machine.into_state();
        let Some(created) = &state.created else {
            return Err(EmptyLog::at(run).into());
        };
        let original = Config::from_json(&created.config)?;
        let stages = state.stages.iter();
        let in_force = stages.map(|stage| (stage.name(), &stage.settings));
        let max_retries = created.policy.max_retries;
        let changed = original.resume(in_force, max_retries, &self.changes)?;
        if let Some(setting) = changed.settings.first() {
            return Err(RetrainError::SettingFixed {
                stage: setting.stage.clone(),
                key: setting.key.as_str().to_owned(),
            });
        }
        Ok(Plan {
            config: Config {
                policy: original.policy,
                ..changed.config
            },
            held_out: created.held_out_batches,
            chunks: self.chosen(&records, &state)?,
        })
    }

    fn chosen(&self, records: &[Record], state: &RunState) -> Result<Vec<Recorded>, RetrainError> {
        let mut names = state.stages.iter().map(|stage| stage.name());
        if let Some(wanted) = &self.stage
            && names.all(|name| name != wanted)
        {
            let stages = state.stages.iter();
            return Err(RetrainError::UnknownStage {
                stage: wanted.clone(),
                known: stages.map(|stage| stage.name().clone()).collect(),
            });
        }
        let is_chosen = |recorded: &Recorded| {
            let TrainChunk { stage, chunk, .. } = &recorded.command;
            let of_stage = self.stage.as_ref().is_none_or(|wanted| stage == wanted);
            let range = self.chunks.as_ref();
            of_stage && range.is_none_or(|range| range.contains(&chunk.get()))
        };
        Ok(chunks(records).into_iter().filter(is_chosen).collect())
    }
}

/// A trainer that has just been started, and its process as a log would record it.
pub struct StartedTrainer {
    pub trainer: Box<dyn Trainer>,
    pub process: ProcessStarted,
}

/// Starts a trainer of this many ranks that writes into the scratch folder.
pub type Start<'a> = dyn FnMut(u32) -> Result<StartedTrainer, Box<dyn Error + Send + Sync>> + 'a;

/// Trains chunks again in a scratch folder.
pub struct Retraining<'a> {
    run: PathBuf,
    scratch: PathBuf,
    start: &'a mut Start<'a>,
    /// Of as many ranks as the last chunk was trained by: with others, sums are taken in another order.
    started: Option<(u32, StartedTrainer)>,
}

/// What became of one recorded chunk.
#[derive(Debug)]
pub enum Retrained {
    Compared {
        comparison: Comparison,
        /// This process.
        process: ProcessStarted,
    },
    Skipped(Skipped),
}

/// Why a chunk was not trained again, or not compared.
#[derive(Clone, Debug, PartialEq)]
pub enum Skipped {
    Unfinished,
    Failed(ChunkFailed),
    /// It was resumed where it began, or before, so that nothing of it counts.
    Superseded,
    /// Its checkpoint was deleted, and the chunk before was not trained again.
    NoCheckpoint {
        path: String,
    },
    NotUnicode {
        path: PathBuf,
    },
    /// The second time.
    FailedAgain(ChunkFailed),
}

impl<'a> Retraining<'a> {
    /// # Errors
    /// A working directory that cannot be found.
    pub fn new(
        run: &Path,
        scratch: &Path,
        start: &'a mut Start<'a>,
    ) -> Result<Retraining<'a>, RetrainError> {
        let absolute = std::path::absolute(run).map_err(|source| RetrainError::NotFound {
            run: run.to_owned(),
            source,
        })?;
        Ok(Retraining {
            run: absolute,
            scratch: scratch.to_owned(),
            start,
            started: None,
        })
    }

    /// Trains a chunk again and compares. `begun` is called when training begins. `None`: the trainer
    /// was asked to stop.
    ///
    /// # Errors
    /// A trainer that cannot be started, is lost, or says that the machine cannot continue.
    pub fn retrain(
        &mut self,
        chunk: &Recorded,
        begun: &mut dyn FnMut(&Recorded),
    ) -> Result<Option<Retrained>, RetrainError> {
        let skipped = |why| Ok(Some(Retrained::Skipped(why)));
        if let Some(why) = not_comparable(chunk) {
            return skipped(why);
        }
        let command = match self.command(&chunk.command) {
            Ok(command) => command,
            Err(why) => return skipped(why),
        };
        begun(chunk);
        let started = self.trainer(chunk.ranks())?;
        let (trainer, process) = (started.trainer.as_ref(), started.process.clone());
        trainer.send(TrainerCommand::TrainChunk(Box::new(command)))?;
        let mut found = Found::default();
        loop {
            let Some(report) = trainer.receive(TICK)? else {
                continue;
            };
            match report {
                Report::Progress(_) => {}
                Report::Interrupted { .. } => return Ok(None),
                Report::Environment { detail } => {
                    return Err(RetrainError::Environment { detail });
                }
                Report::Fact(TrainerFact::ChunkFinished(_)) => break,
                Report::Fact(TrainerFact::ChunkFailed(failed)) => {
                    return skipped(Skipped::FailedAgain(failed));
                }
                Report::Fact(fact) => found.add(&Event::from(fact)),
            }
        }
        if let End::Resumed { after } = chunk.end {
            found.supersede(after);
        }
        self.remove_old(&chunk.command);
        Ok(Some(Retrained::Compared {
            comparison: Comparison::of(&chunk.found, &found),
            process,
        }))
    }

    fn trainer(&mut self, ranks: u32) -> Result<&StartedTrainer, RetrainError> {
        let started = match self.started.take() {
            Some((found, started)) if found == ranks => started,
            Some(_) | None => (self.start)(ranks).map_err(RetrainError::Start)?,
        };
        let (_, started) = self.started.insert((ranks, started));
        Ok(started)
    }

    /// The recorded command, with paths that hold from the scratch folder.
    fn command(&self, recorded: &TrainChunk) -> Result<TrainChunk, Skipped> {
        let mut command = recorded.clone();
        if let Some(resume) = &mut command.resume {
            let path = &mut resume.checkpoint.path;
            let of_run = self.run.join(&*path);
            if of_run.exists() {
                *path = text(&of_run)?;
            } else if !self.scratch.join(&*path).is_dir() {
                return Err(Skipped::NoCheckpoint { path: path.clone() });
            }
        }
        for upstream in &mut command.upstream {
            let path = &mut upstream.checkpoint.path;
            *path = text(&self.run.join(&*path))?;
        }
        Ok(command)
    }

    /// Removes the checkpoints that the chunks before this one wrote.
    fn remove_old(&self, last: &TrainChunk) {
        let folder = self.scratch.join(last.stage.as_str()).join("checkpoints");
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| is_before(name, last.from)) {
                // What stays takes up space, which the next chunk checks before it writes.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Why there is nothing in a recorded chunk to compare with.
fn not_comparable(chunk: &Recorded) -> Option<Skipped> {
    match &chunk.end {
        End::Open => Some(Skipped::Unfinished),
        End::Failed(failed) => Some(Skipped::Failed(failed.clone())),
        End::Resumed { after } if *after <= chunk.command.start() => Some(Skipped::Superseded),
        End::Resumed { .. } | End::Finished => None,
    }
}

/// Whether a checkpoint of this name is older than the end of a chunk that begins after `from`.
fn is_before(name: &str, from: Step) -> bool {
    checkpoint::step_name(name).is_some_and(|named| named.step <= from.get())
}

/// A path as a command has it.
fn text(path: &Path) -> Result<String, Skipped> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Skipped::NotUnicode {
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, from: u64, before: bool) {
        assert_eq!(
            is_before(name, Step::new(from)),
            before,
            "{name} from {from}"
        );
    }

    #[test]
    fn only_checkpoints_before_the_chunk_are_removed() {
        check("dynamics_step_60", 60, true);
        check("dynamics_step_80", 60, false);
        check("dynamics_step_60_2", 60, true);
        // The next chunk begins from the second checkpoint at update 80.
        check("dynamics_step_80_2", 60, false);
        check("a_step_9_step_80_12", 60, false);
        check("best", 60, false);
    }
}
