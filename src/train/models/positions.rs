//! Sine and cosine encodings of a token's position in space and time (Vaswani et al. 2017, section 3.5).
//!
//! The embedding's dimensions are divided among x, y and time. Encodings are computed once per model, and neither saved
//! nor trained.

use tch::{Device, Kind, Tensor};

use super::config::ModelConfig;
use crate::train::error::Result;

pub(crate) struct Positions {
    /// `[1, T, 1, E]`: only time, for tokens without a position in space.
    time: Tensor,
    /// `[1, T, P, E]`: space and time, which share no dimension.
    all: Tensor,
}

impl Positions {
    pub fn new(config: &ModelConfig, device: Device) -> Result<Positions> {
        let side = config.frame_size / config.patch_size;
        let temporal = config.temporal_dim();
        let spatial = config.embed_dim - temporal;
        let x_dim = (spatial / 2) & !1;
        let y_dim = spatial - x_dim;
        let x = waves(side, x_dim)?
            .f_unsqueeze(0)?
            .f_expand([side, side, x_dim], false)?;
        let y = waves(side, y_dim)?
            .f_unsqueeze(1)?
            .f_expand([side, side, y_dim], false)?;
        let no_time = Tensor::f_zeros([side, side, temporal], (Kind::Float, Device::Cpu))?;
        let place =
            Tensor::f_cat(&[x, y, no_time], -1)?.f_view([1, 1, side * side, config.embed_dim])?;
        let steps = config.context_length;
        let no_place = Tensor::f_zeros([steps, spatial], (Kind::Float, Device::Cpu))?;
        let time = Tensor::f_cat(&[no_place, waves(steps, temporal)?], -1)?;
        let time = time.f_view([1, steps, 1, config.embed_dim])?;
        let all = place.f_add(&time)?;
        Ok(Positions {
            time: time.f_to_device(device)?,
            all: all.f_to_device(device)?,
        })
    }

    /// Space and time of the first `steps` frames, `[1, steps, P, E]`.
    pub fn first(&self, steps: i64) -> Result<Tensor> {
        Ok(self.all.f_narrow(1, 0, steps)?)
    }

    /// Only time, of `steps` frames from `from` on, `[1, steps, 1, E]`.
    pub fn time(&self, from: i64, steps: i64) -> Result<Tensor> {
        Ok(self.time.f_narrow(1, from, steps)?)
    }
}

/// `[length, dim]`: `sin(i / 10000^(2j/dim))` at `2j` and its cosine at `2j + 1`.
fn waves(length: i64, dim: i64) -> Result<Tensor> {
    let options = (Kind::Float, Device::Cpu);
    let place = Tensor::f_arange(length, options)?.f_unsqueeze(1)?;
    let pair = Tensor::f_arange(dim / 2, options)?.f_unsqueeze(0)?;
    let exponent = pair.f_mul_scalar(2.0)?.f_div_scalar(dim as f64)?;
    let wavelength = Tensor::f_full_like(&exponent, 10_000.0)?.f_pow(&exponent)?;
    let angle = place.f_div(&wavelength)?;
    let pairs = Tensor::f_stack(&[angle.f_sin()?, angle.f_cos()?], -1)?;
    Ok(pairs.f_view([length, dim])?)
}
