//! Gathers samples in columns and reports them in blocks.
//!
//! A block is flushed when it is full, before a checkpoint, and [`WAIT_MAX`] after its first sample, by a thread if an
//! update takes longer than that. Invariant: facts keep their order, because the lock on the block is held until the block
//! is sent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::events::{Column, MetricsLogged, Scalar, Steps, metric};
use crate::machine::TrainChunk;
use crate::store::LAZY_COMMIT;
use crate::trainer::TrainerFact;

use super::super::UpdateMetrics;
use super::failure::Failure;
use super::reports::Reports;

/// How long a sample may wait to be reported. The log takes up to [`LAZY_COMMIT`] to make it durable.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// A sample older than this survives a crash, as RELIABILITY.md promises.
const PROMISED: Duration = Duration::from_secs(1);
const _: () = assert!(WAIT_MAX.as_millis() + LAZY_COMMIT.as_millis() < PROMISED.as_millis());
/// The most updates in a block, so that it stays far below the size of a block of the log.
const UPDATES_MAX: usize = 256;

pub(super) struct MetricBuffer {
    shared: Arc<Shared>,
    /// Sends the time of each block's first sample to the thread; closing it ends the thread.
    begun: Option<Sender<Instant>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// The event of a block, without its columns.
    empty: MetricsLogged,
    reports: Reports,
    block: Mutex<Block>,
}

/// Samples that were not reported yet.
#[derive(Default)]
struct Block {
    /// When its first sample was added.
    since: Option<Instant>,
    columns: Vec<Sparse>,
    updates: usize,
}

struct Sparse {
    name: &'static str,
    steps: Vec<u64>,
    values: Vec<Scalar>,
}

impl MetricBuffer {
    pub fn new(train: &TrainChunk, reports: &Reports) -> Result<MetricBuffer, Failure> {
        MetricBuffer::waiting(train, reports, WAIT_MAX)
    }

    fn waiting(
        train: &TrainChunk,
        reports: &Reports,
        wait: Duration,
    ) -> Result<MetricBuffer, Failure> {
        let shared = Arc::new(Shared {
            empty: MetricsLogged {
                stage: train.stage.clone(),
                chunk: train.chunk,
                attempt: train.attempt,
                columns: Vec::new(),
            },
            reports: reports.clone(),
            block: Mutex::default(),
        });
        let (begun, blocks) = unbounded();
        let flushed = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("tinygate-metrics".to_owned())
            .spawn(move || flushed.flush_in_time(&blocks, wait))
            .map_err(|error| {
                Failure::Environment(format!("the thread of metrics cannot be started: {error}"))
            })?;
        Ok(MetricBuffer {
            shared,
            begun: Some(begun),
            thread: Some(thread),
        })
    }

    /// Takes the samples of one update.
    pub fn add(
        &self,
        step: u64,
        learning_rate: f64,
        measured: &UpdateMetrics,
        rate: Option<f64>,
    ) -> Result<(), Failure> {
        let mut block = self.shared.lock();
        block.add(step, learning_rate, measured, rate);
        if UPDATES_MAX <= block.updates {
            return self.shared.flush(&mut block);
        }
        if block.since.is_none() {
            let now = Instant::now();
            block.since = Some(now);
            if let Some(begun) = &self.begun {
                // Without the thread the block waits for the next flush.
                let _ = begun.send(now);
            }
        }
        Ok(())
    }

    /// Reports all samples so far.
    pub fn flush(&self) -> Result<(), Failure> {
        self.shared.flush(&mut self.shared.lock())
    }
}

/// Nothing is reported after the drop.
impl Drop for MetricBuffer {
    fn drop(&mut self) {
        drop(self.begun.take());
        if let Some(thread) = self.thread.take() {
            // The thread only reports: if it panicked, nothing that was reported is lost.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// A block is consistent between two calls, even if a thread panicked.
    fn lock(&self) -> MutexGuard<'_, Block> {
        self.block.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush(&self, block: &mut Block) -> Result<(), Failure> {
        let Block { columns, .. } = std::mem::take(block);
        if columns.is_empty() {
            return Ok(());
        }
        let event = TrainerFact::MetricsLogged(MetricsLogged {
            columns: columns.into_iter().map(Sparse::column).collect(),
            ..self.empty.clone()
        });
        self.reports.fact(event)
    }

    /// Flushes each block of `begun` that was not flushed within `wait` of its first sample.
    fn flush_in_time(&self, begun: &Receiver<Instant>, wait: Duration) {
        let mut next = begun.recv().ok();
        while let Some(since) = next {
            next = match begun.recv_deadline(since + wait) {
                // Another block has begun, so this one was flushed.
                Ok(since) => Some(since),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let mut block = self.lock();
                    if block.since == Some(since) {
                        // Without a controller the trainer ends at its next report.
                        let _ = self.flush(&mut block);
                    }
                    drop(block);
                    begun.recv().ok()
                }
            };
        }
    }
}

impl Block {
    fn add(&mut self, step: u64, learning_rate: f64, measured: &UpdateMetrics, rate: Option<f64>) {
        let observed = &measured.observed;
        self.push(metric::LOSS, step, Some(measured.loss));
        self.push(metric::LEARNING_RATE, step, Some(learning_rate));
        self.push(metric::GRAD_NORM, step, Some(measured.grad_norm));
        self.push(
            metric::UNIQUE_ACTIONS,
            step,
            observed.unique_actions().map(|actions| actions as f64),
        );
        self.push(metric::ACTION_ENTROPY, step, observed.action_entropy());
        self.push(metric::CODEBOOK_USAGE, step, observed.codebook_usage());
        self.push(metric::UPDATES_PER_SECOND, step, rate);
        self.updates += 1;
    }

    fn push(&mut self, name: &'static str, step: u64, value: Option<f64>) {
        let Some(value) = value else { return };
        let place = match self.columns.iter().position(|column| column.name == name) {
            Some(place) => place,
            None => {
                self.columns.push(Sparse {
                    name,
                    steps: Vec::new(),
                    values: Vec::new(),
                });
                self.columns.len() - 1
            }
        };
        if let Some(column) = self.columns.get_mut(place) {
            column.steps.push(step);
            column.values.push(Scalar::new(value));
        }
    }
}

impl Sparse {
    /// Evenly spaced steps become a first step and a stride.
    fn column(self) -> Column {
        let stride = match self.steps.as_slice() {
            [first, second, ..] => second.saturating_sub(*first).max(1),
            [_] | [] => 1,
        };
        let even = self
            .steps
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a.checked_add(stride) == Some(*b)));
        let steps = match (even, self.steps.first()) {
            (true, Some(first)) => Steps::Stride {
                first: *first,
                stride,
            },
            (false, _) | (_, None) => Steps::List(self.steps),
        };
        Column {
            name: self.name.to_owned(),
            steps,
            values: self.values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::{Report, TrainerFact};

    #[track_caller]
    fn check(name: &str, steps: &[u64], want: Steps) {
        let values = vec![Scalar::new(0.5); steps.len()];
        let column = Sparse {
            name: "loss",
            steps: steps.to_vec(),
            values,
        }
        .column();
        assert_eq!(column.steps, want, "{name}");
        for (place, step) in steps.iter().enumerate() {
            assert_eq!(
                column.steps.at(place).map(crate::events::Step::get),
                Some(*step),
                "{name}"
            );
        }
    }

    fn chunk() -> TrainChunk {
        use crate::events::{Attempt, ChunkNumber, Restart, StageName, Step};
        use crate::presets;
        use crate::presets::ModelKind;
        TrainChunk {
            stage: StageName::new("video_tokenizer"),
            model: crate::events::ModelName::new("video_tokenizer"),
            chunk: ChunkNumber::FIRST,
            attempt: Attempt::FIRST,
            restart: Restart::FIRST,
            from: Step::FIRST,
            to: Step::new(10),
            settings: presets::settings(ModelKind::VideoTokenizer),
            resume: None,
            upstream: Vec::new(),
            taken: Vec::new(),
        }
    }

    fn measured() -> UpdateMetrics {
        UpdateMetrics {
            loss: 0.5,
            grad_norm: 1.0,
            observed: crate::train::Observed::default(),
        }
    }

    /// Steps of the losses in a report.
    fn steps(report: &Report) -> Vec<u64> {
        let Report::Fact(TrainerFact::MetricsLogged(logged)) = report else {
            panic!("{report:?}");
        };
        let losses = logged
            .columns
            .iter()
            .find(|column| column.name == metric::LOSS);
        let losses = losses.unwrap();
        (0..losses.values.len())
            .map(|place| losses.steps.at(place).unwrap().get())
            .collect()
    }

    #[test]
    fn a_sample_is_reported_while_the_next_update_still_runs() {
        let (sender, reports) = unbounded();
        let buffer =
            MetricBuffer::waiting(&chunk(), &Reports::new(sender), Duration::ZERO).unwrap();
        for step in 1..=3 {
            buffer.add(step, 1e-3, &measured(), None).unwrap();
            // No other call is made until it arrives.
            assert_eq!(steps(&reports.recv().unwrap()), [step]);
        }
    }

    #[test]
    fn a_block_is_reported_when_it_is_full_or_flushed() {
        let (sender, reports) = unbounded();
        let forever = Duration::from_secs(1 << 20);
        let buffer = MetricBuffer::waiting(&chunk(), &Reports::new(sender), forever).unwrap();
        for step in 1..=UPDATES_MAX as u64 {
            assert!(reports.is_empty(), "before update {step}");
            buffer.add(step, 1e-3, &measured(), None).unwrap();
        }
        assert_eq!(steps(&reports.recv().unwrap()).len(), UPDATES_MAX);
        buffer.add(257, 1e-3, &measured(), None).unwrap();
        buffer.flush().unwrap();
        assert_eq!(steps(&reports.recv().unwrap()), [257]);
        buffer.flush().unwrap();
        buffer.add(258, 1e-3, &measured(), None).unwrap();
        drop(buffer);
        assert!(reports.is_empty(), "nothing follows the end of a chunk");
    }

    #[test]
    fn even_steps_are_a_stride() {
        check(
            "every update",
            &[1, 2, 3],
            Steps::Stride {
                first: 1,
                stride: 1,
            },
        );
        check(
            "every tenth",
            &[10, 20, 30],
            Steps::Stride {
                first: 10,
                stride: 10,
            },
        );
        check(
            "one sample",
            &[7],
            Steps::Stride {
                first: 7,
                stride: 1,
            },
        );
        check(
            "an interval and the chunk's end",
            &[10, 20, 25],
            Steps::List(vec![10, 20, 25]),
        );
    }
}
