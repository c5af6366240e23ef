//! The video tokenizer: frames to codes and back.
//!
//! An encoder (patches, transformer, a small head), finite scalar quantization, and a decoder
//! that mirrors it. The loss is the smooth-L1 distance between frames and their reconstruction.

use tch::{Device, Reduction, Tensor};

use super::blocks::{LayerNorm, Linear, Transformer};
use super::config::ModelConfig;
use super::fsq::Quantizer;
use super::positions::Positions;
use crate::train::error::Result;
use crate::train::parameters::{Layout, Weights};

pub(crate) struct VideoTokenizer {
    embed: Linear,
    encoder: Transformer,
    head_norm: LayerNorm,
    head: Linear,
    latent_embed: Linear,
    decoder: Transformer,
    to_pixels: Linear,
    quantizer: Quantizer,
    positions: Positions,
}

impl VideoTokenizer {
    pub fn new(config: &ModelConfig, device: Device) -> Result<(VideoTokenizer, Layout)> {
        config.validate()?;
        let mut layout = Layout::default();
        let l = &mut layout;
        let (dim, latent, pixels) = (config.embed_dim, config.latent_dim, config.patch_values());
        let model = VideoTokenizer {
            embed: Linear::pointwise(l, "encoder.patch_embed.proj", pixels, dim),
            encoder: Transformer::new(l, "encoder.transformer", config, None),
            head_norm: LayerNorm::new(l, "encoder.latent_head.0", dim),
            head: Linear::new(l, "encoder.latent_head.1", dim, latent),
            latent_embed: Linear::new(l, "decoder.latent_embed", latent, dim),
            decoder: Transformer::new(l, "decoder.transformer", config, None),
            to_pixels: Linear::pointwise(l, "decoder.frame_head.to_pixels", dim, pixels),
            quantizer: Quantizer::saved(l, latent, config.num_bins),
            positions: Positions::new(config, device)?,
        };
        Ok((model, layout))
    }

    /// Patch rows `[B, T, P, 3 p^2]` to unquantized latents `[B, T, P, L]`.
    pub fn encode(&self, weights: &Weights, rows: &Tensor) -> Result<Tensor> {
        let steps = rows.size4()?.1;
        let embedded = self
            .embed
            .apply(weights, rows)?
            .f_add(&self.positions.first(steps)?)?;
        let encoded = self.encoder.apply(weights, None, embedded)?;
        self.head
            .apply(weights, &self.head_norm.apply(weights, &encoded)?)
    }

    /// Quantized latents `[B, T, P, L]` to patch rows `[B, T, P, 3 p^2]`.
    pub fn decode(&self, weights: &Weights, quantized: &Tensor) -> Result<Tensor> {
        let steps = quantized.size4()?.1;
        let embedded = self.latent_embed.apply(weights, quantized)?;
        let embedded = embedded.f_add(&self.positions.first(steps)?)?;
        let decoded = self.decoder.apply(weights, None, embedded)?;
        self.to_pixels.apply(weights, &decoded)
    }

    /// Reconstruction `[B, T, P, 3 p^2]` and the quantized latents it was made from.
    pub fn forward(&self, weights: &Weights, rows: &Tensor) -> Result<(Tensor, Tensor)> {
        let quantized = self.quantizer.quantize(&self.encode(weights, rows)?)?;
        Ok((self.decode(weights, &quantized)?, quantized))
    }

    /// Mean smooth-L1 of a reconstruction.
    pub fn loss(&self, reconstruction: &Tensor, rows: &Tensor) -> Result<Tensor> {
        Ok(reconstruction.f_smooth_l1_loss(rows, Reduction::Mean, 1.0)?)
    }

    /// Patch rows to codes `[B, T, P]` (i64) and their latents `[B, T, P, L]`.
    pub fn tokenize(&self, weights: &Weights, rows: &Tensor) -> Result<(Tensor, Tensor)> {
        let digits = self.quantizer.digits(&self.encode(weights, rows)?)?;
        Ok((
            self.quantizer.codes(&digits)?,
            self.quantizer.levels_to_latents(&digits)?,
        ))
    }

    /// Codes of quantized latents.
    pub fn codes_of_quantized(&self, quantized: &Tensor) -> Result<Tensor> {
        self.quantizer
            .codes(&self.quantizer.digits_of_quantized(quantized)?)
    }

    /// Codes `[B, T, P]` to patch rows `[B, T, P, 3 p^2]`.
    pub fn detokenize(&self, weights: &Weights, codes: &Tensor) -> Result<Tensor> {
        self.decode(weights, &self.quantizer.latents_of_codes(codes)?)
    }
}
