//! Frames as rows of patches, the form all three models work in.
//!
//! A patch row lists its values by channel, then row, then column. Losses are means over all values, so they are computed
//! on patch rows; frames are reassembled only for pictures.
//! Invariant: `frames_of(patches_of(frames)) == frames`, bit for bit.

use tch::{Device, Kind, Tensor};

use super::config::ModelConfig;
use crate::train::error::{Result, TrainError};

/// Makes the tensor of a micro-batch: `[batch, time, size, size, 3]`, u8, RGB, row-major.
///
/// # Errors
/// [`TrainError::Input`] if `bytes` has another length.
pub fn frame_tensor(bytes: &[u8], batch: usize, time: usize, size: usize) -> Result<Tensor> {
    let shape = [batch, time, size, size, 3];
    let expected: usize = shape.iter().product();
    if bytes.len() != expected || expected == 0 {
        return Err(TrainError::Input {
            what: "a micro-batch",
            found: format!("{} bytes", bytes.len()),
            expected: format!("{expected} for {batch} x {time} frames of {size} x {size} RGB"),
        });
    }
    Ok(Tensor::f_from_data_size(
        bytes,
        &shape.map(|n| n as i64),
        Kind::Uint8,
    )?)
}

/// Checks a micro-batch `[batch, time, size, size, 3]` of u8 against the config.
pub(crate) fn check_frames(frames: &Tensor, config: &ModelConfig) -> Result<()> {
    let side = config.frame_size;
    let kind = frames.f_kind()?;
    let shape = frames.size();
    let fits = matches!(shape.as_slice(), [batch, time, height, width, 3]
        if *batch >= 1 && (2..=config.context_length).contains(time) && *height == side && *width == side);
    if fits && kind == Kind::Uint8 {
        return Ok(());
    }
    Err(TrainError::Input {
        what: "a micro-batch",
        found: format!("{kind:?} {shape:?}"),
        expected: format!(
            "Uint8 [batch, 2 to {}, {side}, {side}, 3]",
            config.context_length
        ),
    })
}

/// Frames u8 `[B, T, H, W, 3]` as patch rows f32 `[B, T, P, 3 * patch^2]` in `[-1, 1]`.
///
/// `x / 127.5 - 1` has the same bits as TinyWorlds' `(x / 255 - 0.5) / 0.5`: halving is exact.
pub(crate) fn patches_of_bytes(frames: &Tensor, patch: i64, device: Device) -> Result<Tensor> {
    let rows = byte_rows(&frames.f_to_device(device)?, patch)?;
    let mut rows = rows.f_to_kind(Kind::Float)?;
    let _ = rows.f_div_scalar_(127.5)?.f_sub_scalar_(1.0)?;
    Ok(rows)
}

/// A mask of pixels `[B, T, H, W]` (nonzero = chosen) as patch rows of 0 and 1, the same for every channel.
pub(crate) fn mask_rows(pixels: &Tensor, patch: i64, device: Device) -> Result<Tensor> {
    let chosen = pixels
        .f_to_device(device)?
        .f_ne(0)?
        .f_to_kind(Kind::Uint8)?;
    let channels = chosen
        .f_unsqueeze(-1)?
        .f_expand([-1, -1, -1, -1, 3], false)?;
    Ok(byte_rows(&channels, patch)?.f_to_kind(Kind::Float)?)
}

fn byte_rows(frames: &Tensor, patch: i64) -> Result<Tensor> {
    let (batch, time, height, width, channels) = frames.size5()?;
    let (down, across) = (height / patch, width / patch);
    let split = frames.f_reshape([batch, time, down, patch, across, patch, channels])?;
    let rows = split.f_permute([0, 1, 2, 4, 6, 3, 5])?;
    Ok(rows.f_reshape([batch, time, down * across, channels * patch * patch])?)
}

/// Frames f32 `[B, T, 3, H, W]` as patch rows `[B, T, P, 3 * patch^2]`.
pub fn patches_of(frames: &Tensor, patch: i64) -> Result<Tensor> {
    let (batch, time, channels, height, width) = frames.size5()?;
    let (down, across) = (height / patch, width / patch);
    let split = frames.f_reshape([batch, time, channels, down, patch, across, patch])?;
    let rows = split.f_permute([0, 1, 3, 5, 2, 4, 6])?;
    Ok(rows.f_reshape([batch, time, down * across, channels * patch * patch])?)
}

/// Patch rows `[B, T, P, 3 * patch^2]` as square frames `[B, T, 3, H, W]`.
pub fn frames_of(rows: &Tensor, patch: i64, frame_size: i64) -> Result<Tensor> {
    let (batch, time, _, _) = rows.size4()?;
    let side = frame_size / patch;
    let split = rows.f_reshape([batch, time, side, side, 3, patch, patch])?;
    let frames = split.f_permute([0, 1, 4, 2, 5, 3, 6])?;
    Ok(frames.f_reshape([batch, time, 3, frame_size, frame_size])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_the_same_rows_as_normalised_frames() {
        let bytes: Vec<u8> = (0..2 * 3 * 8 * 8 * 3)
            .map(|i| (i * 7 % 256) as u8)
            .collect();
        let frames = frame_tensor(&bytes, 2, 3, 8).unwrap();
        let rows = patches_of_bytes(&frames, 4, Device::Cpu).unwrap();
        let floats = ((frames.to_kind(Kind::Float) / 255.0) - 0.5) / 0.5;
        let floats = floats.permute([0, 1, 4, 2, 3]);
        assert_eq!(rows, patches_of(&floats, 4).unwrap());
        assert_eq!(frames_of(&rows, 4, 8).unwrap(), floats);
    }

    #[test]
    fn a_pixel_mask_covers_all_three_channels_of_its_pixels() {
        let mut pixels = vec![0_u8; 64];
        pixels[8 + 2] = 1;
        let pixels = Tensor::from_slice(&pixels).view([1, 1, 8, 8]);
        let rows = mask_rows(&pixels, 4, Device::Cpu).unwrap();
        let ones: Vec<i64> = Vec::try_from(rows.flatten(0, -1).nonzero().flatten(0, -1)).unwrap();
        // Patch 0, row 1, column 2, once per channel of 16 values.
        assert_eq!(ones, [6, 16 + 6, 32 + 6]);
    }

    #[test]
    fn a_micro_batch_of_the_wrong_length_is_refused() {
        let error = frame_tensor(&[0; 5], 1, 2, 4).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a micro-batch is 5 bytes, expected 96 for 1 x 2 frames of 4 x 4 RGB"
        );
    }
}
