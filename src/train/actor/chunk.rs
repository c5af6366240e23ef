//! Trains one chunk: updates, samples, checkpoints, and what the gate looks at.

use std::time::Instant;

use crossbeam_channel::Sender;

use super::super::ranks::Task;
use super::super::{StageTrainer, UpdateMetrics};
use super::metrics::MetricBuffer;
use super::samples::{Samples, is_due, is_logged, rate};
use super::session::{Session, verdict};
use super::{Failure, scores, tell, weights};
use crate::checkpoint;
use crate::controller::{Progress, Report};
use crate::events::{
    CheckpointRef, CheckpointWritten, ChunkFinished, Event, FileRecord, Scalar, StageName, Step,
};
use crate::machine::TrainChunk;
use crate::units::bytes;

/// Free space that must be left beside a chunk's checkpoints before it begins.
const SPARE_BYTES: u64 = 16 << 20;
/// A parameter in a checkpoint: itself and two moments, each an f32.
const PARAMETER_BYTES: u64 = 3 * 4;

impl Session {
    /// Trains to the end of a chunk, or to where a signal stops it.
    pub(super) fn train(
        &mut self,
        train: &TrainChunk,
        reports: &Sender<Report>,
    ) -> Result<(), Failure> {
        self.set_step(train.start());
        self.hold_directory()?;
        let mut trainer = self.take_trainer(train)?;
        self.check_space(train, trainer.model().parameters().count() as u64)?;
        let mut at = train
            .resume
            .as_ref()
            .map(|resume| resume.checkpoint.clone());
        let task = Task::of(train, trainer.signature());
        let mut progress = ChunkProgress::new(self, train, &task, reports)?;
        self.ranks.begin(&task, &mut trainer)?;
        let from = Instant::now();

        for step in task.start + 1..=task.to {
            let updated = progress.samples.update(self, &task, &mut trainer, step)?;
            self.set_step(Step::new(step));
            progress.log(train, &task, step, &updated.metrics, reports)?;
            let due = is_due(step, task.from, task.to, task.settings.checkpoint_every());
            if due || updated.stop.is_some() {
                self.ranks.agree(&trainer)?;
                at = Some(progress.checkpoint(self, train, &task, &trainer, step, reports)?);
            }
            if let Some(signal) = updated.stop {
                self.ranks.rest();
                return reports
                    .send(Report::Interrupted { signal })
                    .map_err(|_| Failure::Alone);
            }
        }
        // No update is left where only the scores are missing.
        self.ranks.rest();

        tell(
            reports,
            Event::HeldOutScored(scores::losses(self, train, trainer.pipeline())?),
        )?;
        tell(
            reports,
            Event::PictureScored(scores::picture(self, train, trainer.pipeline())?),
        )?;
        let finished = ChunkFinished {
            stage: train.stage.clone(),
            chunk: train.chunk,
            attempt: train.attempt,
            step: train.to,
            samples_seen: progress.samples.seen,
            seconds: Scalar::new(from.elapsed().as_secs_f64()),
        };
        if let Some(at) = at {
            self.keep_trainer(train, at, trainer);
        }
        tell(reports, Event::ChunkFinished(finished))
    }

    /// All checkpoints of a chunk must fit before it begins: a full disk should stop
    /// a run between chunks, not inside one.
    fn check_space(&self, train: &TrainChunk, parameters: u64) -> Result<(), Failure> {
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
        let space = rustix::fs::statvfs(&self.directory).map_err(|error| {
            Failure::Environment(format!("`{}`: {error}", self.directory.display()))
        })?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < needed {
            return Err(Failure::Environment(format!(
                "not enough space in `{}`: {} are free, {} are needed ({written} checkpoints of about {}, and {} to \
                 spare)",
                self.directory.display(),
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

/// What moves on with every update of a chunk.
struct ChunkProgress {
    samples: Samples,
    buffer: MetricBuffer,
    /// When the throughput was last measured, and updates since.
    since: Instant,
    updates: u64,
    rate: f64,
}

impl ChunkProgress {
    fn new(
        session: &Session,
        train: &TrainChunk,
        task: &Task,
        reports: &Sender<Report>,
    ) -> Result<ChunkProgress, Failure> {
        Ok(ChunkProgress {
            samples: Samples::new(session, task)?,
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
        reports: &Sender<Report>,
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
        reports
            .send(Report::Progress(progress))
            .map_err(|_| Failure::Alone)
    }

    /// Writes a checkpoint, reads it back and says what it is worth. The samples up
    /// to it go first, so that no resume finds weights whose samples are missing.
    fn checkpoint(
        &mut self,
        session: &Session,
        train: &TrainChunk,
        task: &Task,
        trainer: &StageTrainer,
        step: u64,
        reports: &Sender<Report>,
    ) -> Result<CheckpointRef, Failure> {
        self.buffer.flush()?;
        let folder = format!("{}/checkpoints", train.stage);
        let name = free_name(&train.stage, &folder, step, &train.taken);
        let content = weights::content(trainer, train, step, self.samples.seen, rate(task, step))?;
        session.in_place()?;
        let written = checkpoint::write(&session.directory.join(&folder), &name, &content)?;
        let files: Vec<FileRecord> = written.files.into_iter().map(Into::into).collect();
        let reference = CheckpointRef {
            path: format!("{folder}/{name}"),
            step: Step::new(step),
        };
        tell(
            reports,
            Event::CheckpointWritten(CheckpointWritten {
                stage: train.stage.clone(),
                chunk: train.chunk,
                attempt: train.attempt,
                checkpoint: reference.clone(),
                samples_seen: self.samples.seen,
                files: files.clone(),
            }),
        )?;
        let accepted = session.accept(&reference, &files);
        tell(
            reports,
            Event::CheckpointJudged(verdict(&train.stage, &reference, accepted)),
        )?;
        Ok(reference)
    }
}

/// `<stage>_step_<updates done>`, and a number behind it when an event names that already.
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
    fn as_many_checkpoints_are_counted_as_are_written() {
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
