//! The windows and masks of each update, and the update itself. All ranks do the same with different windows.

use super::super::ranks::{Exchange, Task};
use super::super::{MicroBatch, StageTrainer, UpdateMetrics, Wanted, learning_rate};
use super::batches::Batches;
use super::failure::Failure;
use crate::data::order::{Order, samples_for};
use crate::presets::ModelKind;
use crate::random::StreamKey;
use crate::trainer::StopRequest;

/// The updates of a task, one after the other.
pub(super) struct Samples<'a> {
    data: &'a Batches,
    task: &'a Task,
    stop: &'a StopRequest,
    order: Order,
    seen: u64,
}

/// What an update did.
pub(super) struct Updated {
    pub metrics: UpdateMetrics,
    /// The signal that asked a rank to stop after this update.
    pub stop: Option<String>,
}

impl<'a> Samples<'a> {
    pub fn new(
        data: &'a Batches,
        task: &'a Task,
        stop: &'a StopRequest,
    ) -> Result<Samples<'a>, Failure> {
        Ok(Samples {
            data,
            task,
            stop,
            order: data.order(&task.stage, task.restart)?,
            seen: task.samples_seen,
        })
    }

    /// Windows consumed by all ranks.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// One update: this rank's gradients, their mean over all ranks, the optimizer's step. `others` is `None` if this rank
    /// is the only one.
    pub fn update(
        &mut self,
        trainer: &mut StageTrainer,
        step: u64,
        others: Option<&Exchange>,
    ) -> Result<Updated, Failure> {
        let task = self.task;
        let batch = u64::from(task.settings.batch_size_per_gpu);
        let accumulation = u64::from(task.settings.gradient_accumulation_steps);
        let (rank, size) = others.map_or((0, 1), |exchange| (exchange.rank(), exchange.size()));
        let micro_batches = (0..accumulation)
            .map(|number| number * u64::from(size) + u64::from(rank))
            .map(|shard| self.micro_batch(step, shard, batch))
            .collect::<Result<Vec<_>, Failure>>()?;
        let logged = is_logged(task, step);
        let wanted = Wanted {
            actions: logged && task.model != ModelKind::VideoTokenizer,
            codebook: logged && task.model == ModelKind::VideoTokenizer,
        };
        let mut accumulated = trainer.accumulate(&micro_batches, wanted)?;
        let agreed = match others {
            Some(exchange) => exchange.mean(&mut accumulated, self.stop.requested().as_deref())?,
            None => None,
        };
        let metrics = trainer.apply(accumulated, rate(task, step))?;
        self.seen = self
            .seen
            .saturating_add(accumulation * u64::from(size) * batch);
        // A single rank stops at once for a signal that arrived during the update. Several ranks only agree on signals that
        // arrived before they exchanged gradients.
        let stop = match others {
            Some(_) => agreed.map(str::to_owned),
            None => self.stop.requested(),
        };
        Ok(Updated { metrics, stop })
    }

    fn micro_batch(&mut self, step: u64, shard: u64, batch: u64) -> Result<MicroBatch, Failure> {
        let samples = samples_for(self.seen, shard, batch);
        let ids: Vec<_> = self
            .order
            .windows(samples)
            .into_iter()
            .filter_map(|window| self.data.windows().train(window))
            .collect();
        let key = StreamKey {
            seed: self.data.seed(),
            stage: self.task.stage.as_str(),
            restart: self.task.restart,
            update: step,
            shard,
            purpose: "mask",
        };
        self.data.micro_batch(self.task.model, &ids, key)
    }
}

/// Whether this update logs the metrics that are not logged at every update.
pub(super) fn is_logged(task: &Task, step: u64) -> bool {
    step.is_multiple_of(task.settings.log_interval.max(1)) || step == task.to
}

/// The learning rate of update `step`: the schedule counts from 0.
pub(super) fn rate(task: &Task, step: u64) -> f64 {
    let settings = &task.settings;
    learning_rate(
        step.saturating_sub(1),
        settings.schedule_updates,
        settings.learning_rate.get(),
    )
}

/// Whether a checkpoint is written after `step`: on the grid of the chunk `(from, to]` and at its end.
pub(super) fn is_due(step: u64, from: u64, to: u64, interval: u64) -> bool {
    step == to || step.saturating_sub(from).is_multiple_of(interval)
}
