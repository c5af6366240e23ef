//! Which windows and masks a rank trains on, update by update, and the update itself. The same on every rank, but for
//! its share of the windows.

use std::num::NonZeroU32;

use super::super::ranks::Task;
use super::super::{MicroBatch, StageTrainer, UpdateMetrics, Wanted, learning_rate};
use super::Failure;
use super::measure::{frames_tensor, token_mask};
use super::session::Session;
use crate::data::order::{Order, samples_for};
use crate::presets::ModelKind;
use crate::random::Place;

/// A chunk on its way through the data.
pub(super) struct Samples {
    order: Order,
    /// Windows consumed by all ranks.
    pub seen: u64,
}

/// What an update came to.
pub(super) struct Updated {
    pub metrics: UpdateMetrics,
    /// The signal by which a rank was asked to stop here.
    pub stop: Option<String>,
}

impl Samples {
    pub fn new(session: &Session, task: &Task) -> Result<Samples, Failure> {
        let windows = u32::try_from(session.windows.train_len())
            .ok()
            .and_then(NonZeroU32::new);
        let windows = windows.ok_or_else(|| {
            Failure::Environment("the data has more windows than 2^32 - 1; split it".to_owned())
        })?;
        Ok(Samples {
            order: Order::new(
                session.config.seed,
                task.stage.as_str(),
                task.restart,
                windows,
            ),
            seen: task.samples_seen,
        })
    }

    /// One update: this rank's gradients, their mean over all ranks, the optimizer's step.
    pub fn update(
        &mut self,
        session: &Session,
        task: &Task,
        trainer: &mut StageTrainer,
        step: u64,
    ) -> Result<Updated, Failure> {
        let settings = &task.settings;
        let batch = u64::from(settings.batch_size_per_gpu);
        let accumulation = u64::from(settings.gradient_accumulation_steps);
        let (rank, size) = (session.ranks.rank(), session.ranks.size());
        let micro_batches = (0..accumulation)
            .map(|number| number * u64::from(size) + u64::from(rank))
            .map(|shard| self.micro_batch(session, task, step, shard, batch))
            .collect::<Result<Vec<_>, Failure>>()?;
        let logged = is_logged(task, step);
        let wanted = Wanted {
            actions: logged && task.model != ModelKind::VideoTokenizer,
            codebook: logged && task.model == ModelKind::VideoTokenizer,
        };
        let mut accumulated = trainer.accumulate(&micro_batches, wanted)?;
        let asked = session.ranks.mean(&mut accumulated, &session.stop)?;
        let metrics = trainer.apply(accumulated, rate(task, step))?;
        self.seen = self
            .seen
            .saturating_add(accumulation * u64::from(size) * batch);
        // Alone, a signal that came during the update counts at once; several agree on what they knew before it.
        let stop = if session.ranks.are_several() {
            asked.map(str::to_owned)
        } else {
            session.stop.requested()
        };
        Ok(Updated { metrics, stop })
    }

    fn micro_batch(
        &mut self,
        session: &Session,
        task: &Task,
        step: u64,
        shard: u64,
        batch: u64,
    ) -> Result<MicroBatch, Failure> {
        let samples = samples_for(self.seen, shard, batch);
        let ids: Vec<_> = self
            .order
            .windows(samples)
            .into_iter()
            .filter_map(|window| session.windows.train(window))
            .collect();
        let mask = (task.model == ModelKind::Dynamics).then(|| {
            let place = Place {
                seed: session.config.seed,
                stage: task.stage.as_str(),
                restart: task.restart,
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
}

/// Whether the metrics that are not logged at every update are at this one.
pub(super) fn is_logged(task: &Task, step: u64) -> bool {
    step.is_multiple_of(task.settings.log_interval.max(1)) || step == task.to
}

/// The rate of update u is f(u - 1).
pub(super) fn rate(task: &Task, step: u64) -> f64 {
    let settings = &task.settings;
    learning_rate(
        step.saturating_sub(1),
        settings.schedule_updates,
        settings.learning_rate.get(),
    )
}

/// A checkpoint stands on the grid of the chunk `(from, to]` and at its end.
pub(super) fn is_due(step: u64, from: u64, to: u64, interval: u64) -> bool {
    step == to || step.saturating_sub(from).is_multiple_of(interval)
}
