//! The dynamics model: predicts the codes of masked tokens from the other tokens of a window and the actions between its
//! frames (MaskGIT training, Chang et al. 2022).
//!
//! The loss is the cross-entropy of the masked tokens, so training computes scores over the codebook only for those.

use tch::{Device, Reduction, Tensor};

use super::blocks::{Linear, Transformer};
use super::config::ModelConfig;
use super::positions::Positions;
use crate::train::error::{Result, TrainError};
use crate::train::init::Init;
use crate::train::mask::TokenMask;
use crate::train::parameters::{Layout, PieceId, Weights};

/// Standard deviation of the mask token's initial values.
const MASK_DEVIATION: f64 = 0.02;

pub(crate) struct Dynamics {
    mask_token: PieceId,
    latent_embed: Linear,
    transformer: Transformer,
    to_scores: Linear,
    positions: Positions,
}

/// A micro-batch as the frozen models encode it.
pub(crate) struct Tokens {
    /// `[B, T, P]`, i64.
    pub codes: Tensor,
    /// The codes' latents, `[B, T, P, L]`.
    pub latents: Tensor,
    /// Quantized actions `[B, T - 1, A]`.
    pub actions: Tensor,
}

impl Dynamics {
    pub fn new(config: &ModelConfig, device: Device) -> Result<(Dynamics, Layout)> {
        config.validate()?;
        let mut layout = Layout::default();
        let l = &mut layout;
        let (dim, latent) = (config.embed_dim, config.latent_dim);
        let model = Dynamics {
            mask_token: l.single(
                "mask_token".to_owned(),
                &[1, 1, 1, latent],
                Init::Normal(MASK_DEVIATION),
            ),
            latent_embed: Linear::new(l, "latent_embed", latent, dim),
            transformer: Transformer::new(l, "transformer", config, Some(config.action_dim())),
            to_scores: Linear::new(l, "output_mlp", dim, config.codebook_size()),
            positions: Positions::new(config, device)?,
        };
        Ok((model, layout))
    }

    /// The input of the last layer, `[B, T, P, E]`, where masked tokens are replaced.
    fn hidden(&self, weights: &Weights, tokens: &Tokens, mask: &TokenMask) -> Result<Tensor> {
        let (batch, time, patches, _) = tokens.latents.size4()?;
        let found = [mask.batch, mask.time, mask.positions].map(|n| n as i64);
        if found != [batch, time, patches] || mask.masked.len() as i64 != batch * time * patches {
            return Err(TrainError::Input {
                what: "a token mask",
                found: format!("{found:?}"),
                expected: format!("{:?}", [batch, time, patches]),
            });
        }
        let masked = Tensor::f_from_slice(&mask.masked)?.f_view([batch, time, patches, 1])?;
        let masked = masked.f_to_device(tokens.latents.device())?;
        let seen = weights[self.mask_token].f_where_self(&masked, &tokens.latents)?;
        let embedded = self
            .latent_embed
            .apply(weights, &seen)?
            .f_add(&self.positions.first(time)?)?;
        let film = self.transformer.film(weights, &tokens.actions, time)?;
        self.transformer.apply(weights, Some(&film), embedded)
    }

    /// Scores of every code for every token, `[B, T, P, codebook]`.
    pub fn scores(&self, weights: &Weights, tokens: &Tokens, mask: &TokenMask) -> Result<Tensor> {
        self.to_scores
            .apply(weights, &self.hidden(weights, tokens, mask)?)
    }

    /// Scores `[n, codebook]` of the masked tokens in row-major order, and their codes `[n]`.
    pub fn masked_scores(
        &self,
        weights: &Weights,
        tokens: &Tokens,
        mask: &TokenMask,
    ) -> Result<(Tensor, Tensor)> {
        let hidden = self.hidden(weights, tokens, mask)?.f_flatten(0, 2)?;
        let indices = Tensor::f_from_slice(&mask.indices())?.f_to_device(hidden.device())?;
        let scores = self
            .to_scores
            .apply(weights, &hidden.f_index_select(0, &indices)?)?;
        Ok((
            scores,
            tokens.codes.f_flatten(0, -1)?.f_index_select(0, &indices)?,
        ))
    }

    /// Mean cross-entropy of the masked tokens, in nats; 0 if none is masked.
    pub fn loss(&self, weights: &Weights, tokens: &Tokens, mask: &TokenMask) -> Result<Tensor> {
        let (scores, codes) = self.masked_scores(weights, tokens, mask)?;
        let count = codes.size1()?.max(1) as f64;
        let sum =
            scores.f_cross_entropy_loss(&codes, None::<&Tensor>, Reduction::Sum, -100, 0.0)?;
        Ok(sum.f_div_scalar(count)?)
    }
}
