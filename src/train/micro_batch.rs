//! Micro-batches: windows of frames for a model, whole or in pieces.

use tch::Tensor;

use super::error::{Result, TrainError};
use super::mask::TokenMask;
use super::pieces::Piece;

/// One micro-batch. Dynamics needs a `mask`, and the other models must not have one.
pub struct MicroBatch {
    /// u8 `[B, T, H, W, 3]`
    pub frames: Tensor,
    pub mask: Option<TokenMask>,
}

/// One held-out micro-batch.
pub struct HeldOut {
    pub batch: MicroBatch,
    /// Moving pixels `[B, T, H, W]` (nonzero), whose loss is also taken alone; for video tokenizer
    /// and latent actions.
    pub moving: Option<Tensor>,
}

impl MicroBatch {
    /// # Errors
    /// A mask with another number of samples than the frames.
    pub(crate) fn samples(&self) -> Result<usize> {
        let samples = samples_of(&self.frames)?;
        match &self.mask {
            Some(mask) if mask.batch != samples => Err(wrong_mask(
                &format!("of {} samples", mask.batch),
                &format!("one of {samples}"),
            )),
            Some(_) | None => Ok(samples),
        }
    }

    pub(crate) fn piece(&self, piece: Piece) -> Result<MicroBatch> {
        let mask = self.mask.as_ref();
        Ok(MicroBatch {
            frames: narrow(&self.frames, piece)?,
            mask: mask.map(|mask| mask.samples(piece.from, piece.length)),
        })
    }
}

impl HeldOut {
    pub(crate) fn piece(&self, piece: Piece) -> Result<HeldOut> {
        let moving = self.moving.as_ref();
        Ok(HeldOut {
            batch: self.batch.piece(piece)?,
            moving: moving.map(|pixels| narrow(pixels, piece)).transpose()?,
        })
    }
}

pub(crate) fn samples_of(tensor: &Tensor) -> Result<usize> {
    let samples = tensor.size().first().copied();
    let samples = samples.and_then(|samples| usize::try_from(samples).ok());
    samples.ok_or_else(|| TrainError::Input {
        what: "a batch",
        found: "a single number".to_owned(),
        expected: "samples".to_owned(),
    })
}

pub(crate) fn narrow(tensor: &Tensor, piece: Piece) -> Result<Tensor> {
    Ok(tensor.f_narrow(0, piece.from as i64, piece.length as i64)?)
}

pub(crate) fn wrong_mask(found: &str, expected: &str) -> TrainError {
    TrainError::Input {
        what: "the token mask of a micro-batch",
        found: found.to_owned(),
        expected: expected.to_owned(),
    }
}
