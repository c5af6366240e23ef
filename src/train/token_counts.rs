//! The trivial predictor of dynamics: how often each token occurs at each position.
//!
//! It needs the frozen upstream models, but no dynamics model.

use std::collections::BTreeSet;

use tch::Tensor;

use super::error::{Result, TrainError};
use super::mean::Mean;
use super::micro_batch::{HeldOut, MicroBatch, narrow, samples_of, wrong_mask};
use super::model::host_integers;
use super::models::check_frames;
use super::pieces::Pieces;
use super::upstream::Upstream;

/// How often each code occurs at each position, over all frames of some batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenCounts {
    pub positions: usize,
    pub codebook_size: usize,
    /// `[positions][codebook_size]`, row-major.
    pub counts: Vec<u64>,
}

impl TokenCounts {
    /// Counts the tokens of all frames by position. Batches are taken one by one and forwarded in `pieces`.
    ///
    /// # Errors
    /// Those of the batches, or too little memory for one window.
    pub fn of<E: From<TrainError>>(
        upstream: &Upstream,
        batches: impl IntoIterator<Item = std::result::Result<Tensor, E>>,
        pieces: &mut Pieces,
    ) -> std::result::Result<TokenCounts, E> {
        let positions = upstream.config().patches() as usize;
        let codebook_size = upstream.config().codebook_size() as usize;
        let mut counts = vec![0; positions * codebook_size];
        for frames in batches {
            let frames = frames?;
            check_frames(&frames, upstream.config())?;
            let codes = pieces.forward(samples_of(&frames)?, |piece| {
                host_integers(&upstream.tokens(&narrow(&frames, piece)?)?.codes)
            })?;
            for (index, code) in codes.into_iter().flatten().enumerate() {
                let row = (index % positions) * codebook_size;
                if let Some(count) = usize::try_from(code)
                    .ok()
                    .and_then(|code| counts.get_mut(row + code))
                {
                    *count += 1;
                }
            }
        }
        Ok(TokenCounts {
            positions,
            codebook_size,
            counts,
        })
    }

    /// Cross-entropy of the masked held-out tokens under these counts alone. `1 / codebook_size` is added to each count, so
    /// that no code is impossible.
    ///
    /// # Errors
    /// Those of the batches, batches without a mask, or too little memory for one window.
    pub fn loss<E: From<TrainError>>(
        &self,
        upstream: &Upstream,
        held_out: impl IntoIterator<Item = std::result::Result<HeldOut, E>>,
        pieces: &mut Pieces,
    ) -> std::result::Result<f64, E> {
        let mut mean = Mean::default();
        for item in held_out {
            let batch = item?.batch;
            let losses = pieces.forward(batch.samples()?, |piece| {
                self.losses(upstream, &batch.piece(piece)?)
            })?;
            for loss in losses.into_iter().flatten() {
                mean.add(loss, 1.0);
            }
        }
        Ok(mean
            .mean()
            .ok_or_else(|| TrainError::missing("the list of held-out batches"))?)
    }

    /// The loss of each masked token.
    fn losses(&self, upstream: &Upstream, batch: &MicroBatch) -> Result<Vec<f64>> {
        check_frames(&batch.frames, upstream.config())?;
        let Some(mask) = &batch.mask else {
            return Err(wrong_mask("missing", "one per micro-batch of dynamics"));
        };
        let codes = host_integers(&upstream.tokens(&batch.frames)?.codes)?;
        let loss = |index: i64| {
            let index = index as usize;
            let code = codes
                .get(index)
                .and_then(|code| usize::try_from(*code).ok());
            let code = code.ok_or_else(|| {
                TrainError::Tensor("bug: a mask is larger than its tokens".to_owned())
            })?;
            Ok(-self.share(index % self.positions, code).ln())
        };
        mask.indices().into_iter().map(loss).collect()
    }

    /// Smoothed share of `code` at `position`.
    fn share(&self, position: usize, code: usize) -> f64 {
        let mut row = self
            .counts
            .iter()
            .skip(position * self.codebook_size)
            .take(self.codebook_size);
        let total = row.clone().sum::<u64>() as f64;
        let count = row.nth(code).copied().unwrap_or(0) as f64;
        (count + 1.0 / self.codebook_size as f64) / (total + 1.0)
    }

    /// Number of distinct codes, over all positions.
    pub fn distinct(&self) -> usize {
        let seen = self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        seen.map(|(index, _)| index % self.codebook_size.max(1))
            .collect::<BTreeSet<_>>()
            .len()
    }
}
