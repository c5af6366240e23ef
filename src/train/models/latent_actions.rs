//! The latent-action model: what happened between two frames, as one of a few actions.
//!
//! The encoder maps each pair of neighbouring frames to an action. The decoder predicts the later frames from the first
//! frame and the actions alone, so everything that moves must be encoded in the actions.

use tch::{Device, Kind, Reduction, Tensor};

use super::blocks::{LayerNorm, Linear, Transformer};
use super::config::ModelConfig;
use super::fsq::Quantizer;
use super::positions::Positions;
use crate::train::error::Result;
use crate::train::init::Init;
use crate::train::parameters::{Layout, PieceId, Weights};

/// Levels of each number in an action.
const ACTION_BINS: i64 = 2;
/// Actions with a variance over the batch below this are penalized.
const VARIANCE_TARGET: f64 = 0.01;
/// The weight of that penalty.
const VARIANCE_WEIGHT: f64 = 100.0;

pub(crate) struct LatentActions {
    encoder_embed: Linear,
    encoder: Transformer,
    head_norm: LayerNorm,
    head_in: Linear,
    head_out: Linear,
    quantizer: Quantizer,
    mask_token: PieceId,
    decoder_embed: Linear,
    decoder: Transformer,
    frame_norm: LayerNorm,
    to_pixels: Linear,
    positions: Positions,
}

/// One pass over a micro-batch.
pub(crate) struct ActionPass {
    /// The predicted frames `1..T`, patch rows `[B, T - 1, P, 3 p^2]` in `(-1, 1)`.
    pub prediction: Tensor,
    /// Unquantized actions `[B, T - 1, A]`.
    pub actions: Tensor,
    pub quantized: Tensor,
}

impl LatentActions {
    pub fn new(config: &ModelConfig, device: Device) -> Result<(LatentActions, Layout)> {
        config.validate()?;
        let mut layout = Layout::default();
        let l = &mut layout;
        let (dim, bits, pixels) = (config.embed_dim, config.action_dim(), config.patch_values());
        let model = LatentActions {
            encoder_embed: Linear::pointwise(l, "encoder.patch_embed.proj", pixels, dim),
            encoder: Transformer::new(l, "encoder.transformer", config, None),
            head_norm: LayerNorm::new(l, "encoder.action_head.0", 2 * dim),
            head_in: Linear::new(l, "encoder.action_head.1", 2 * dim, 4 * bits),
            head_out: Linear::new(l, "encoder.action_head.3", 4 * bits, bits),
            quantizer: Quantizer::saved(l, bits, ACTION_BINS),
            mask_token: l.single(
                "decoder.mask_token".to_owned(),
                &[1, 1, 1, dim],
                Init::Zeros,
            ),
            decoder_embed: Linear::pointwise(l, "decoder.patch_embed.proj", pixels, dim),
            decoder: Transformer::new(l, "decoder.transformer", config, Some(bits)),
            frame_norm: LayerNorm::new(l, "decoder.frame_head.0", dim),
            to_pixels: Linear::new(l, "decoder.frame_head.1", dim, pixels),
            positions: Positions::new(config, device)?,
        };
        Ok((model, layout))
    }

    /// Patch rows `[B, T, P, 3 p^2]` to unquantized actions `[B, T - 1, A]`.
    pub fn encode(&self, weights: &Weights, rows: &Tensor) -> Result<Tensor> {
        let steps = rows.size4()?.1;
        let embedded = self
            .encoder_embed
            .apply(weights, rows)?
            .f_add(&self.positions.first(steps)?)?;
        let encoded = self.encoder.apply(weights, None, embedded)?;
        let pooled = encoded.f_mean_dim(2, false, None)?;
        let pairs = Tensor::f_cat(
            &[
                pooled.f_narrow(1, 0, steps - 1)?,
                pooled.f_narrow(1, 1, steps - 1)?,
            ],
            -1,
        )?;
        let inner = self
            .head_in
            .apply(weights, &self.head_norm.apply(weights, &pairs)?)?;
        self.head_out.apply(weights, &inner.f_gelu("none")?)
    }

    pub fn quantize(&self, actions: &Tensor) -> Result<Tensor> {
        self.quantizer.quantize(actions)
    }

    /// Predicts frames `1..T` from the first frame of `rows` and quantized actions `[B, T - 1, A]`.
    fn decode(&self, weights: &Weights, rows: &Tensor, quantized: &Tensor) -> Result<Tensor> {
        let steps = rows.size4()?.1 - 1;
        let first = self
            .decoder_embed
            .apply(weights, &rows.f_narrow(1, 0, 1)?)?;
        let first = first.f_add(&self.positions.first(1)?)?;
        let film = self.decoder.film(weights, quantized, steps)?;
        let decoded = if steps == 1 {
            self.decoder.apply(weights, Some(&film), first)?
        } else {
            // As in TinyWorlds, a masked token encodes its time but not its position in space.
            let later = self
                .positions
                .time(1, steps - 1)?
                .f_add(&weights[self.mask_token])?;
            self.decoder
                .apply_to_first(weights, &film, &first, &later)?
        };
        let pixels = self
            .to_pixels
            .apply(weights, &self.frame_norm.apply(weights, &decoded)?)?;
        Ok(pixels.f_tanh()?)
    }

    pub fn forward(&self, weights: &Weights, rows: &Tensor) -> Result<ActionPass> {
        let actions = self.encode(weights, rows)?;
        let quantized = self.quantize(&actions)?;
        let prediction = self.decode(weights, rows, &quantized)?;
        Ok(ActionPass {
            prediction,
            actions,
            quantized,
        })
    }

    /// Smooth-L1 to the frames after the first, plus the penalty on actions that vary too little.
    pub fn loss(&self, pass: &ActionPass, rows: &Tensor) -> Result<Tensor> {
        let reconstruction = self.reconstruction(pass, rows)?;
        Ok(reconstruction.f_add(&self.penalty(&pass.actions)?)?)
    }

    /// Mean smooth-L1 to the frames after the first.
    pub fn reconstruction(&self, pass: &ActionPass, rows: &Tensor) -> Result<Tensor> {
        Ok(pass
            .prediction
            .f_smooth_l1_loss(&next_frames(rows)?, Reduction::Mean, 1.0)?)
    }

    /// The penalty on unquantized actions `[B, T - 1, A]` that vary too little over a batch:
    /// `100 * relu(0.01 - variance)`.
    pub fn penalty(&self, actions: &Tensor) -> Result<Tensor> {
        let variance = actions.f_var_dim(0, false, false)?.f_mean(Kind::Float)?;
        let short = variance.f_neg()?.f_add_scalar(VARIANCE_TARGET)?;
        Ok(short.f_relu()?.f_mul_scalar(VARIANCE_WEIGHT)?)
    }
}

/// Indices `0..n_actions` of quantized actions `[.., A]`, i64.
pub(crate) fn action_indices(quantized: &Tensor) -> Result<Tensor> {
    let bits = quantized.size().last().copied().unwrap_or(0);
    let quantizer = Quantizer::new(bits, ACTION_BINS);
    quantizer.codes(&quantizer.digits_of_quantized(quantized)?)
}

/// The target of the decoder: all frames but the first.
pub(crate) fn next_frames(rows: &Tensor) -> Result<Tensor> {
    let steps = rows.size4()?.1;
    Ok(rows.f_narrow(1, 1, steps - 1)?)
}
