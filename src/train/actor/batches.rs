//! The run's windows as the models take them: training batches, held-out batches, masks.
//!
//! Invariant: which windows and masks a batch has is a function of the config, the data and the batch's counters.

use std::cell::OnceCell;
use std::num::NonZeroU32;
use std::sync::Arc;

use tch::Tensor;

use super::super::{HeldOut, MicroBatch, Pieces, TokenMask, TrainError, maskgit_mask};
use super::failure::Failure;
use crate::config::Config;
use crate::data::order::Order;
use crate::data::trivial::MeanImage;
use crate::data::{Frames, WindowError, WindowId, Windows};
use crate::events::{HeldOutBatches, StageName};
use crate::presets::ModelKind;
use crate::random::StreamKey;
use crate::setup;

/// The most held-out batches that a gate evaluates: enough for a stable mean, for
/// about the cost of one or two updates in a hundred.
const HELD_OUT_BATCHES_MAX: usize = 32;
/// Small batches may be more, up to this many windows.
const HELD_OUT_WINDOWS: usize = 128;
/// The most training batches whose tokens are counted for the marginal distribution.
const MARGINAL_BATCHES_MAX: usize = 64;
/// Small batches may be more, up to this many windows: a predictor from too few tokens is beaten by every model.
const MARGINAL_WINDOWS: usize = 1024;

pub(super) struct Batches {
    config: Config,
    windows: Windows,
    mean: OnceCell<MeanImage>,
    held_out: HeldOutBatches,
    /// How many windows fit into memory when a model is scored.
    #[cfg(test)]
    memory_for: Option<usize>,
}

impl Batches {
    /// # Errors
    /// Data too small for a window of the config.
    pub fn new(
        config: Config,
        frames: Arc<Frames>,
        held_out: HeldOutBatches,
    ) -> Result<Batches, WindowError> {
        let windows = setup::windows(&config, frames)?;
        Ok(Batches {
            config,
            windows,
            mean: OnceCell::new(),
            held_out,
            #[cfg(test)]
            memory_for: None,
        })
    }

    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// The mean of the training frames, computed on first use.
    pub fn mean(&self) -> &MeanImage {
        self.mean.get_or_init(|| MeanImage::of(&self.windows))
    }

    pub fn seed(&self) -> u64 {
        self.config.seed
    }

    pub fn patch_size(&self) -> usize {
        self.config.shape.patch_size as usize
    }

    /// The order in which a stage sees the training windows.
    ///
    /// # Errors
    /// More windows than the order supports.
    pub fn order(&self, stage: &StageName, restart: u64) -> Result<Order, Failure> {
        let windows = u32::try_from(self.windows.train_len())
            .ok()
            .and_then(NonZeroU32::new);
        let windows = windows.ok_or_else(|| {
            Failure::Environment(
                "the data has more than 2^32 - 1 windows; use less of it".to_owned(),
            )
        })?;
        Ok(Order::new(self.seed(), stage.as_str(), restart, windows))
    }

    /// One micro-batch for a model of `kind`. Its mask, if it has one, depends on `key` alone.
    pub fn micro_batch(
        &self,
        kind: ModelKind,
        ids: &[WindowId],
        key: StreamKey<'_>,
    ) -> Result<MicroBatch, Failure> {
        let mask = (kind == ModelKind::Dynamics).then(|| self.token_mask(ids.len(), key));
        Ok(MicroBatch {
            frames: self.frames(ids)?,
            mask,
        })
    }

    /// The windows as a tensor `[B, T, H, W, 3]`.
    pub fn frames(&self, ids: &[WindowId]) -> Result<Tensor, Failure> {
        let frames = self.windows.frames();
        let bytes = self.windows.gather(ids)?;
        let sizes = [
            ids.len(),
            self.windows.shape().context_length,
            frames.height(),
            frames.width(),
            3,
        ];
        Ok(tensor(&bytes, &sizes)?)
    }

    /// The fixed held-out micro-batches of a stage, with fixed masks for dynamics, made one by one.
    pub fn held_out(
        &self,
        stage: &StageName,
        kind: ModelKind,
    ) -> impl Iterator<Item = Result<HeldOut, Failure>> {
        let batches = self.held_out_windows(stage).into_iter().enumerate();
        batches.map(move |(number, ids)| {
            let key = StreamKey {
                seed: self.seed(),
                stage: stage.as_str(),
                restart: 0,
                update: 0,
                shard: number as u64,
                purpose: "held-out mask",
            };
            let batch = self.micro_batch(kind, &ids, key)?;
            let moving = match kind {
                ModelKind::VideoTokenizer | ModelKind::LatentActions => Some(self.moving(&ids)?),
                ModelKind::Dynamics => None,
            };
            Ok(HeldOut { batch, moving })
        })
    }

    /// Whole batches of held-out windows, spread evenly over all of them.
    pub fn held_out_windows(&self, stage: &StageName) -> Vec<Vec<WindowId>> {
        let batch = self.scored_batch(stage);
        let most = self.batches_max(HELD_OUT_BATCHES_MAX, HELD_OUT_WINDOWS, batch);
        let whole = (self.windows.held_out_len() / batch).clamp(1, most);
        let ids = self.windows.held_out_spread(whole * batch);
        ids.chunks_exact(batch).map(<[WindowId]>::to_vec).collect()
    }

    /// Frames of training windows, spread evenly over all of them, in batches.
    pub fn marginal(&self, stage: &StageName) -> impl Iterator<Item = Result<Tensor, Failure>> {
        let batch = self.scored_batch(stage);
        let whole = self.windows.train_len() / batch;
        let most = self.batches_max(MARGINAL_BATCHES_MAX, MARGINAL_WINDOWS, batch);
        let used = whole.clamp(1, most);
        (0..used).map(move |number| {
            let first = number * whole / used * batch;
            let ids: Vec<WindowId> = (first..first + batch)
                .filter_map(|k| self.windows.train(k))
                .collect();
            self.frames(&ids)
        })
    }

    /// How many windows go through a stage's model at once while it is measured and scored.
    pub fn pieces(&self, stage: &StageName) -> Pieces {
        #[cfg(test)]
        if let Some(fits) = self.memory_for {
            return Pieces::with_memory_for(fits);
        }
        match self.held_out {
            // A picture may have more windows than a small batch.
            HeldOutBatches::Largest => Pieces::whole(),
            HeldOutBatches::Stage => Pieces::of(self.scored_batch(stage)),
        }
    }

    #[cfg(test)]
    pub fn set_memory_for(&mut self, windows: Option<usize>) {
        self.memory_for = windows;
    }

    /// `batches`, or as many as `windows` windows fill if that is more.
    pub fn batches_max(&self, batches: usize, windows: usize, batch: usize) -> usize {
        match self.held_out {
            HeldOutBatches::Largest => batches,
            HeldOutBatches::Stage => batches.max(windows / batch),
        }
    }

    /// Windows per batch when a stage is measured and scored: its batch size as configured when the run began, even if
    /// training has halved it since.
    fn scored_batch(&self, stage: &StageName) -> usize {
        match self.held_out {
            HeldOutBatches::Largest => setup::largest_batch(&self.config),
            HeldOutBatches::Stage => {
                let policy = self.config.stage(stage);
                let batch = policy.map_or(1, |policy| policy.settings.batch_size_per_gpu);
                batch.max(1) as usize
            }
        }
    }

    /// The MaskGIT mask of one micro-batch.
    fn token_mask(&self, batch: usize, key: StreamKey<'_>) -> TokenMask {
        let shape = self.config.shape;
        let side = (shape.frame_size / shape.patch_size.max(1)) as usize;
        let mut stream = key.stream();
        maskgit_mask(batch, shape.context_length as usize, side * side, || {
            stream.next_f64()
        })
    }

    /// Pixels `[B, T, H, W]` that differ from the mean image.
    fn moving(&self, ids: &[WindowId]) -> Result<Tensor, Failure> {
        let frames = self.windows.frames();
        let mut marks: Vec<u8> = Vec::new();
        for id in ids {
            for number in self.windows.frame_numbers(*id)? {
                let frame = frames.frame(number).unwrap_or_default();
                marks.extend(self.mean().moving(frame).map(u8::from));
            }
        }
        let sizes = [
            ids.len(),
            self.windows.shape().context_length,
            frames.height(),
            frames.width(),
        ];
        Ok(tensor(&marks, &sizes)?)
    }
}

fn tensor(bytes: &[u8], sizes: &[usize]) -> Result<Tensor, TrainError> {
    let sizes: Vec<i64> = sizes.iter().map(|size| *size as i64).collect();
    Ok(Tensor::f_from_slice(bytes)?.f_view(sizes.as_slice())?)
}
