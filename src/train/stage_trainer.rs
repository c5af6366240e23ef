//! The trainer of one stage: frames in, metrics, evaluations and pictures out.
//!
//! Owns the stage's model and optimizer, and for dynamics the frozen video tokenizer and action
//! encoder that turn frames into tokens and actions. Frames arrive as u8 `[B, T, H, W, 3]`; which
//! frames, masks and rates is the caller's business, and so are gates, files and clocks.
//! Invariant: evaluation and prediction never change a weight or a moment.

use std::collections::BTreeSet;

use tch::{Device, Kind, Reduction, Tensor};

use super::error::{Result, TrainError};
use super::init::InitKey;
use super::learner::{
    Accumulated, Batch, Learner, Stage, StageModel, TokenBatch, UpdateMetrics, Wanted,
    host_integers,
};
use super::mask::TokenMask;
use super::models::dynamics::Tokens;
use super::models::latent_actions::next_frames;
use super::models::{
    ConfigError, ModelConfig, check_frames, frames_of, mask_rows, patches_of_bytes,
};
use super::optimizer::OptimizerState;
use super::parameters::{NamedTensor, Weights, host_floats};
use super::pieces::{Piece, Pieces};

/// The weights a finished stage handed on, and the config they were made for.
pub struct FrozenModel {
    pub config: ModelConfig,
    pub weights: Vec<NamedTensor>,
}

/// What dynamics sees frames through.
pub struct FrozenModels {
    pub video_tokenizer: FrozenModel,
    pub latent_actions: FrozenModel,
}

/// The shapes of what dynamics sees frames through.
pub(crate) struct FrozenConfigs {
    pub video_tokenizer: ModelConfig,
    pub latent_actions: ModelConfig,
}

/// Which stage to train, with what it needs of the stages before.
pub enum StageKind {
    VideoTokenizer,
    LatentActions,
    Dynamics(Box<FrozenModels>),
}

pub struct StageTrainer {
    learner: Learner,
    frozen: Option<Frozen>,
}

struct Frozen {
    tokenizer: Learner,
    actions: Learner,
}

/// One micro-batch. `mask` is for dynamics and must be there exactly for it.
pub struct MicroBatch {
    /// u8 `[B, T, H, W, 3]`
    pub frames: Tensor,
    pub mask: Option<TokenMask>,
}

/// One held-out micro-batch.
pub struct HeldOut {
    pub batch: MicroBatch,
    /// Pixels `[B, T, H, W]` (nonzero = moving) to take the loss over a second time; for video
    /// tokenizer and latent actions.
    pub moving: Option<Tensor>,
}

/// Losses over held-out batches; each mean is over all elements of all batches alike, but for the
/// total and the penalty of latent actions, which are means over batches.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The stage's own loss.
    pub loss: f64,
    /// The loss without the variance penalty; the loss itself in the other stages. This is what
    /// a trivial predictor's loss compares with.
    pub reconstruction: f64,
    /// The variance penalty of latent actions; 0 in the other stages.
    pub penalty: f64,
    /// Smooth-L1 over the values of moving pixels; `None` when none was marked.
    pub moving: Option<f64>,
}

/// Frames as drawn by a model, `[B, T, H, W, 3]` row-major, each value in `[-1, 1]`.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictedFrames {
    pub batch: usize,
    pub time: usize,
    pub size: usize,
    pub values: Vec<f32>,
}

/// How often each code occurs at each position, over all frames of some batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenCounts {
    pub positions: usize,
    pub codebook_size: usize,
    /// `[positions][codebook_size]`, row-major.
    pub counts: Vec<u64>,
}

impl StageTrainer {
    /// A fresh model whose first weights follow from `key` alone.
    ///
    /// # Errors
    /// A config no model can have, or frozen models that do not fit it.
    pub fn new(
        kind: StageKind,
        config: &ModelConfig,
        key: &InitKey,
        device: Device,
    ) -> Result<StageTrainer> {
        match kind {
            StageKind::VideoTokenizer => Ok(StageTrainer {
                learner: Learner::new(Stage::VideoTokenizer, config, key, device)?,
                frozen: None,
            }),
            StageKind::LatentActions => Ok(StageTrainer {
                learner: Learner::new(Stage::LatentActions, config, key, device)?,
                frozen: None,
            }),
            StageKind::Dynamics(frozen) => {
                let FrozenModels {
                    video_tokenizer,
                    latent_actions,
                } = *frozen;
                check_tokenizer(&video_tokenizer.config, config)?;
                check_actions(&latent_actions.config, config)?;
                let tokenizer = thaw(Stage::VideoTokenizer, &video_tokenizer, key, device)?;
                let actions = thaw(Stage::LatentActions, &latent_actions, key, device)?;
                Ok(StageTrainer {
                    learner: Learner::new(Stage::Dynamics, config, key, device)?,
                    frozen: Some(Frozen { tokenizer, actions }),
                })
            }
        }
    }

    /// A trainer whose weights, and those of the frozen models `upstream`, are to come from another rank.
    pub(crate) fn awaiting(
        stage: Stage,
        config: &ModelConfig,
        upstream: Option<&FrozenConfigs>,
        key: &InitKey,
        device: Device,
    ) -> Result<StageTrainer> {
        let frozen = match upstream {
            None => None,
            Some(upstream) => {
                check_tokenizer(&upstream.video_tokenizer, config)?;
                check_actions(&upstream.latent_actions, config)?;
                let learner = |stage, config| Learner::new(stage, config, key, device);
                Some(Frozen {
                    tokenizer: learner(Stage::VideoTokenizer, &upstream.video_tokenizer)?,
                    actions: learner(Stage::LatentActions, &upstream.latent_actions)?,
                })
            }
        };
        Ok(StageTrainer {
            learner: Learner::new(stage, config, key, device)?,
            frozen,
        })
    }

    /// All that another rank needs to go on as this one would: weights and moments, and the frozen weights.
    pub(crate) fn flats_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        let frozen = self
            .frozen
            .iter_mut()
            .flat_map(|frozen| [&mut frozen.tokenizer, &mut frozen.actions]);
        self.learner
            .flats_mut()
            .chain(frozen.flat_map(Learner::weights_mut))
    }

    /// Names and shapes of all weights in one hash, in hex: ranks whose hashes differ have other models.
    pub(crate) fn signature(&self) -> String {
        let frozen = self
            .frozen
            .iter()
            .flat_map(|frozen| [&frozen.tokenizer, &frozen.actions]);
        let mut hasher = blake3::Hasher::new();
        for learner in std::iter::once(&self.learner).chain(frozen) {
            for (name, shape) in learner.parameters().names() {
                hasher.update(format!("{name} {shape:?}\n").as_bytes());
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Hash of the weights and moments that training changes.
    pub(crate) fn state_hash(&self) -> Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.updates_done().to_le_bytes());
        for flat in self.learner.flats() {
            for value in host_floats(flat)? {
                hasher.update(&value.to_le_bytes());
            }
        }
        Ok(hasher.finalize())
    }

    /// Optimizer steps taken so far.
    pub(crate) fn updates_done(&self) -> u64 {
        self.learner.updates_done()
    }

    pub(crate) fn set_updates_done(&mut self, updates: u64) {
        self.learner.set_updates_done(updates);
    }

    pub fn learner(&self) -> &Learner {
        &self.learner
    }

    pub fn config(&self) -> &ModelConfig {
        &self.learner.config
    }

    /// Replaces weights and optimizer state, as [`Learner::load`].
    pub fn load(
        &mut self,
        model: &[NamedTensor],
        optimizer: Option<&OptimizerState>,
    ) -> Result<()> {
        self.learner.load(model, optimizer)
    }

    /// Parameters and buffers in `state_dict()` order.
    pub fn export(&self) -> Result<Vec<NamedTensor>> {
        self.learner.export()
    }

    pub fn export_optimizer(&self) -> Result<OptimizerState> {
        self.learner.export_optimizer()
    }

    /// One optimizer step on the mean gradient of `micro_batches`.
    ///
    /// # Errors
    /// [`TrainError::OutOfMemory`] leaves weights and moments as they were, but for an error in
    /// the optimizer's own step, after which the trainer must be loaded anew.
    pub fn update(
        &mut self,
        micro_batches: &[MicroBatch],
        learning_rate: f64,
        wanted: Wanted,
    ) -> Result<UpdateMetrics> {
        let accumulated = self.accumulate(micro_batches, wanted)?;
        self.learner.apply(accumulated, learning_rate)
    }

    /// The first half of [`StageTrainer::update`].
    pub fn accumulate(&self, micro_batches: &[MicroBatch], wanted: Wanted) -> Result<Accumulated> {
        let batches = micro_batches
            .iter()
            .map(|micro_batch| self.prepare(micro_batch));
        self.learner
            .accumulate(&batches.collect::<Result<Vec<_>>>()?, wanted)
    }

    /// The second half.
    pub fn apply(&mut self, accumulated: Accumulated, learning_rate: f64) -> Result<UpdateMetrics> {
        self.learner.apply(accumulated, learning_rate)
    }

    /// Held-out losses of the present weights. Batches are taken one by one, and forwarded in `pieces`.
    ///
    /// # Errors
    /// Those of the batches, batches that do not fit the stage, or one sample too large for the memory.
    pub fn evaluate<E: From<TrainError>>(
        &self,
        held_out: impl IntoIterator<Item = std::result::Result<HeldOut, E>>,
        pieces: &mut Pieces,
    ) -> std::result::Result<Evaluation, E> {
        let weights = self.learner.frozen()?;
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
        // How much actions vary is a statistic of the whole batch.
        if let (StageModel::Latent(model), Some(reconstruction)) =
            (&self.learner.model, reconstruction.mean())
        {
            let penalty = value(&model.penalty(&Tensor::f_cat(&actions, 0)?)?)?;
            means.penalty.add(penalty, 1.0);
            // As in training, where the sum is one of f32.
            let total = f64::from(reconstruction as f32 + penalty as f32);
            means.loss.add(total, 1.0);
        }
        Ok(())
    }

    /// Losses of a piece of a batch, each with the number of values it is the mean of.
    fn score(&self, weights: &Weights, item: &HeldOut) -> Result<Score> {
        match (&self.learner.model, self.prepare(&item.batch)?) {
            (StageModel::Video(model), Batch::Rows(rows)) => {
                let drawn = model.forward(weights, &rows)?.0;
                Ok(Score {
                    reconstruction: (value(&model.loss(&drawn, &rows)?)?, drawn.numel() as f64),
                    moving: self.moving(item, &drawn, &rows)?,
                    actions: None,
                })
            }
            (StageModel::Latent(model), Batch::Rows(rows)) => {
                let pass = model.forward(weights, &rows)?;
                let count = pass.prediction.numel() as f64;
                Ok(Score {
                    reconstruction: (value(&model.reconstruction(&pass, &rows)?)?, count),
                    moving: self.moving(item, &pass.prediction, &rows)?,
                    actions: Some(pass.actions),
                })
            }
            (StageModel::Dynamics(model), Batch::Masked(batch)) => {
                let loss = value(&model.loss(weights, &batch.tokens, &batch.mask)?)?;
                Ok(Score {
                    reconstruction: (loss, batch.mask.places().len() as f64),
                    moving: None,
                    actions: None,
                })
            }
            (StageModel::Video(_) | StageModel::Latent(_) | StageModel::Dynamics(_), _) => Err(
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

    /// What the model draws: the reconstruction of all frames (video tokenizer), the frames after
    /// the first (latent actions), or the last frame of the window from the true frames before it
    /// and the actions, all its tokens guessed in one step (dynamics).
    ///
    /// # Errors
    /// Frames that do not fit the stage, or one window too large for the memory.
    pub fn predict(&self, frames: &Tensor, pieces: &mut Pieces) -> Result<PredictedFrames> {
        check_frames(frames, self.config())?;
        let weights = self.learner.frozen()?;
        let drawn = pieces.forward(samples_of(frames)?, |piece| {
            self.draw(&weights, &narrow(frames, piece)?)
        })?;
        let mut drawn = drawn.into_iter();
        let mut all = drawn.next().ok_or_else(|| nothing("frames to predict"))?;
        for more in drawn {
            all.batch += more.batch;
            all.values.extend(more.values);
        }
        Ok(all)
    }

    fn draw(&self, weights: &Weights, frames: &Tensor) -> Result<PredictedFrames> {
        let rows = match (&self.learner.model, &self.frozen) {
            (StageModel::Video(model), _) => model.forward(weights, &self.rows(frames)?)?.0,
            (StageModel::Latent(model), _) => {
                model.forward(weights, &self.rows(frames)?)?.prediction
            }
            (StageModel::Dynamics(model), frozen) => {
                let frozen = frozen.as_ref().ok_or_else(no_frozen_models)?;
                let mut tokens = frozen.tokens(frames)?;
                let (batch, time, positions) = tokens.codes.size3()?;
                let mask = TokenMask::last_frame(batch as usize, time as usize, positions as usize);
                let scores = model.masked_scores(weights, &tokens, &mask)?.0;
                let guessed = scores.f_argmax(-1, false)?.f_view([batch, 1, positions])?;
                let before = tokens.codes.f_narrow(1, 0, time - 1)?;
                tokens.codes = Tensor::f_cat(&[before, guessed], 1)?;
                frozen.draw(&tokens.codes)?.f_narrow(1, time - 1, 1)?
            }
        };
        self.pictures(&rows)
    }

    /// Counts tokens of all frames by position; dynamics only. Batches are taken one by one.
    ///
    /// # Errors
    /// Those of the batches, another stage, or one window too large for the memory.
    pub fn token_counts<E: From<TrainError>>(
        &self,
        batches: impl IntoIterator<Item = std::result::Result<Tensor, E>>,
        pieces: &mut Pieces,
    ) -> std::result::Result<TokenCounts, E> {
        let frozen = self.frozen.as_ref().ok_or_else(no_frozen_models)?;
        let positions = self.config().patches() as usize;
        let codebook_size = self.config().codebook_size() as usize;
        let mut counts = vec![0; positions * codebook_size];
        for frames in batches {
            let frames = frames?;
            check_frames(&frames, self.config())?;
            let codes = pieces.forward(samples_of(&frames)?, |piece| {
                host_integers(&frozen.tokens(&narrow(&frames, piece)?)?.codes)
            })?;
            for (place, code) in codes.into_iter().flatten().enumerate() {
                let row = (place % positions) * codebook_size;
                if let Some(count) = usize::try_from(code)
                    .ok()
                    .and_then(|code| counts.get_mut(row + code))
                {
                    *count += 1;
                }
            }
        }
        Ok(TokenCounts {
            positions,
            codebook_size,
            counts,
        })
    }

    /// Cross-entropy of the masked held-out tokens under `counts` alone: the trivial predictor of
    /// dynamics. Every code has `1 / codebook_size` added to its count, so none is impossible.
    ///
    /// # Errors
    /// As [`StageTrainer::token_counts`].
    pub fn marginal_loss<E: From<TrainError>>(
        &self,
        counts: &TokenCounts,
        held_out: impl IntoIterator<Item = std::result::Result<HeldOut, E>>,
        pieces: &mut Pieces,
    ) -> std::result::Result<f64, E> {
        let mut mean = Mean::default();
        for item in held_out {
            let batch = item?.batch;
            let losses = pieces.forward(batch.samples()?, |piece| {
                self.marginal_losses(counts, &batch.piece(piece)?)
            })?;
            for loss in losses.into_iter().flatten() {
                mean.add(loss, 1.0);
            }
        }
        Ok(mean.mean().ok_or_else(|| nothing("held-out batches"))?)
    }

    /// The loss of each masked token.
    fn marginal_losses(&self, counts: &TokenCounts, batch: &MicroBatch) -> Result<Vec<f64>> {
        let Batch::Masked(batch) = self.prepare(batch)? else {
            return Err(no_frozen_models());
        };
        let codes = host_integers(&batch.tokens.codes)?;
        let loss = |place: i64| {
            let place = place as usize;
            let code = codes
                .get(place)
                .and_then(|code| usize::try_from(*code).ok());
            let code =
                code.ok_or_else(|| TrainError::Tensor("bug: a mask beyond its tokens".to_owned()))?;
            Ok(-counts.share(place % counts.positions, code).ln())
        };
        batch.mask.places().into_iter().map(loss).collect()
    }

    fn prepare(&self, micro_batch: &MicroBatch) -> Result<Batch> {
        check_frames(&micro_batch.frames, self.config())?;
        match (&self.frozen, &micro_batch.mask) {
            (None, None) => Ok(Batch::Rows(self.rows(&micro_batch.frames)?)),
            (Some(frozen), Some(mask)) => Ok(Batch::Masked(TokenBatch {
                tokens: frozen.tokens(&micro_batch.frames)?,
                mask: mask.clone(),
            })),
            (Some(_), None) => Err(mask_error("missing", "one per micro-batch of dynamics")),
            (None, Some(_)) => Err(mask_error("given", "none outside dynamics")),
        }
    }

    fn rows(&self, frames: &Tensor) -> Result<Tensor> {
        patches_of_bytes(frames, self.config().patch_size, self.learner.device())
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

impl TokenCounts {
    /// Smoothed share of `code` at `position`.
    fn share(&self, position: usize, code: usize) -> f64 {
        let mut row = self
            .counts
            .iter()
            .skip(position * self.codebook_size)
            .take(self.codebook_size);
        let total = row.clone().sum::<u64>() as f64;
        let count = row.nth(code).copied().unwrap_or(0) as f64;
        (count + 1.0 / self.codebook_size as f64) / (total + 1.0)
    }

    /// Distinct codes anywhere.
    pub fn distinct(&self) -> usize {
        let seen = self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        seen.map(|(place, _)| place % self.codebook_size.max(1))
            .collect::<BTreeSet<_>>()
            .len()
    }
}

impl Frozen {
    fn tokens(&self, frames: &Tensor) -> Result<Tokens> {
        let (StageModel::Video(tokenizer), StageModel::Latent(encoder)) =
            (&self.tokenizer.model, &self.actions.model)
        else {
            return Err(no_frozen_models());
        };
        let device = self.tokenizer.device();
        let rows = patches_of_bytes(frames, self.tokenizer.config.patch_size, device)?;
        let (codes, latents) = tokenizer.tokenize(&self.tokenizer.frozen()?, &rows)?;
        let rows = if self.actions.config.patch_size == self.tokenizer.config.patch_size {
            rows
        } else {
            patches_of_bytes(frames, self.actions.config.patch_size, device)?
        };
        let actions = encoder.quantize(&encoder.encode(&self.actions.frozen()?, &rows)?)?;
        Ok(Tokens {
            codes,
            latents,
            actions,
        })
    }

    fn draw(&self, codes: &Tensor) -> Result<Tensor> {
        let StageModel::Video(tokenizer) = &self.tokenizer.model else {
            return Err(no_frozen_models());
        };
        tokenizer.detokenize(&self.tokenizer.frozen()?, codes)
    }
}

fn thaw(stage: Stage, model: &FrozenModel, key: &InitKey, device: Device) -> Result<Learner> {
    let mut learner = Learner::new(stage, &model.config, key, device)?;
    learner.load(&model.weights, None)?;
    Ok(learner)
}

/// The tokens must be those that dynamics predicts.
fn check_tokenizer(found: &ModelConfig, config: &ModelConfig) -> Result<()> {
    same(
        "video tokenizer",
        "frame_size",
        found.frame_size,
        config.frame_size,
    )?;
    same(
        "video tokenizer",
        "patch_size",
        found.patch_size,
        config.patch_size,
    )?;
    same(
        "video tokenizer",
        "latent_dim",
        found.latent_dim,
        config.latent_dim,
    )?;
    same(
        "video tokenizer",
        "num_bins",
        found.num_bins,
        config.num_bins,
    )?;
    same(
        "video tokenizer",
        "context_length",
        found.context_length,
        config.context_length,
    )
}

fn check_actions(found: &ModelConfig, config: &ModelConfig) -> Result<()> {
    same(
        "latent-action model",
        "frame_size",
        found.frame_size,
        config.frame_size,
    )?;
    same(
        "latent-action model",
        "n_actions",
        found.n_actions,
        config.n_actions,
    )?;
    same(
        "latent-action model",
        "context_length",
        found.context_length,
        config.context_length,
    )
}

fn same(model: &'static str, key: &'static str, found: i64, expected: i64) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(ConfigError::Frozen {
        model,
        key,
        found,
        expected,
    }
    .into())
}

fn value(scalar: &Tensor) -> Result<f64> {
    Ok(scalar.f_double_value(&[])?)
}

fn no_frozen_models() -> TrainError {
    TrainError::Input {
        what: "the stage",
        found: "without tokens".to_owned(),
        expected: "dynamics".to_owned(),
    }
}

fn mask_error(found: &str, expected: &str) -> TrainError {
    TrainError::Input {
        what: "the token mask of a micro-batch",
        found: found.to_owned(),
        expected: expected.to_owned(),
    }
}

fn nothing(what: &'static str) -> TrainError {
    TrainError::Input {
        what,
        found: "empty".to_owned(),
        expected: "at least one".to_owned(),
    }
}

impl MicroBatch {
    /// # Errors
    /// A mask of another number of samples than there are.
    fn samples(&self) -> Result<usize> {
        let samples = samples_of(&self.frames)?;
        match &self.mask {
            Some(mask) if mask.batch != samples => Err(mask_error(
                &format!("of {} samples", mask.batch),
                &format!("one of {samples}"),
            )),
            Some(_) | None => Ok(samples),
        }
    }

    fn piece(&self, piece: Piece) -> Result<MicroBatch> {
        let mask = self.mask.as_ref();
        Ok(MicroBatch {
            frames: narrow(&self.frames, piece)?,
            mask: mask.map(|mask| mask.samples(piece.from, piece.length)),
        })
    }
}

impl HeldOut {
    fn piece(&self, piece: Piece) -> Result<HeldOut> {
        let moving = self.moving.as_ref();
        Ok(HeldOut {
            batch: self.batch.piece(piece)?,
            moving: moving.map(|pixels| narrow(pixels, piece)).transpose()?,
        })
    }
}

fn samples_of(tensor: &Tensor) -> Result<usize> {
    let samples = tensor.size().first().copied();
    let samples = samples.and_then(|samples| usize::try_from(samples).ok());
    samples.ok_or_else(|| TrainError::Input {
        what: "a batch",
        found: "a single number".to_owned(),
        expected: "samples".to_owned(),
    })
}

fn narrow(tensor: &Tensor, piece: Piece) -> Result<Tensor> {
    Ok(tensor.f_narrow(0, piece.from as i64, piece.length as i64)?)
}

/// What a piece of a batch came to: means, each with the number of values behind it.
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
        let reconstruction = reconstruction.ok_or_else(|| nothing("held-out batches"))?;
        Ok(Evaluation {
            loss: self.loss.mean().unwrap_or(reconstruction),
            reconstruction,
            penalty: self.penalty.mean().unwrap_or(0.0),
            moving: self.moving.mean(),
        })
    }
}

/// A weighted mean, summed in the order given.
#[derive(Default)]
struct Mean {
    sum: f64,
    weight: f64,
}

impl Mean {
    fn add(&mut self, value: f64, weight: f64) {
        self.sum += value * weight;
        self.weight += weight;
    }

    fn mean(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

#[cfg(test)]
mod tests;
