//! The space-time transformer that all three models share.
//!
//! A block attends over the patches of each frame, then causally over the frames of each patch, then applies a gated
//! feed-forward (SwiGLU). Each of the three adds its input to its output and normalises the sum: by root mean square, or,
//! with conditioning, by a layer norm that is scaled and shifted per frame (FiLM). All values are in [`Weights`].
//! Invariant: names and order of the parameters are those of TinyWorlds' modules.

use tch::{Kind, Tensor};

use super::config::ModelConfig;
use crate::train::error::{Result, TrainError};
use crate::train::init::Init;
use crate::train::parameters::{Layout, PieceId, Weights};

const NORM_EPSILON: f64 = 1e-5;
/// Standard deviation of FiLM's initial weights: small, but not zero, so that conditioning has an effect from the start.
const FILM_DEVIATION: f64 = 1e-3;
/// Attention over time uses plain products for windows up to this length, and a fused kernel for longer ones.
const SHORT_WINDOW: i64 = 8;

pub(crate) struct Linear {
    weight: PieceId,
    bias: PieceId,
}

impl Linear {
    pub fn new(layout: &mut Layout, name: &str, inputs: i64, outputs: i64) -> Linear {
        Linear::stacked(layout, &[name.to_owned()], inputs, outputs)
    }

    /// Several layers of the same input as one product, with their outputs concatenated.
    pub fn stacked(layout: &mut Layout, names: &[String], inputs: i64, outputs: i64) -> Linear {
        let linear = Linear {
            weight: layout.piece(),
            bias: layout.piece(),
        };
        for name in names {
            layout.add(
                linear.weight,
                format!("{name}.weight"),
                &[outputs, inputs],
                Init::FanIn(inputs),
            );
            layout.add(
                linear.bias,
                format!("{name}.bias"),
                &[outputs],
                Init::FanIn(inputs),
            );
        }
        linear
    }

    /// A 1 x 1 convolution, applied to rows: a linear layer whose weights have four dimensions.
    pub fn pointwise(layout: &mut Layout, name: &str, inputs: i64, outputs: i64) -> Linear {
        let weight = layout.single(
            format!("{name}.weight"),
            &[outputs, inputs, 1, 1],
            Init::FanIn(inputs),
        );
        let bias = layout.single(format!("{name}.bias"), &[outputs], Init::FanIn(inputs));
        Linear { weight, bias }
    }

    /// `[.., inputs]` to `[.., outputs]`.
    pub fn apply(&self, weights: &Weights, input: &Tensor) -> Result<Tensor> {
        let weight = &weights[self.weight];
        if weight.dim() == 2 {
            return Ok(input.f_linear(weight, Some(&weights[self.bias]))?);
        }
        Ok(input.f_linear(&weight.f_flatten(1, -1)?, Some(&weights[self.bias]))?)
    }

    /// The last `1 / parts` of a stacked layer.
    fn apply_last(&self, weights: &Weights, input: &Tensor, parts: i64) -> Result<Tensor> {
        let rows = weights[self.bias].size1()? / parts;
        let weight = weights[self.weight].f_narrow(0, rows * (parts - 1), rows)?;
        let bias = weights[self.bias].f_narrow(0, rows * (parts - 1), rows)?;
        Ok(input.f_linear(&weight, Some(&bias))?)
    }
}

/// Layer norm with its own scale and shift.
pub(crate) struct LayerNorm {
    weight: PieceId,
    bias: PieceId,
}

impl LayerNorm {
    pub fn new(layout: &mut Layout, name: &str, dim: i64) -> LayerNorm {
        let weight = layout.single(format!("{name}.weight"), &[dim], Init::Ones);
        let bias = layout.single(format!("{name}.bias"), &[dim], Init::Zeros);
        LayerNorm { weight, bias }
    }

    pub fn apply(&self, weights: &Weights, input: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (&weights[self.weight], &weights[self.bias]);
        Ok(input.f_layer_norm(
            [weight.size1()?],
            Some(weight),
            Some(bias),
            NORM_EPSILON,
            false,
        )?)
    }
}

/// The scales and shifts of one forward pass, one pair per norm, each `[B, T, 1, E]`.
pub(crate) struct Film {
    pairs: Vec<(Tensor, Tensor)>,
}

impl Film {
    fn frames(&self, from: i64, steps: i64) -> Result<Film> {
        let cut = |tensor: &Tensor| tensor.f_narrow(1, from, steps);
        let pairs = self
            .pairs
            .iter()
            .map(|(scale, shift)| Ok((cut(scale)?, cut(shift)?)));
        Ok(Film {
            pairs: pairs.collect::<Result<_>>()?,
        })
    }
}

enum Norm {
    /// `x / sqrt(mean(x^2) + eps) * weight`
    Rms(PieceId),
    /// `layer_norm(x) * (1 + gamma) + beta`, with the index of the pair in [`Film`].
    Film(usize),
}

impl Norm {
    fn apply(&self, weights: &Weights, film: Option<&Film>, input: &Tensor) -> Result<Tensor> {
        match self {
            Norm::Rms(weight) => rms_norm(input, &weights[*weight]),
            Norm::Film(index) => {
                let embed_dim = input.size().last().copied().unwrap_or(0);
                let normed = input.f_layer_norm(
                    [embed_dim],
                    None::<&Tensor>,
                    None::<&Tensor>,
                    NORM_EPSILON,
                    false,
                )?;
                match film.and_then(|film| film.pairs.get(*index)) {
                    Some((scale, shift)) => Ok(shift.f_addcmul(&normed, scale)?),
                    None => Ok(normed),
                }
            }
        }
    }
}

fn rms_norm(input: &Tensor, weight: &Tensor) -> Result<Tensor> {
    Ok(input
        .f_internal_fused_rms_norm([weight.size1()?], Some(weight), NORM_EPSILON)?
        .0)
}

/// Makes the norms of one transformer. Conditioned norms share one product per forward pass.
struct NormMaker {
    embed_dim: i64,
    conditioning: Option<Conditioning>,
}

struct Conditioning {
    linear: Linear,
    dim: i64,
    norms: usize,
}

impl NormMaker {
    fn new(layout: &mut Layout, embed_dim: i64, conditioning_dim: Option<i64>) -> NormMaker {
        let conditioning = conditioning_dim.map(|dim| Conditioning {
            linear: Linear {
                weight: layout.piece(),
                bias: layout.piece(),
            },
            dim,
            norms: 0,
        });
        NormMaker {
            embed_dim,
            conditioning,
        }
    }

    fn make(&mut self, layout: &mut Layout, prefix: &str) -> Norm {
        let Some(conditioning) = &mut self.conditioning else {
            return Norm::Rms(layout.single(
                format!("{prefix}.norm.rms.weight"),
                &[self.embed_dim],
                Init::Ones,
            ));
        };
        let name = format!("{prefix}.norm.to_gamma_beta.1");
        let rows = 2 * self.embed_dim;
        let linear = &conditioning.linear;
        layout.add(
            linear.weight,
            format!("{name}.weight"),
            &[rows, conditioning.dim],
            Init::Normal(FILM_DEVIATION),
        );
        layout.add(linear.bias, format!("{name}.bias"), &[rows], Init::Zeros);
        conditioning.norms += 1;
        Norm::Film(conditioning.norms - 1)
    }
}

struct Attention {
    qkv: Linear,
    out: Linear,
    norm: Norm,
    heads: i64,
}

impl Attention {
    fn new(
        layout: &mut Layout,
        prefix: &str,
        config: &ModelConfig,
        norms: &mut NormMaker,
    ) -> Attention {
        let dim = config.embed_dim;
        let names = ["q_proj", "k_proj", "v_proj"].map(|name| format!("{prefix}.{name}"));
        let qkv = Linear::stacked(layout, &names, dim, dim);
        let out = Linear::new(layout, &format!("{prefix}.out_proj"), dim, dim);
        Attention {
            qkv,
            out,
            norm: norms.make(layout, prefix),
            heads: config.num_heads,
        }
    }

    /// Attention over the patches of each frame: `[B, T, P, E]` to the same.
    fn over_patches(
        &self,
        weights: &Weights,
        film: Option<&Film>,
        input: &Tensor,
    ) -> Result<Tensor> {
        let (batch, time, patches, dim) = input.size4()?;
        let qkv = self.qkv.apply(weights, input)?;
        let qkv = qkv.f_view([batch * time, patches, 3, self.heads, dim / self.heads])?;
        let qkv = qkv.f_permute([2, 0, 3, 1, 4])?.f_unbind(0)?;
        let mixed = fused_attention(&qkv, false)?;
        let mixed = mixed
            .f_transpose(1, 2)?
            .f_reshape([batch, time, patches, dim])?;
        self.finish(weights, film, input, &mixed)
    }

    /// [`Attention::over_patches`] of frames whose patches are all equal, `[B, T, 1, E]`: attention
    /// over equal values returns that value.
    fn over_equal_patches(
        &self,
        weights: &Weights,
        film: Option<&Film>,
        input: &Tensor,
    ) -> Result<Tensor> {
        let mixed = self.qkv.apply_last(weights, input, 3)?;
        self.finish(weights, film, input, &mixed)
    }

    /// Causal attention over the frames of each patch: `[B, T, P, E]` to the same.
    fn over_time(&self, weights: &Weights, film: Option<&Film>, input: &Tensor) -> Result<Tensor> {
        let (batch, time, patches, dim) = input.size4()?;
        let width = dim / self.heads;
        let qkv = self.qkv.apply(weights, input)?;
        let mixed = if time <= SHORT_WINDOW {
            let qkv = qkv
                .f_view([batch, time, patches, 3, self.heads, width])?
                .f_unbind(3)?;
            short_causal_attention(&qkv)?.f_reshape([batch, time, patches, dim])?
        } else {
            let qkv = qkv.f_view([batch, time, patches, 3, self.heads, width])?;
            let qkv = qkv.f_permute([3, 0, 2, 4, 1, 5])?.f_reshape([
                3,
                batch * patches,
                self.heads,
                time,
                width,
            ])?;
            let mixed = fused_attention(&qkv.f_unbind(0)?, true)?;
            let mixed = mixed
                .f_view([batch, patches, self.heads, time, width])?
                .f_permute([0, 3, 1, 2, 4])?;
            mixed.f_reshape([batch, time, patches, dim])?
        };
        self.finish(weights, film, input, &mixed)
    }

    fn finish(
        &self,
        weights: &Weights,
        film: Option<&Film>,
        input: &Tensor,
        mixed: &Tensor,
    ) -> Result<Tensor> {
        let out = self.out.apply(weights, mixed)?;
        self.norm.apply(weights, film, &input.f_add(&out)?)
    }
}

/// `softmax(q k^T / sqrt(d)) v` for q, k, v of `[N, heads, length, d]`.
fn fused_attention(qkv: &[Tensor], causal: bool) -> Result<Tensor> {
    let [query, key, value] = qkv else {
        return Err(TrainError::Tensor(format!(
            "bug: {} tensors, expected q, k and v",
            qkv.len()
        )));
    };
    Ok(Tensor::f_scaled_dot_product_attention(
        query,
        key,
        value,
        None::<&Tensor>,
        0.0,
        causal,
        None,
        false,
    )?)
}

/// The same over the second dimension of q, k, v of `[B, T, P, heads, d]`, for a small `T`, as
/// element-wise products, which are faster than thousands of tiny matrix products.
fn short_causal_attention(qkv: &[Tensor]) -> Result<Tensor> {
    let [query, key, value] = qkv else {
        return Err(TrainError::Tensor(format!(
            "bug: {} tensors, expected q, k and v",
            qkv.len()
        )));
    };
    let (_, time, _, _, width) = query.size5()?;
    let query = query.f_mul_scalar(1.0 / (width as f64).sqrt())?;
    let scores = query
        .f_unsqueeze(2)?
        .f_mul(&key.f_unsqueeze(1)?)?
        .f_sum_dim_intlist(-1, true, None)?;
    let later = Tensor::f_full(
        [time, time],
        f64::NEG_INFINITY,
        (Kind::Float, query.device()),
    )?
    .f_triu(1)?;
    let scores = scores.f_add(&later.f_view([1, time, time, 1, 1, 1])?)?;
    let shares = scores.f_softmax(2, None)?;
    Ok(shares
        .f_mul(&value.f_unsqueeze(1)?)?
        .f_sum_dim_intlist(2, false, None)?)
}

struct FeedForward {
    gated: Linear,
    out: Linear,
    norm: Norm,
}

impl FeedForward {
    fn new(
        layout: &mut Layout,
        prefix: &str,
        config: &ModelConfig,
        norms: &mut NormMaker,
    ) -> FeedForward {
        let (dim, inner) = (config.embed_dim, config.feed_forward());
        let names = ["w_v", "w_g"].map(|name| format!("{prefix}.{name}"));
        let gated = Linear::stacked(layout, &names, dim, inner);
        let out = Linear::new(layout, &format!("{prefix}.w_o"), inner, dim);
        FeedForward {
            gated,
            out,
            norm: norms.make(layout, prefix),
        }
    }

    /// `norm(x + w_o(silu(w_v x) * w_g x))`
    fn apply(&self, weights: &Weights, film: Option<&Film>, input: &Tensor) -> Result<Tensor> {
        let inner = self.gated.apply(weights, input)?;
        let width = inner.size().last().copied().unwrap_or(0) / 2;
        let value = inner.f_narrow(-1, 0, width)?.f_silu()?;
        let gate = inner.f_narrow(-1, width, width)?;
        let out = self.out.apply(weights, &value.f_mul(&gate)?)?;
        self.norm.apply(weights, film, &input.f_add(&out)?)
    }
}

struct Block {
    spatial: Attention,
    temporal: Attention,
    feed_forward: FeedForward,
}

impl Block {
    fn after_patches(
        &self,
        weights: &Weights,
        film: Option<&Film>,
        input: &Tensor,
    ) -> Result<Tensor> {
        let input = self.temporal.over_time(weights, film, input)?;
        self.feed_forward.apply(weights, film, &input)
    }

    fn apply(&self, weights: &Weights, film: Option<&Film>, input: &Tensor) -> Result<Tensor> {
        let input = self.spatial.over_patches(weights, film, input)?;
        self.after_patches(weights, film, &input)
    }
}

pub(crate) struct Transformer {
    blocks: Vec<Block>,
    conditioning: Option<Conditioning>,
}

impl Transformer {
    pub fn new(
        layout: &mut Layout,
        prefix: &str,
        config: &ModelConfig,
        conditioning_dim: Option<i64>,
    ) -> Transformer {
        let mut norms = NormMaker::new(layout, config.embed_dim, conditioning_dim);
        let mut block = |index| {
            let prefix = format!("{prefix}.blocks.{index}");
            Block {
                spatial: Attention::new(
                    layout,
                    &format!("{prefix}.spatial_attn"),
                    config,
                    &mut norms,
                ),
                temporal: Attention::new(
                    layout,
                    &format!("{prefix}.temporal_attn"),
                    config,
                    &mut norms,
                ),
                feed_forward: FeedForward::new(
                    layout,
                    &format!("{prefix}.ffn"),
                    config,
                    &mut norms,
                ),
            }
        };
        let blocks = (0..config.num_blocks).map(&mut block).collect();
        Transformer {
            blocks,
            conditioning: norms.conditioning,
        }
    }

    /// Embeddings with positions, `[B, T, P, E]`, to the same.
    pub fn apply(&self, weights: &Weights, film: Option<&Film>, input: Tensor) -> Result<Tensor> {
        let mut state = input;
        for block in &self.blocks {
            state = block.apply(weights, film, &state)?;
        }
        Ok(state)
    }

    /// The same for a first frame `[B, 1, P, E]` and later frames `[1, T - 1, 1, E]` that are equal
    /// in every sample and patch, so the first attention over their patches is trivial.
    pub fn apply_to_first(
        &self,
        weights: &Weights,
        film: &Film,
        first: &Tensor,
        later: &Tensor,
    ) -> Result<Tensor> {
        let Some((block, rest)) = self.blocks.split_first() else {
            return Err(TrainError::Tensor("bug: no blocks".to_owned()));
        };
        let (batch, _, patches, dim) = first.size4()?;
        let steps = later.size4()?.1;
        let seen = block
            .spatial
            .over_patches(weights, Some(&film.frames(0, 1)?), first)?;
        let alike =
            block
                .spatial
                .over_equal_patches(weights, Some(&film.frames(1, steps)?), later)?;
        let alike = alike.f_expand([batch, steps, patches, dim], false)?;
        let mut state =
            block.after_patches(weights, Some(film), &Tensor::f_cat(&[seen, alike], 1)?)?;
        for block in rest {
            state = block.apply(weights, Some(film), &state)?;
        }
        Ok(state)
    }

    /// Scales and shifts for `steps` frames from conditioning `[B, steps or steps - 1, C]`. With
    /// `steps - 1` the first frame has no conditioning, and is neither scaled nor shifted.
    pub fn film(&self, weights: &Weights, conditioning: &Tensor, steps: i64) -> Result<Film> {
        let Some(layer) = &self.conditioning else {
            return Ok(Film { pairs: Vec::new() });
        };
        let rows = conditioning.size3()?.1;
        let all = layer.linear.apply(weights, &conditioning.f_silu()?)?;
        let all = all
            .f_constant_pad_nd([0, 0, steps - rows, 0])?
            .f_unsqueeze(2)?;
        let halves = all.f_chunk(2 * layer.norms as i64, -1)?;
        let (pairs, _) = halves.as_chunks::<2>();
        let pairs = pairs
            .iter()
            .map(|[gamma, beta]| Ok((gamma.f_add_scalar(1.0)?, beta.shallow_clone())));
        Ok(Film {
            pairs: pairs.collect::<Result<_>>()?,
        })
    }
}
