//! A stage's model with its upstream models: frames in; losses, gradients and predicted frames out.
//!
//! Frames are u8 `[B, T, H, W, 3]`. For dynamics the frozen upstream models turn them into tokens and actions. The caller
//! chooses frames and masks. Scoring and predicting need no optimizer.
//!
//! Invariant: only [`Pipeline::load`] changes weights.

use tch::{Device, Kind, Reduction, Tensor};

use super::error::{Result, TrainError};
use super::mask::TokenMask;
use super::mean::Mean;
use super::micro_batch::{HeldOut, MicroBatch, narrow, samples_of, wrong_mask};
use super::model::{Accumulated, Batch, Model, Network, TokenBatch, Wanted};
use super::models::latent_actions::next_frames;
use super::models::{ModelConfig, check_frames, frames_of, mask_rows, patches_of_bytes};
use super::parameters::{NamedTensor, Weights};
use super::pieces::Pieces;
use super::upstream::Upstream;
use crate::presets::ModelKind;

/// A model, and for dynamics its upstream models.
pub struct Pipeline {
    model: Model,
    upstream: Option<Upstream>,
}

/// Losses over held-out batches. Each is a mean over all elements of all batches, except the total and the penalty of
/// latent actions, which are means over batches.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The stage's own loss.
    pub loss: f64,
    /// The loss without the variance penalty; the loss itself in the other stages. A trivial
    /// predictor's loss is compared with this one.
    pub reconstruction: f64,
    /// The variance penalty of latent actions; 0 in the other stages.
    pub penalty: f64,
    /// Smooth-L1 over the values of moving pixels; `None` if no pixel moves.
    pub moving: Option<f64>,
}

/// Frames predicted by a model, `[B, T, H, W, 3]` row-major, each value in `[-1, 1]`.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictedFrames {
    pub batch: usize,
    pub time: usize,
    pub size: usize,
    pub values: Vec<f32>,
}

impl Pipeline {
    /// # Errors
    /// A dynamics model whose upstream models are missing or do not fit, or another model with upstream models.
    pub fn new(model: Model, upstream: Option<Upstream>) -> Result<Pipeline> {
        match (model.kind(), &upstream) {
            (ModelKind::Dynamics, Some(upstream)) => upstream.check(model.config())?,
            (ModelKind::VideoTokenizer | ModelKind::LatentActions, None) => {}
            (ModelKind::Dynamics, None) => {
                return Err(wrong_upstream("missing", "two for dynamics"));
            }
            (ModelKind::VideoTokenizer | ModelKind::LatentActions, Some(_)) => {
                return Err(wrong_upstream("given", "none outside dynamics"));
            }
        }
        Ok(Pipeline { model, upstream })
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub(crate) fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    /// The upstream models of dynamics; `None` for the other kinds.
    pub fn upstream(&self) -> Option<&Upstream> {
        self.upstream.as_ref()
    }

    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// The model, then its upstream models.
    pub(crate) fn models(&self) -> impl Iterator<Item = &Model> {
        let upstream = self.upstream.iter().flat_map(Upstream::models);
        std::iter::once(&self.model).chain(upstream)
    }

    /// The model, and its upstream models.
    pub(crate) fn models_mut(&mut self) -> (&mut Model, impl Iterator<Item = &mut Model>) {
        let upstream = self.upstream.iter_mut().flat_map(Upstream::models_mut);
        (&mut self.model, upstream)
    }

    /// Replaces the weights of the model. On an error nothing changes.
    pub fn load(&mut self, weights: &[NamedTensor]) -> Result<()> {
        self.model.load(weights)
    }

    /// Loss and gradients of one update: the mean over its micro-batches.
    pub fn accumulate(&self, micro_batches: &[MicroBatch], wanted: Wanted) -> Result<Accumulated> {
        let batches = micro_batches
            .iter()
            .map(|micro_batch| self.prepare(micro_batch));
        self.model
            .accumulate(&batches.collect::<Result<Vec<_>>>()?, wanted)
    }

    /// Held-out losses of the current weights. Batches are taken one by one and forwarded in `pieces`.
    ///
    /// # Errors
    /// Those of the batches, batches that do not fit the stage, or too little memory for one sample.
    pub fn evaluate<E: From<TrainError>>(
        &self,
        held_out: impl IntoIterator<Item = std::result::Result<HeldOut, E>>,
        pieces: &mut Pieces,
    ) -> std::result::Result<Evaluation, E> {
        let weights = self.model.weights()?;
        let mut means = Means::default();
        for item in held_out {
            self.add_batch(&mut means, &weights, &item?, pieces)?;
        }
        Ok(means.evaluation()?)
    }

    fn add_batch(
        &self,
        means: &mut Means,
        weights: &Weights,
        item: &HeldOut,
        pieces: &mut Pieces,
    ) -> Result<()> {
        let samples = item.batch.samples()?;
        let scores = pieces.forward(samples, |piece| self.score(weights, &item.piece(piece)?))?;
        let mut reconstruction = Mean::default();
        let mut actions = Vec::new();
        for score in scores {
            for mean in [&mut reconstruction, &mut means.reconstruction] {
                mean.add(score.reconstruction.0, score.reconstruction.1);
            }
            if let Some((value, count)) = score.moving {
                means.moving.add(value, count);
            }
            actions.extend(score.actions);
        }
        // The variance of actions is a statistic of the whole batch.
        if let (Network::Latent(model), Some(reconstruction)) =
            (self.model.network(), reconstruction.mean())
        {
            let penalty = value(&model.penalty(&Tensor::f_cat(&actions, 0)?)?)?;
            means.penalty.add(penalty, 1.0);
            // The sum is rounded to f32, as in training.
            let total = f64::from(reconstruction as f32 + penalty as f32);
            means.loss.add(total, 1.0);
        }
        Ok(())
    }

    /// Losses of a piece of a batch, each with the number of values behind it.
    fn score(&self, weights: &Weights, item: &HeldOut) -> Result<Score> {
        match (self.model.network(), self.prepare(&item.batch)?) {
            (Network::Video(model), Batch::Rows(rows)) => {
                let drawn = model.forward(weights, &rows)?.0;
                Ok(Score {
                    reconstruction: (value(&model.loss(&drawn, &rows)?)?, drawn.numel() as f64),
                    moving: self.moving(item, &drawn, &rows)?,
                    actions: None,
                })
            }
            (Network::Latent(model), Batch::Rows(rows)) => {
                let pass = model.forward(weights, &rows)?;
                let count = pass.prediction.numel() as f64;
                Ok(Score {
                    reconstruction: (value(&model.reconstruction(&pass, &rows)?)?, count),
                    moving: self.moving(item, &pass.prediction, &rows)?,
                    actions: Some(pass.actions),
                })
            }
            (Network::Dynamics(model), Batch::Masked(batch)) => {
                let loss = value(&model.loss(weights, &batch.tokens, &batch.mask)?)?;
                Ok(Score {
                    reconstruction: (loss, batch.mask.indices().len() as f64),
                    moving: None,
                    actions: None,
                })
            }
            (Network::Video(_) | Network::Latent(_) | Network::Dynamics(_), _) => Err(
                TrainError::Tensor("bug: a batch of another stage".to_owned()),
            ),
        }
    }

    /// Mean loss over the values of moving pixels, and how many there are; `None` when none moves.
    fn moving(&self, item: &HeldOut, drawn: &Tensor, rows: &Tensor) -> Result<Option<(f64, f64)>> {
        let Some(pixels) = &item.moving else {
            return Ok(None);
        };
        let frames = item.batch.frames.size();
        if pixels.size() != frames[..4] {
            return Err(TrainError::Input {
                what: "a mask of moving pixels",
                found: format!("{:?}", pixels.size()),
                expected: format!("{:?}", &frames[..4]),
            });
        }
        let chosen = mask_rows(pixels, self.config().patch_size, rows.device())?;
        let skipped = rows.size()[1] - drawn.size()[1];
        let (chosen, rows) = if skipped == 0 {
            (chosen, rows.shallow_clone())
        } else {
            (next_frames(&chosen)?, next_frames(rows)?)
        };
        let distances = drawn
            .f_smooth_l1_loss(&rows, Reduction::None, 1.0)?
            .f_mul(&chosen)?;
        let count = value(&chosen.f_sum(Kind::Double)?)?;
        if count <= 0.0 {
            return Ok(None);
        }
        let mean = value(&distances.f_sum(Kind::Double)?)? / count;
        Ok(Some((mean, count)))
    }

    /// Predicts frames: the reconstruction of all (video tokenizer), those after the first (latent
    /// actions), or the last one from the true frames before it and the actions, with all its tokens
    /// guessed in one step (dynamics).
    ///
    /// # Errors
    /// Frames that do not fit the stage, or too little memory for one window.
    pub fn predict(&self, frames: &Tensor, pieces: &mut Pieces) -> Result<PredictedFrames> {
        check_frames(frames, self.config())?;
        let weights = self.model.weights()?;
        let drawn = pieces.forward(samples_of(frames)?, |piece| {
            self.draw(&weights, &narrow(frames, piece)?)
        })?;
        let mut drawn = drawn.into_iter();
        let mut all = drawn
            .next()
            .ok_or_else(|| TrainError::missing("the list of frames to predict"))?;
        for more in drawn {
            all.batch += more.batch;
            all.values.extend(more.values);
        }
        Ok(all)
    }

    fn draw(&self, weights: &Weights, frames: &Tensor) -> Result<PredictedFrames> {
        let rows = match (self.model.network(), &self.upstream) {
            (Network::Video(model), _) => model.forward(weights, &self.rows(frames)?)?.0,
            (Network::Latent(model), _) => model.forward(weights, &self.rows(frames)?)?.prediction,
            (Network::Dynamics(model), upstream) => {
                let upstream = upstream
                    .as_ref()
                    .ok_or_else(|| wrong_upstream("missing", "two for dynamics"))?;
                let mut tokens = upstream.tokens(frames)?;
                let (batch, time, positions) = tokens.codes.size3()?;
                let mask = TokenMask::last_frame(batch as usize, time as usize, positions as usize);
                let scores = model.masked_scores(weights, &tokens, &mask)?.0;
                let guessed = scores.f_argmax(-1, false)?.f_view([batch, 1, positions])?;
                let before = tokens.codes.f_narrow(1, 0, time - 1)?;
                tokens.codes = Tensor::f_cat(&[before, guessed], 1)?;
                upstream.decode(&tokens.codes)?.f_narrow(1, time - 1, 1)?
            }
        };
        self.pictures(&rows)
    }

    fn prepare(&self, micro_batch: &MicroBatch) -> Result<Batch> {
        check_frames(&micro_batch.frames, self.config())?;
        match (&self.upstream, &micro_batch.mask) {
            (None, None) => Ok(Batch::Rows(self.rows(&micro_batch.frames)?)),
            (Some(upstream), Some(mask)) => Ok(Batch::Masked(TokenBatch {
                tokens: upstream.tokens(&micro_batch.frames)?,
                mask: mask.clone(),
            })),
            (Some(_), None) => Err(wrong_mask("missing", "one per micro-batch of dynamics")),
            (None, Some(_)) => Err(wrong_mask("given", "none outside dynamics")),
        }
    }

    fn rows(&self, frames: &Tensor) -> Result<Tensor> {
        patches_of_bytes(frames, self.config().patch_size, self.model.device())
    }

    fn pictures(&self, rows: &Tensor) -> Result<PredictedFrames> {
        let config = self.config();
        let frames = frames_of(
            &rows.f_clamp(-1.0, 1.0)?,
            config.patch_size,
            config.frame_size,
        )?;
        let frames = frames
            .f_permute([0, 1, 3, 4, 2])?
            .f_contiguous()?
            .f_to_device(Device::Cpu)?;
        let (batch, time, ..) = frames.size5()?;
        let mut values = vec![0.0; frames.numel()];
        frames.f_copy_data(&mut values, frames.numel())?;
        Ok(PredictedFrames {
            batch: batch as usize,
            time: time as usize,
            size: config.frame_size as usize,
            values,
        })
    }
}

fn wrong_upstream(found: &str, expected: &str) -> TrainError {
    TrainError::Input {
        what: "the pair of upstream models",
        found: found.to_owned(),
        expected: expected.to_owned(),
    }
}

fn value(scalar: &Tensor) -> Result<f64> {
    Ok(scalar.f_double_value(&[])?)
}

/// Losses of a piece of a batch: means, each with the number of values behind it.
struct Score {
    reconstruction: (f64, f64),
    moving: Option<(f64, f64)>,
    /// Unquantized actions `[n, T - 1, A]`; latent actions only.
    actions: Option<Tensor>,
}

/// Losses of the batches so far.
#[derive(Default)]
struct Means {
    loss: Mean,
    penalty: Mean,
    reconstruction: Mean,
    moving: Mean,
}

impl Means {
    fn evaluation(&self) -> Result<Evaluation> {
        let reconstruction = self.reconstruction.mean();
        let reconstruction =
            reconstruction.ok_or_else(|| TrainError::missing("the list of held-out batches"))?;
        Ok(Evaluation {
            loss: self.loss.mean().unwrap_or(reconstruction),
            reconstruction,
            penalty: self.penalty.mean().unwrap_or(0.0),
            moving: self.moving.mean(),
        })
    }
}
