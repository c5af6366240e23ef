//! Finite scalar quantization (Mentzer et al. 2023): each number of a latent is rounded to one of
//! a few levels, and a latent's levels are the digits of its code.
//!
//! The gradient is straight-through: it ignores the rounding. Nothing is trained; the buffer `basis` (the place values of
//! the digits) is saved because TinyWorlds saves it.

use tch::{Kind, Tensor};

use crate::train::error::Result;
use crate::train::parameters::Layout;

pub(crate) struct Quantizer {
    bins: i64,
    basis: Vec<i64>,
}

impl Quantizer {
    pub fn new(latent_dim: i64, bins: i64) -> Quantizer {
        let basis = (0..latent_dim).scan(1_i64, |next, _| {
            Some(std::mem::replace(next, next.saturating_mul(bins)))
        });
        Quantizer {
            bins,
            basis: basis.collect(),
        }
    }

    /// A quantizer whose buffer is saved with the model.
    pub fn saved(layout: &mut Layout, latent_dim: i64, bins: i64) -> Quantizer {
        let quantizer = Quantizer::new(latent_dim, bins);
        layout.buffer("quantizer.basis".to_owned(), quantizer.basis.clone());
        quantizer
    }

    /// Unbounded numbers to levels in `[-1, 1]`, with the gradient of the levels before rounding.
    pub fn quantize(&self, latents: &Tensor) -> Result<Tensor> {
        let bounded = self.bounded(latents)?;
        let rounding = bounded.f_detach()?;
        let rounding = rounding.f_round()?.f_sub(&rounding)?;
        self.levels_to_latents(&bounded.f_add(&rounding)?)
    }

    /// Unquantized latents `[.., L]` to digits `0..bins` as f32, without a gradient.
    pub fn digits(&self, latents: &Tensor) -> Result<Tensor> {
        let bounded = self.bounded(&latents.f_detach()?)?;
        Ok(bounded.f_round()?.f_clamp(0.0, (self.bins - 1) as f64)?)
    }

    /// Quantized latents `[.., L]` in `[-1, 1]` to digits `0..bins` as f32.
    pub fn digits_of_quantized(&self, quantized: &Tensor) -> Result<Tensor> {
        let levels = self.scaled(&quantized.f_detach()?)?;
        Ok(levels.f_round()?.f_clamp(0.0, (self.bins - 1) as f64)?)
    }

    /// Digits `[.., L]` to codes `[..]`, i64.
    pub fn codes(&self, digits: &Tensor) -> Result<Tensor> {
        let basis = Tensor::f_from_slice(&self.basis)?
            .f_to_kind(Kind::Float)?
            .f_to_device(digits.device())?;
        Ok(digits.f_matmul(&basis)?.f_to_kind(Kind::Int64)?)
    }

    /// Codes `[..]` to their latents `[.., L]` in `[-1, 1]`.
    pub fn latents_of_codes(&self, codes: &Tensor) -> Result<Tensor> {
        let basis = Tensor::f_from_slice(&self.basis)?.f_to_device(codes.device())?;
        let shifted = codes.f_unsqueeze(-1)?.f_div_tensor_mode(&basis, "floor")?;
        let digits = shifted.f_remainder(self.bins)?.f_to_kind(Kind::Float)?;
        self.levels_to_latents(&digits)
    }

    /// Digits or levels `0..=bins-1` to `[-1, 1]`.
    pub fn levels_to_latents(&self, levels: &Tensor) -> Result<Tensor> {
        Ok(levels
            .f_mul_scalar(2.0)?
            .f_div_scalar((self.bins - 1) as f64)?
            .f_sub_scalar(1.0)?)
    }

    fn bounded(&self, latents: &Tensor) -> Result<Tensor> {
        self.scaled(&latents.f_tanh()?)
    }

    fn scaled(&self, unit: &Tensor) -> Result<Tensor> {
        Ok(unit
            .f_add_scalar(1.0)?
            .f_mul_scalar(0.5)?
            .f_mul_scalar((self.bins - 1) as f64)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantizer() -> Quantizer {
        Quantizer::new(3, 4)
    }

    #[test]
    fn codes_round_trip_through_latents() {
        let codes = Tensor::arange(64, (Kind::Int64, tch::Device::Cpu));
        let latents = quantizer().latents_of_codes(&codes).unwrap();
        let digits = quantizer().digits_of_quantized(&latents).unwrap();
        assert_eq!(quantizer().codes(&digits).unwrap(), codes);
    }

    #[test]
    fn digits_are_the_same_before_and_after_quantization() {
        let latents =
            Tensor::linspace(-4.0, 4.0, 3 * 999, (Kind::Float, tch::Device::Cpu)).view([-1, 3]);
        let quantized = quantizer().quantize(&latents).unwrap();
        let direct = quantizer().digits(&latents).unwrap();
        assert_eq!(direct, quantizer().digits_of_quantized(&quantized).unwrap());
        assert_eq!(direct.max().double_value(&[]), 3.0);
        assert_eq!(direct.min().double_value(&[]), 0.0);
    }

    #[test]
    fn the_gradient_ignores_the_rounding() {
        let latents = Tensor::from_slice(&[0.3_f32, -0.2, 0.9]).set_requires_grad(true);
        quantizer()
            .quantize(&latents)
            .unwrap()
            .sum(Kind::Float)
            .backward();
        let slope = Tensor::from_slice(&[1.0_f32; 3]) - latents.detach().tanh().square();
        assert!((latents.grad() - slope).abs().max().double_value(&[]) < 1e-6);
    }
}
