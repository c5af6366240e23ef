//! Trains one chunk: updates, samples, checkpoints, and what the gate looks at.

use std::num::NonZeroU32;
use std::time::Instant;

use crossbeam_channel::Sender;

use super::super::{MicroBatch, StageTrainer, UpdateMetrics, Wanted, learning_rate};
use super::measure::{frames_tensor, token_mask};
use super::metrics::MetricBuffer;
use super::session::{Session, verdict};
use super::{Failure, scores, tell, weights};
use crate::checkpoint;
use crate::controller::{Progress, Report};
use crate::data::order::{Order, samples_for};
use crate::events::{
    CheckpointRef, CheckpointWritten, ChunkFinished, Event, FileRecord, ModelKind, Scalar,
    StageName, Step,
};
use crate::machine::TrainChunk;
use crate::random::Place;

/// Free space that must be left beside a chunk's checkpoints before it begins.
const SPARE_BYTES: u64 = 16 << 20;
/// A parameter in a checkpoint: itself and two moments, each an f32.
const PARAMETER_BYTES: u64 = 3 * 4;
/// A chunk's checkpoints stand at every fifth of it where the config does not say.
const CHECKPOINTS_A_CHUNK: u64 = 5;
/// Ranks of this process's run: it is the only one.
const WORLD_SIZE: u64 = 1;

impl Session {
    /// Trains to the end of a chunk, or to where a signal stops it.
    pub(super) fn train(
        &mut self,
        train: &TrainChunk,
        reports: &Sender<Report>,
    ) -> Result<(), Failure> {
        self.set_step(train.start());
        let mut trainer = self.take_trainer(train)?;
        self.check_space(train, trainer.learner().parameters().count() as u64)?;
        let mut at = train
            .resume
            .as_ref()
            .map(|resume| resume.checkpoint.clone());
        let mut progress = ChunkProgress::new(self, train)?;
        let from = Instant::now();

        for step in train.start().get() + 1..=train.to.get() {
            progress.update(self, train, &mut trainer, step, reports)?;
            self.set_step(Step::new(step));
            let due = is_due(step, train.from.get(), train.to.get(), interval(train));
            let signal = self.stop.requested();
            if due || signal.is_some() {
                at = Some(progress.checkpoint(self, train, &trainer, step, reports)?);
            }
            if let Some(signal) = signal {
                return reports
                    .send(Report::Interrupted { signal })
                    .map_err(|_| Failure::Alone);
            }
        }

        tell(
            reports,
            Event::HeldOutScored(scores::losses(self, train, &trainer)?),
        )?;
        tell(
            reports,
            Event::PictureScored(scores::picture(self, train, &trainer)?),
        )?;
        let finished = ChunkFinished {
            stage: train.stage.clone(),
            chunk: train.chunk,
            attempt: train.attempt,
            step: train.to,
            samples_seen: progress.samples_seen,
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
            interval(train),
        );
        let needed = each.saturating_mul(written).saturating_add(SPARE_BYTES);
        let space = rustix::fs::statvfs(&self.directory).map_err(|error| {
            Failure::Environment(format!("`{}`: {error}", self.directory.display()))
        })?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < needed {
            return Err(Failure::Environment(format!(
                "{free} bytes are free in `{}`, and the chunk's checkpoints ({written}) need {needed}",
                self.directory.display()
            )));
        }
        Ok(())
    }
}

/// Updates between two checkpoints of a chunk.
fn interval(train: &TrainChunk) -> u64 {
    let fifth = train.settings.chunk_size / CHECKPOINTS_A_CHUNK;
    train.settings.checkpoint_interval.unwrap_or(fifth).max(1)
}

/// A checkpoint stands on the grid of the chunk `(from, to]` and at its end.
fn is_due(step: u64, from: u64, to: u64, interval: u64) -> bool {
    step == to || step.saturating_sub(from).is_multiple_of(interval)
}

/// Checkpoints due in `(start, to]` of the chunk `(from, to]`.
fn due_between(start: u64, from: u64, to: u64, interval: u64) -> u64 {
    let on_grid = |step: u64| step.saturating_sub(from) / interval;
    let end_is_off = !to.saturating_sub(from).is_multiple_of(interval);
    on_grid(to) - on_grid(start.min(to)) + u64::from(end_is_off && start < to)
}

/// What moves on with every update of a chunk.
struct ChunkProgress {
    order: Order,
    buffer: MetricBuffer,
    samples_seen: u64,
    /// When the throughput was last measured, and updates since.
    since: Instant,
    updates: u64,
    rate: f64,
}

impl ChunkProgress {
    fn new(session: &Session, train: &TrainChunk) -> Result<ChunkProgress, Failure> {
        let windows = u32::try_from(session.windows.train_len())
            .ok()
            .and_then(NonZeroU32::new);
        let windows = windows.ok_or_else(|| {
            Failure::Environment("the data has more windows than 2^32 - 1; split it".to_owned())
        })?;
        let restart = u64::from(train.restart.get());
        Ok(ChunkProgress {
            order: Order::new(session.config.seed, train.stage.as_str(), restart, windows),
            buffer: MetricBuffer::new(),
            samples_seen: train
                .resume
                .as_ref()
                .map_or(0, |resume| resume.samples_seen),
            since: Instant::now(),
            updates: 0,
            rate: 0.0,
        })
    }

    fn update(
        &mut self,
        session: &Session,
        train: &TrainChunk,
        trainer: &mut StageTrainer,
        step: u64,
        reports: &Sender<Report>,
    ) -> Result<(), Failure> {
        let settings = &train.settings;
        let batch = u64::from(settings.batch_size_per_gpu);
        let shards = u64::from(settings.gradient_accumulation_steps) * WORLD_SIZE;
        let micro_batches = (0..shards)
            .map(|shard| self.micro_batch(session, train, step, shard, batch))
            .collect::<Result<Vec<_>, Failure>>()?;
        let rate = rate(train, step);
        let logged = step.is_multiple_of(settings.log_interval.max(1)) || step == train.to.get();
        let wanted = Wanted {
            actions: logged && train.model != ModelKind::VideoTokenizer,
            codebook: logged && train.model == ModelKind::VideoTokenizer,
        };
        let measured = trainer.update(&micro_batches, rate, wanted)?;
        self.samples_seen = self.samples_seen.saturating_add(shards * batch);
        self.log(train, step, rate, &measured, logged, reports)
    }

    fn micro_batch(
        &mut self,
        session: &Session,
        train: &TrainChunk,
        step: u64,
        shard: u64,
        batch: u64,
    ) -> Result<MicroBatch, Failure> {
        let samples = samples_for(self.samples_seen, shard, batch);
        let ids: Vec<_> = self
            .order
            .windows(samples)
            .into_iter()
            .filter_map(|window| session.windows.train(window))
            .collect();
        let mask = (train.model == ModelKind::Dynamics).then(|| {
            let place = Place {
                seed: session.config.seed,
                stage: train.stage.as_str(),
                restart: u64::from(train.restart.get()),
                update: step,
                shard,
                purpose: "mask",
            };
            token_mask(session, ids.len(), place)
        });
        Ok(MicroBatch {
            frames: frames_tensor(session, &ids)?,
            mask,
        })
    }

    fn log(
        &mut self,
        train: &TrainChunk,
        step: u64,
        rate: f64,
        measured: &UpdateMetrics,
        logged: bool,
        reports: &Sender<Report>,
    ) -> Result<(), Failure> {
        self.updates += 1;
        let seconds = self.since.elapsed().as_secs_f64();
        if logged && 0.0 < seconds {
            self.rate = self.updates as f64 / seconds;
            self.since = Instant::now();
            self.updates = 0;
        }
        self.buffer
            .add(step, rate, measured, logged.then_some(self.rate));
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
            .map_err(|_| Failure::Alone)?;
        if self.buffer.is_due() {
            self.flush(train, reports)
        } else {
            Ok(())
        }
    }

    fn flush(&mut self, train: &TrainChunk, reports: &Sender<Report>) -> Result<(), Failure> {
        match self.buffer.flush(train) {
            Some(event) => tell(reports, event),
            None => Ok(()),
        }
    }

    /// Writes a checkpoint, reads it back and says what it is worth. The samples up
    /// to it go first, so that no resume finds weights whose samples are missing.
    fn checkpoint(
        &mut self,
        session: &Session,
        train: &TrainChunk,
        trainer: &StageTrainer,
        step: u64,
        reports: &Sender<Report>,
    ) -> Result<CheckpointRef, Failure> {
        self.flush(train, reports)?;
        let folder = format!("{}/checkpoints", train.stage);
        let name = free_name(&train.stage, &folder, step, &train.taken);
        let content = weights::content(trainer, train, step, self.samples_seen, rate(train, step))?;
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
                samples_seen: self.samples_seen,
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

/// The rate of update u is f(u - 1).
fn rate(train: &TrainChunk, step: u64) -> f64 {
    let settings = &train.settings;
    learning_rate(
        step.saturating_sub(1),
        settings.schedule_updates,
        settings.learning_rate.get(),
    )
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
