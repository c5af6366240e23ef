//! Trains one chunk: updates, samples, checkpoints, and the scores for the gate.

use std::time::Instant;

use super::super::ranks::{Ranks, Task};
use super::super::{StageTrainer, UpdateMetrics};
use super::batches::Batches;
use super::directory::RunDirectory;
use super::failure::{Failure, known_model};
use super::metrics::MetricBuffer;
use super::reports::Reports;
use super::samples::{Samples, is_due, is_logged, rate};
use super::stages::Stages;
use super::{scores, weights};
use crate::events::{CheckpointRef, CheckpointWritten, ChunkFinished, Scalar, StageName, Step};
use crate::machine::TrainChunk;
use crate::numbers::bytes;
use crate::trainer::{Progress, StopRequest, TrainerFact};

/// Free space that a chunk needs in addition to its checkpoints.
const SPARE_BYTES: u64 = 16 << 20;
/// A parameter in a checkpoint: itself and two moments, each an f32.
const PARAMETER_BYTES: u64 = 3 * 4;

/// A chunk, and what it is trained with.
pub(super) struct Chunk<'a> {
    pub train: &'a TrainChunk,
    pub data: &'a Batches,
    pub directory: &'a mut RunDirectory,
    pub ranks: &'a mut Ranks,
    pub stop: &'a StopRequest,
    pub reports: &'a Reports,
    /// Last update done.
    pub step: &'a mut Step,
}

impl Chunk<'_> {
    /// Trains to the end of the chunk, or until a signal stops it.
    pub fn run(mut self, stages: &mut Stages) -> Result<(), Failure> {
        let train = self.train;
        *self.step = train.start();
        self.directory.hold()?;
        let mut trainer = stages.take(train, self.directory)?;
        self.check_space(trainer.model().parameters().count() as u64)?;
        let task = Task::of(train, known_model(&train.model)?, trainer.signature());
        let mut samples = Samples::new(self.data, &task, self.stop)?;
        let mut progress = ChunkProgress::new(train, self.reports)?;
        self.ranks.begin(&task, &mut trainer)?;
        let from = Instant::now();
        let trained = self.updates(&task, &mut trainer, &mut samples, &mut progress);
        let at = match trained? {
            Trained::ToTheEnd(at) => at,
            Trained::Interrupted { signal } => {
                self.ranks.rest();
                return self.reports.interrupted(signal);
            }
        };
        // Rank 0 scores alone.
        self.ranks.rest();

        let pipeline = trainer.pipeline();
        let scored = scores::losses(self.data, train, pipeline)?;
        self.reports.fact(TrainerFact::HeldOutScored(scored))?;
        let scored = scores::picture(self.data, self.directory, train, pipeline)?;
        self.reports.fact(TrainerFact::PictureScored(scored))?;
        let finished = ChunkFinished {
            stage: train.stage.clone(),
            chunk: train.chunk,
            attempt: train.attempt,
            step: train.to,
            samples_seen: samples.seen(),
            seconds: Scalar::new(from.elapsed().as_secs_f64()),
        };
        if let Some(at) = at {
            stages.keep(train, at, trainer);
        }
        self.reports.fact(TrainerFact::ChunkFinished(finished))
    }

    fn updates(
        &mut self,
        task: &Task,
        trainer: &mut StageTrainer,
        samples: &mut Samples<'_>,
        progress: &mut ChunkProgress,
    ) -> Result<Trained, Failure> {
        let resumed = self.train.resume.as_ref();
        let mut at = resumed.map(|resume| resume.checkpoint.clone());
        for step in task.start + 1..=task.to {
            let others = self.ranks.exchange()?;
            let updated = samples.update(trainer, step, others)?;
            *self.step = Step::new(step);
            progress.log(self.train, task, step, &updated.metrics, self.reports)?;
            let due = is_due(step, task.from, task.to, task.settings.checkpoint_every());
            if due || updated.stop.is_some() {
                if let Some(exchange) = others {
                    exchange.agree(trainer)?;
                }
                progress.buffer.flush()?;
                at = Some(self.checkpoint(task, trainer, step, samples.seen())?);
            }
            if let Some(signal) = updated.stop {
                return Ok(Trained::Interrupted { signal });
            }
        }
        Ok(Trained::ToTheEnd(at))
    }

    /// Writes a checkpoint and reports it. The samples up to it must have been reported,
    /// so that no resume finds weights whose samples are missing.
    fn checkpoint(
        &self,
        task: &Task,
        trainer: &StageTrainer,
        step: u64,
        samples_seen: u64,
    ) -> Result<CheckpointRef, Failure> {
        let train = self.train;
        let folder = format!("{}/checkpoints", train.stage);
        let name = free_name(&train.stage, &folder, step, &train.taken);
        let content = weights::content(trainer, train, step, samples_seen, rate(task, step))?;
        let step = Step::new(step);
        let (checkpoint, files) = self
            .directory
            .write_checkpoint(&folder, &name, step, &content)?;
        self.reports
            .fact(TrainerFact::CheckpointWritten(CheckpointWritten {
                stage: train.stage.clone(),
                chunk: train.chunk,
                attempt: train.attempt,
                checkpoint: checkpoint.clone(),
                samples_seen,
                files,
            }))?;
        Ok(checkpoint)
    }

    /// Checks that all checkpoints of the chunk fit on the disk: a full disk should stop
    /// a run between chunks, not inside one.
    fn check_space(&self, parameters: u64) -> Result<(), Failure> {
        let train = self.train;
        let last: u64 = train
            .resume
            .iter()
            .flat_map(|resume| &resume.files)
            .map(|file| file.size)
            .sum();
        let each = last.max(parameters.saturating_mul(PARAMETER_BYTES));
        let written = due_between(
            train.start().get(),
            train.from.get(),
            train.to.get(),
            train.settings.checkpoint_every(),
        );
        let needed = each.saturating_mul(written).saturating_add(SPARE_BYTES);
        let free = self.directory.free_bytes()?;
        if free < needed {
            return Err(Failure::Environment(format!(
                "not enough space in `{}`: {} are free, {} are needed ({written} checkpoints of about {}, and {} to \
                 spare)",
                self.directory.path().display(),
                bytes(free),
                bytes(needed),
                bytes(each),
                bytes(SPARE_BYTES)
            )));
        }
        Ok(())
    }
}

/// Checkpoints due in `(start, to]` of the chunk `(from, to]`.
fn due_between(start: u64, from: u64, to: u64, interval: u64) -> u64 {
    let on_grid = |step: u64| step.saturating_sub(from) / interval;
    let end_is_off = !to.saturating_sub(from).is_multiple_of(interval);
    on_grid(to) - on_grid(start.min(to)) + u64::from(end_is_off && start < to)
}

/// How a chunk's updates ended.
enum Trained {
    /// At the end of the chunk, with the checkpoint of the last weights, if there is one.
    ToTheEnd(Option<CheckpointRef>),
    Interrupted {
        signal: String,
    },
}

/// The samples and the throughput of a chunk.
struct ChunkProgress {
    buffer: MetricBuffer,
    /// When the throughput was last measured, and updates since.
    since: Instant,
    updates: u64,
    rate: f64,
}

impl ChunkProgress {
    fn new(train: &TrainChunk, reports: &Reports) -> Result<ChunkProgress, Failure> {
        Ok(ChunkProgress {
            buffer: MetricBuffer::new(train, reports)?,
            since: Instant::now(),
            updates: 0,
            rate: 0.0,
        })
    }

    fn log(
        &mut self,
        train: &TrainChunk,
        task: &Task,
        step: u64,
        measured: &UpdateMetrics,
        reports: &Reports,
    ) -> Result<(), Failure> {
        let logged = is_logged(task, step);
        self.updates += 1;
        let seconds = self.since.elapsed().as_secs_f64();
        if logged && 0.0 < seconds {
            self.rate = self.updates as f64 / seconds;
            self.since = Instant::now();
            self.updates = 0;
        }
        self.buffer.add(
            step,
            rate(task, step),
            measured,
            logged.then_some(self.rate),
        )?;
        let progress = Progress {
            stage: train.stage.clone(),
            step: Step::new(step),
            gate: train.to,
            target: Step::new(train.settings.n_updates),
            loss: measured.loss,
            updates_per_second: if 0.0 < self.rate {
                self.rate
            } else {
                self.updates as f64 / seconds.max(1e-9)
            },
        };
        reports.progress(progress)
    }
}

/// `<stage>_step_<updates done>`, followed by a number if an event references that name already.
fn free_name(stage: &StageName, folder: &str, step: u64, taken: &[String]) -> String {
    let plain = format!("{stage}_step_{step}");
    let is_taken = |name: &String| taken.contains(&format!("{folder}/{name}"));
    let numbered = (2..=taken.len() + 1).map(|number| format!("{plain}_{number}"));
    std::iter::once(plain.clone())
        .chain(numbered)
        .find(|name| !is_taken(name))
        .unwrap_or(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_checkpoints_matches_what_is_written() {
        for (from, to, interval) in [
            (0, 20, 4),
            (0, 20, 7),
            (150, 160, 4),
            (5, 6, 1),
            (0, 9, 100),
        ] {
            for start in from..=to {
                let written = (start + 1..=to).filter(|step| is_due(*step, from, to, interval));
                let counted = due_between(start, from, to, interval);
                assert_eq!(
                    counted,
                    written.count() as u64,
                    "({from}, {to}] from {start} by {interval}"
                );
            }
        }
    }
}
