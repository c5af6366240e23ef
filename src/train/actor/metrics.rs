//! Samples on their way to the log: gathered in columns, flushed in blocks.

use std::time::{Duration, Instant};

use crate::events::{Column, Event, MetricsLogged, Scalar, Steps, metric};
use crate::machine::TrainChunk;

use super::super::UpdateMetrics;

/// Metric blocks may wait this long before they are appended.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Updates in one block at most, so that a block stays far below the log's.
const UPDATES_MAX: usize = 256;

pub(super) struct MetricBuffer {
    since: Instant,
    columns: Vec<Sparse>,
    updates: usize,
}

struct Sparse {
    name: &'static str,
    steps: Vec<u64>,
    values: Vec<Scalar>,
}

impl MetricBuffer {
    pub fn new() -> MetricBuffer {
        MetricBuffer {
            since: Instant::now(),
            columns: Vec::new(),
            updates: 0,
        }
    }

    /// Takes the samples of one update.
    pub fn add(
        &mut self,
        step: u64,
        learning_rate: f64,
        measured: &UpdateMetrics,
        rate: Option<f64>,
    ) {
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

    pub fn is_due(&self) -> bool {
        UPDATES_MAX <= self.updates || WAIT_MAX <= self.since.elapsed()
    }

    /// The block so far, and an empty buffer; `None` when there is nothing.
    pub fn flush(&mut self, train: &TrainChunk) -> Option<Event> {
        let columns = std::mem::take(&mut self.columns);
        self.updates = 0;
        self.since = Instant::now();
        if columns.is_empty() {
            return None;
        }
        Some(Event::MetricsLogged(MetricsLogged {
            stage: train.stage.clone(),
            chunk: train.chunk,
            attempt: train.attempt,
            columns: columns.into_iter().map(Sparse::column).collect(),
        }))
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
    /// Evenly spaced steps are written as first and stride.
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
