//! The window of each sample of a stage, as a function of the sample's number, so that nothing has to be saved.
//!
//! With `n` training windows, sample `i` belongs to epoch `i / n`, and is element `i % n` of a permutation that depends on
//! the seed, the stage, the restart number and the epoch. A batch is a range of sample numbers and may begin in one epoch
//! and end in the next, so each window is seen equally often whatever the batch size.
//!
//! Invariant: a sample's window depends neither on earlier calls nor on how shards divide the samples.

use crate::random::StreamKey;
use std::num::NonZeroU32;
use std::ops::Range;

/// The sample numbers of one micro-batch on one rank, in the update that begins after `samples_seen` samples of the
/// stage. `shard` is micro-batch * world size + rank; an update takes shards * batch samples in total.
pub fn samples_for(samples_seen: u64, shard: u64, batch_size: u64) -> Range<u64> {
    let first = samples_seen.saturating_add(shard.saturating_mul(batch_size));
    first..first.saturating_add(batch_size)
}

/// The order of one stage's samples.
#[derive(Debug, Clone)]
pub struct Order {
    seed: u64,
    stage: String,
    restart: u64,
    windows: NonZeroU32,
    /// The epoch of `permutation`, if there is one.
    cached: Option<u64>,
    permutation: Vec<u32>,
}

impl Order {
    /// The order over `windows` training windows.
    pub fn new(seed: u64, stage: &str, restart: u64, windows: NonZeroU32) -> Self {
        Self {
            seed,
            stage: stage.to_owned(),
            restart,
            windows,
            cached: None,
            permutation: Vec::new(),
        }
    }

    /// The window of sample number `sample`, as an index among the training windows.
    pub fn window(&mut self, sample: u64) -> usize {
        let n = u64::from(self.windows.get());
        let (epoch, place) = (sample / n, sample % n);
        if self.cached != Some(epoch) {
            self.permute(epoch);
        }
        self.permutation[place as usize] as usize
    }

    /// The training windows of a range of samples, in order.
    pub fn windows(&mut self, samples: Range<u64>) -> Vec<usize> {
        samples.map(|sample| self.window(sample)).collect()
    }

    fn permute(&mut self, epoch: u64) {
        self.permutation.clear();
        self.permutation.extend(0..self.windows.get());
        let key = StreamKey {
            seed: self.seed,
            stage: &self.stage,
            restart: self.restart,
            update: epoch,
            shard: 0,
            purpose: "order",
        };
        key.stream().shuffle(&mut self.permutation);
        self.cached = Some(epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(seed: u64, stage: &str, restart: u64, windows: u32) -> Order {
        Order::new(seed, stage, restart, NonZeroU32::new(windows).unwrap())
    }

    #[test]
    fn the_order_never_changes() {
        let expected = [
            [0, 2, 1, 3, 5, 6, 9, 4, 8, 7],
            [7, 1, 5, 9, 3, 8, 2, 6, 4, 0],
        ]
        .concat();
        assert_eq!(order(1, "video_tokenizer", 0, 10).windows(0..20), expected);
    }

    #[test]
    fn each_epoch_has_another_permutation() {
        let mut order = order(1, "dynamics", 0, 500);
        let epochs: Vec<Vec<usize>> = (0..3)
            .map(|epoch| order.windows(epoch * 500..(epoch + 1) * 500))
            .collect();
        for epoch in &epochs {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..500).collect::<Vec<_>>());
        }
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2] && epochs[0] != epochs[2]);
    }

    #[test]
    fn a_sample_does_not_depend_on_earlier_calls() {
        let in_one_go = order(3, "dynamics", 2, 37).windows(0..200);
        let mut resumed = order(3, "dynamics", 2, 37);
        for sample in (0..200).rev() {
            assert_eq!(
                resumed.window(sample),
                in_one_go[sample as usize],
                "sample {sample}"
            );
        }
    }

    #[test]
    fn seed_stage_and_restart_change_the_order() {
        let base = order(3, "dynamics", 2, 100).windows(0..100);
        for mut other in [
            order(4, "dynamics", 2, 100),
            order(3, "latent_actions", 2, 100),
            order(3, "dynamics", 3, 100),
        ] {
            assert_ne!(other.windows(0..100), base);
        }
    }

    #[test]
    fn ranks_and_accumulation_divide_the_same_samples() {
        let (batch, updates) = (8, 5);
        let plan = |world_size: u64, accumulation: u64| {
            let mut seen = 0;
            let mut shards = Vec::new();
            for _ in 0..updates {
                for micro_batch in 0..accumulation {
                    for rank in 0..world_size {
                        shards.push(samples_for(seen, micro_batch * world_size + rank, batch));
                    }
                }
                seen += world_size * accumulation * batch;
            }
            shards
        };
        assert_eq!(plan(2, 1), plan(1, 2));
        assert_eq!(plan(2, 2), plan(4, 1));
        let all: Vec<u64> = plan(2, 2).into_iter().flatten().collect();
        assert_eq!(all, (0..updates * 4 * batch).collect::<Vec<_>>());
    }

    #[test]
    fn a_batch_may_cross_the_end_of_an_epoch() {
        let mut order = order(5, "dynamics", 0, 10);
        let both = order.windows(0..20);
        assert_eq!(order.windows(samples_for(0, 1, 8)), both[8..16]);
    }
}
