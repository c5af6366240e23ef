use tch::{Device, Kind, Reduction};

use super::*;
use crate::presets::ModelKind;
use crate::train::model::Network;
use crate::train::models::dynamics::Tokens;
use crate::train::models::frame_tensor;
use crate::train::{
    Batch, Evaluation, HeldOut, InitKey, Pieces, TokenCounts, TokenMask, TrainError, Upstream,
    learning_rate, maskgit_mask,
};

const BATCH: usize = 4;

fn config() -> ModelConfig {
    ModelConfig {
        frame_size: 16,
        patch_size: 4,
        context_length: 4,
        embed_dim: 16,
        num_heads: 2,
        hidden_dim: 24,
        num_blocks: 2,
        latent_dim: 3,
        num_bins: 4,
        n_actions: 4,
    }
}

fn key() -> InitKey {
    InitKey {
        run_seed: 5,
        stage: "test".to_owned(),
        restart: 0,
    }
}

/// SplitMix64, for tests only.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Windows of a bright 4 x 4 ball that moves over a two-coloured court, as real frames do.
fn windows(seed: u64, batch: usize) -> Tensor {
    let mut numbers = Numbers(seed);
    let mut bytes = Vec::new();
    for _ in 0..batch {
        let (mut x, mut y) = ((numbers.next() % 12) as i64, (numbers.next() % 12) as i64);
        let (dx, dy) = (
            (numbers.next() % 3) as i64 - 1,
            (numbers.next() % 3) as i64 - 1,
        );
        for _ in 0..4 {
            for row in 0..16 {
                for column in 0..16 {
                    let ball = (0..4).contains(&(row - y)) && (0..4).contains(&(column - x));
                    let court = if row < 3 {
                        [40, 40, 120]
                    } else {
                        [144, 72, 17]
                    };
                    bytes.extend(if ball { [236, 236, 236] } else { court });
                }
            }
            (x, y) = ((x + dx).clamp(0, 12), (y + dy).clamp(0, 12));
        }
    }
    frame_tensor(&bytes, batch, 4, 16).unwrap()
}

fn mask(seed: u64, batch: usize) -> TokenMask {
    let mut numbers = Numbers(seed ^ 0xabcd);
    maskgit_mask(batch, 4, 16, || numbers.uniform())
}

const ALL: [ModelKind; 3] = [
    ModelKind::VideoTokenizer,
    ModelKind::LatentActions,
    ModelKind::Dynamics,
];

fn trainer(kind: ModelKind) -> StageTrainer {
    // Tests run in parallel, so more threads per test would only compete.
    crate::train::use_threads(1);
    let upstream = match kind {
        ModelKind::VideoTokenizer | ModelKind::LatentActions => None,
        ModelKind::Dynamics => Some(
            Upstream::new(
                frozen(ModelKind::VideoTokenizer),
                frozen(ModelKind::LatentActions),
            )
            .unwrap(),
        ),
    };
    let model = Model::new(kind, &config(), &key(), Device::Cpu).unwrap();
    StageTrainer::new(Pipeline::new(model, upstream).unwrap()).unwrap()
}

/// A model with the weights of a trainer.
fn frozen(kind: ModelKind) -> Model {
    let weights = trainer(kind).export().unwrap();
    Model::from_weights(kind, &config(), &weights, Device::Cpu).unwrap()
}

fn micro_batch(kind: ModelKind, seed: u64, batch: usize) -> MicroBatch {
    let mask = matches!(kind, ModelKind::Dynamics).then(|| mask(seed, batch));
    MicroBatch {
        frames: windows(seed, batch),
        mask,
    }
}

fn train(
    trainer: &mut StageTrainer,
    kind: ModelKind,
    updates: std::ops::Range<u64>,
) -> Vec<UpdateMetrics> {
    let wanted = Wanted {
        actions: true,
        codebook: true,
    };
    updates
        .map(|u| {
            trainer
                .update(
                    &[micro_batch(kind, u, BATCH)],
                    learning_rate(u, 200, 3e-3),
                    wanted,
                )
                .unwrap()
        })
        .collect()
}

fn mean_loss(metrics: &[UpdateMetrics]) -> f64 {
    metrics.iter().map(|m| m.loss).sum::<f64>() / metrics.len() as f64
}

fn ok<T>(value: T) -> Result<T> {
    Ok(value)
}

fn evaluate<const N: usize>(
    trainer: &StageTrainer,
    held_out: [HeldOut; N],
    pieces: &mut Pieces,
) -> Evaluation {
    trainer
        .pipeline()
        .evaluate(held_out.map(ok), pieces)
        .unwrap()
}

#[test]
fn every_stage_learns_moving_pictures() {
    for (kind, factor) in [
        (ModelKind::VideoTokenizer, 0.3),
        (ModelKind::LatentActions, 0.5),
        (ModelKind::Dynamics, 0.6),
    ] {
        let mut trainer = trainer(kind);
        let metrics = train(&mut trainer, kind, 0..150);
        let (first, last) = (mean_loss(&metrics[..10]), mean_loss(&metrics[140..]));
        assert!(last < factor * first, "{kind:?}: {first} to {last}");
        assert!(
            metrics
                .iter()
                .all(|m| m.grad_norm > 0.0 && m.grad_norm.is_finite()),
            "{kind:?}"
        );
    }
}

#[test]
fn training_continues_with_the_same_bits_after_saving_and_loading() {
    for kind in ALL {
        let mut whole = trainer(kind);
        let all = train(&mut whole, kind, 0..8);
        let mut stopped = trainer(kind);
        let mut parts = train(&mut stopped, kind, 0..5);
        let (model, optimizer) = (
            stopped.export().unwrap(),
            stopped.export_optimizer().unwrap(),
        );
        let mut resumed = trainer(kind);
        train(&mut resumed, kind, 100..102);
        resumed.load(&model, Some(&optimizer)).unwrap();
        parts.extend(train(&mut resumed, kind, 5..8));
        assert_eq!(parts, all, "{kind:?}");
        assert_eq!(
            resumed.export().unwrap(),
            whole.export().unwrap(),
            "{kind:?}"
        );
        assert_eq!(
            resumed.export_optimizer().unwrap(),
            whole.export_optimizer().unwrap(),
            "{kind:?}"
        );
        assert_eq!(optimizer.step, 5);
    }
}

#[test]
fn two_micro_batches_give_the_mean_of_their_gradients() {
    for kind in ALL {
        let trainer = trainer(kind);
        let floats = |batches: &[MicroBatch]| {
            let accumulated = trainer.accumulate(batches, Wanted::default()).unwrap();
            let tensors = trainer.model().export_gradients(&accumulated).unwrap();
            let bytes = tensors
                .into_iter()
                .flat_map(|tensor| tensor.bytes)
                .collect::<Vec<u8>>();
            let values: Vec<f64> = bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f64::from(f32::from_le_bytes(*b)))
                .collect();
            (accumulated.loss(), values)
        };
        let (loss_a, a) = floats(&[micro_batch(kind, 1, BATCH)]);
        let (loss_b, b) = floats(&[micro_batch(kind, 2, BATCH)]);
        let (loss, both) = floats(&[micro_batch(kind, 1, BATCH), micro_batch(kind, 2, BATCH)]);
        assert_eq!(
            loss,
            (loss_a + loss_b) * 0.5,
            "{kind:?}: the loss is reported undivided"
        );
        let largest = a.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        let differs = |((a, b), both): ((&f64, &f64), &f64)| ((a + b) / 2.0 - both).abs();
        let deviation = a.iter().zip(&b).zip(&both).map(differs).fold(0.0, f64::max);
        assert!(
            deviation < 1e-6 * largest,
            "{kind:?}: {deviation} of {largest}"
        );
        assert!(a != b, "{kind:?}: two equal gradients would show nothing");
    }
}

#[test]
fn the_video_gradient_of_a_batch_is_the_mean_over_its_halves() {
    // True where the loss is a plain mean over samples, so it tests the division itself.
    let trainer = trainer(ModelKind::VideoTokenizer);
    let frames = windows(9, 4);
    let part = |from, length| MicroBatch {
        frames: frames.narrow(0, from, length),
        mask: None,
    };
    let whole = trainer
        .accumulate(&[part(0, 4)], Wanted::default())
        .unwrap();
    let halves = trainer
        .accumulate(&[part(0, 2), part(2, 2)], Wanted::default())
        .unwrap();
    assert!((whole.loss() - halves.loss()).abs() < 1e-6);
}

#[test]
fn a_hundred_updates_twice_give_the_same_bits() {
    for kind in ALL {
        let (mut one, mut two) = (trainer(kind), trainer(kind));
        assert_eq!(
            train(&mut one, kind, 0..100),
            train(&mut two, kind, 0..100),
            "{kind:?}"
        );
        assert_eq!(one.export().unwrap(), two.export().unwrap(), "{kind:?}");
    }
}

#[test]
fn metrics_of_actions_and_codes_are_reported_where_they_exist() {
    let has = |kind: ModelKind| {
        let observed = train(&mut trainer(kind), kind, 0..1).remove(0).observed;
        (
            observed.unique_actions().is_some(),
            observed.codebook_usage().is_some(),
        )
    };
    assert_eq!(has(ModelKind::VideoTokenizer), (false, true));
    assert_eq!(has(ModelKind::LatentActions), (true, false));
    assert_eq!(has(ModelKind::Dynamics), (true, false));
    let observed = train(
        &mut trainer(ModelKind::LatentActions),
        ModelKind::LatentActions,
        0..1,
    )
    .remove(0)
    .observed;
    assert_eq!(
        observed.action_counts.unwrap().iter().sum::<u64>(),
        BATCH as u64 * 3
    );
}

#[test]
fn held_out_losses_match_the_training_loss_and_change_nothing() {
    for kind in ALL {
        let mut trainer = trainer(kind);
        train(&mut trainer, kind, 0..3);
        let before = trainer.export().unwrap();
        let moving = Tensor::ones([BATCH as i64, 4, 16, 16], (Kind::Uint8, Device::Cpu));
        let moving = (!matches!(kind, ModelKind::Dynamics)).then_some(moving);
        let held_out = [HeldOut {
            batch: micro_batch(kind, 77, BATCH),
            moving,
        }];
        let found = evaluate(&trainer, held_out, &mut Pieces::whole());
        let loss = trainer
            .accumulate(&[micro_batch(kind, 77, BATCH)], Wanted::default())
            .unwrap()
            .loss();
        assert_eq!(found.loss, loss, "{kind:?}");
        if let Some(all_pixels) = found.moving {
            assert!(
                (found.reconstruction + found.penalty - found.loss).abs() < 1e-6,
                "{kind:?}"
            );
            assert!(
                (all_pixels - found.reconstruction).abs() < 1e-6,
                "{kind:?}: every pixel moving"
            );
        }
        assert_eq!(trainer.export().unwrap(), before, "{kind:?}");
    }
}

/// Held-out batches of 5 and 3 windows, the moving pixels of each in its ball's corner of the court.
fn two_batches(kind: ModelKind) -> [HeldOut; 2] {
    [(70, 5), (71, 3)].map(|(seed, batch)| {
        let pixels = Tensor::zeros([batch as i64, 4, 16, 16], (Kind::Uint8, Device::Cpu));
        for sample in 0..batch as i64 {
            let _ = pixels.narrow(0, sample, 1).narrow(2, sample, 3).fill_(1);
        }
        HeldOut {
            batch: micro_batch(kind, seed, batch),
            moving: (!matches!(kind, ModelKind::Dynamics)).then_some(pixels),
        }
    })
}

#[test]
fn a_held_out_loss_does_not_depend_on_how_many_samples_fit_into_memory() {
    for kind in ALL {
        let mut trainer = trainer(kind);
        train(&mut trainer, kind, 0..30);
        if matches!(kind, ModelKind::LatentActions) {
            // Before the actions vary enough, so that the penalty counts.
            trainer = self::trainer(kind);
        }
        let whole = evaluate(&trainer, two_batches(kind), &mut Pieces::whole());
        assert_eq!(
            whole.penalty > 0.0,
            matches!(kind, ModelKind::LatentActions)
        );
        for fits in [1, 2, 3, 4] {
            let mut pieces = Pieces::with_memory_for(fits);
            let found = evaluate(&trainer, two_batches(kind), &mut pieces);
            let values =
                |e: &Evaluation| [e.loss, e.reconstruction, e.penalty, e.moving.unwrap_or(0.0)];
            for (found, whole) in values(&found).into_iter().zip(values(&whole)) {
                assert!(
                    (found - whole).abs() <= 1e-6 * whole.abs().max(1.0),
                    "{kind:?}, {fits} at once: {found}, whole {whole}"
                );
            }
        }
    }
}

#[test]
fn pictures_and_token_counts_do_not_depend_on_how_many_samples_fit_into_memory() {
    for kind in ALL {
        let trainer = trainer(kind);
        let predict =
            |pieces: &mut Pieces| trainer.pipeline().predict(&windows(3, 5), pieces).unwrap();
        let whole = predict(&mut Pieces::whole());
        for fits in [1, 2, 3] {
            let found = predict(&mut Pieces::with_memory_for(fits));
            assert_eq!((found.batch, found.time), (whole.batch, whole.time));
            let off = found.values.iter().zip(&whole.values);
            let off = off.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off <= 1e-6, "{kind:?}, {fits} at once: off by {off}");
        }
    }
    let trainer = trainer(ModelKind::Dynamics);
    let upstream = trainer.pipeline().upstream().unwrap();
    let measure = |pieces: &mut Pieces| {
        let batches = [(1, 5), (2, 3)].map(|(seed, batch)| ok(windows(seed, batch)));
        let counts = TokenCounts::of(upstream, batches, pieces).unwrap();
        let held_out = two_batches(ModelKind::Dynamics).map(ok);
        let loss = counts.loss(upstream, held_out, pieces).unwrap();
        (counts, loss)
    };
    let whole = measure(&mut Pieces::whole());
    for fits in [1, 2, 3] {
        assert_eq!(measure(&mut Pieces::with_memory_for(fits)), whole, "{fits}");
    }
}

#[test]
fn too_little_memory_for_one_sample_is_an_error() {
    let none = || Pieces::with_memory_for(0);
    for kind in ALL {
        let trainer = trainer(kind);
        let out = |error: TrainError| matches!(error, TrainError::OutOfMemory { .. });
        let held_out = two_batches(kind).map(ok);
        assert!(out(trainer
            .pipeline()
            .evaluate(held_out, &mut none())
            .unwrap_err()));
        assert!(out(trainer
            .pipeline()
            .predict(&windows(1, 2), &mut none())
            .unwrap_err()));
    }
}

#[test]
fn the_loss_of_moving_pixels_is_taken_over_those_alone() {
    let trainer = trainer(ModelKind::VideoTokenizer);
    let frames = windows(3, 1);
    let pixels = Tensor::zeros([1, 4, 16, 16], (Kind::Uint8, Device::Cpu));
    let _ = pixels.narrow(2, 5, 1).narrow(3, 6, 2).fill_(1);
    let batch = Batch::from_frames(&frames, &config(), Device::Cpu).unwrap();
    let drawn = trainer
        .model()
        .output(&batch)
        .unwrap()
        .permute([0, 1, 3, 4, 2]);
    let truth = frames.to_kind(Kind::Float) / 127.5 - 1.0;
    let cut = |t: &Tensor| t.narrow(2, 5, 1).narrow(3, 6, 2);
    let want = cut(&drawn)
        .smooth_l1_loss(&cut(&truth), Reduction::Mean, 1.0)
        .double_value(&[]);
    let held_out = [HeldOut {
        batch: MicroBatch { frames, mask: None },
        moving: Some(pixels),
    }];
    let found = evaluate(&trainer, held_out, &mut Pieces::whole());
    let found = found.moving.unwrap();
    assert!((found - want).abs() < 1e-6, "{found} {want}");
}

#[test]
fn predictions_have_the_shape_of_what_the_stage_draws() {
    for (kind, time) in [
        (ModelKind::VideoTokenizer, 4),
        (ModelKind::LatentActions, 3),
        (ModelKind::Dynamics, 1),
    ] {
        let found = trainer(kind)
            .pipeline()
            .predict(&windows(1, 2), &mut Pieces::whole())
            .unwrap();
        assert_eq!(
            (found.batch, found.time, found.size, found.values.len()),
            (2, time, 16, 2 * time * 16 * 16 * 3),
            "{kind:?}"
        );
        assert!(
            found
                .values
                .iter()
                .all(|value| (-1.0..=1.0).contains(value)),
            "{kind:?}"
        );
    }
}

#[test]
fn dynamics_does_not_see_the_frame_it_predicts() {
    let mut trainer = trainer(ModelKind::Dynamics);
    train(&mut trainer, ModelKind::Dynamics, 0..20);
    let frames = windows(1, 2);
    let changed = frames.copy();
    let _ = changed.narrow(1, 3, 1).narrow(2, 0, 8).fill_(255);
    let upstream = trainer.pipeline().upstream().unwrap();
    let (tokens, other) = (
        upstream.tokens(&frames).unwrap(),
        upstream.tokens(&changed).unwrap(),
    );
    let unlike = |a: &Tensor, b: &Tensor| a.ne_tensor(b).sum(Kind::Int64).int64_value(&[]);
    assert!(
        unlike(&tokens.codes.narrow(1, 3, 1), &other.codes.narrow(1, 3, 1)) > 0,
        "the change reaches the last tokens"
    );
    assert_eq!(
        unlike(&tokens.codes.narrow(1, 0, 3), &other.codes.narrow(1, 0, 3)),
        0,
        "and no earlier ones"
    );
    let Network::Dynamics(model) = trainer.model().network() else {
        panic!()
    };
    let mask = TokenMask::last_frame(2, 4, 16);
    let weights = trainer.model().weights().unwrap();
    let other = Tokens {
        actions: tokens.actions.shallow_clone(),
        ..other
    };
    let scores = |tokens: &Tokens| model.masked_scores(&weights, tokens, &mask).unwrap().0;
    assert_eq!(scores(&tokens), scores(&other));
}

#[test]
fn the_marginal_predictor_is_better_than_guessing() {
    let trainer = trainer(ModelKind::Dynamics);
    let upstream = trainer.pipeline().upstream().unwrap();
    let frames = windows(4, 2);
    let whole = &mut Pieces::whole();
    let counts = TokenCounts::of(upstream, [ok(frames.copy())], whole).unwrap();
    assert_eq!(counts.counts.iter().sum::<u64>(), 2 * 4 * 16);
    assert!((1..=64).contains(&counts.distinct()));
    let mut marginal_loss = |counts: &TokenCounts| {
        let held_out = HeldOut {
            batch: MicroBatch {
                frames: frames.copy(),
                mask: Some(mask(1, 2)),
            },
            moving: None,
        };
        counts.loss(upstream, [ok(held_out)], whole).unwrap()
    };
    let loss = marginal_loss(&counts);
    assert!(
        loss > 0.0 && loss < 64_f64.ln(),
        "{loss}: better than guessing among 64 codes"
    );
    let nothing = TokenCounts {
        counts: vec![0; 16 * 64],
        ..counts
    };
    let loss = marginal_loss(&nothing);
    assert!((loss - 64_f64.ln()).abs() < 1e-12, "{loss}: guessing");
}

#[track_caller]
fn check_error<T>(name: &str, found: Result<T>, want: &str) {
    let found = found.map_or_else(|error| error.to_string(), |_| "no error".to_owned());
    assert_eq!(found, want, "{name}");
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let mut video = trainer(ModelKind::VideoTokenizer);
    let mut dynamics = trainer(ModelKind::Dynamics);
    let wanted = Wanted::default();
    let plain = |frames| [MicroBatch { frames, mask: None }];
    check_error(
        "floats",
        video.update(&plain(windows(1, 1).to_kind(Kind::Float)), 0.1, wanted),
        "a micro-batch is Float [1, 4, 16, 16, 3], expected Uint8 [batch, 2 to 4, 16, 16, 3]",
    );
    check_error(
        "a smaller frame",
        video.update(&plain(windows(1, 1).narrow(2, 0, 8)), 0.1, wanted),
        "a micro-batch is Uint8 [1, 4, 8, 16, 3], expected Uint8 [batch, 2 to 4, 16, 16, 3]",
    );
    check_error(
        "nothing",
        video.update(&[], 0.1, wanted),
        "the list of micro-batches is empty, expected at least one",
    );
    check_error(
        "dynamics without a mask",
        dynamics.update(&plain(windows(1, 1)), 0.1, wanted),
        "the token mask of a micro-batch is missing, expected one per micro-batch of dynamics",
    );
    let masked = [MicroBatch {
        frames: windows(1, 1),
        mask: Some(mask(1, 1)),
    }];
    check_error(
        "video with a mask",
        video.update(&masked, 0.1, wanted),
        "the token mask of a micro-batch is given, expected none outside dynamics",
    );
    let wrong = [MicroBatch {
        frames: windows(1, 1),
        mask: Some(mask(1, 2)),
    }];
    check_error(
        "a mask of another batch",
        dynamics.update(&wrong, 0.1, wanted),
        "a token mask is [2, 4, 16], expected [1, 4, 16]",
    );
    check_error(
        "an empty evaluation",
        video
            .pipeline()
            .evaluate::<TrainError>([], &mut Pieces::whole()),
        "the list of held-out batches is empty, expected at least one",
    );
}

#[test]
fn weights_that_do_not_fit_are_refused_and_change_nothing() {
    let mut video = trainer(ModelKind::VideoTokenizer);
    let whole = video.export().unwrap();
    let change = |edit: &dyn Fn(&mut Vec<NamedTensor>)| {
        let mut tensors = whole.clone();
        edit(&mut tensors);
        tensors
    };
    check_error(
        "one is missing",
        video.load(
            &change(&|t| {
                t.remove(3);
            }),
            None,
        ),
        "tensor `encoder.transformer.blocks.0.spatial_attn.q_proj.bias` is missing; this config's model has it",
    );
    check_error(
        "one too many",
        video.load(
            &change(&|t| {
                let mut extra = t[0].clone();
                extra.name = "extra".to_owned();
                t.push(extra);
            }),
            None,
        ),
        "tensor `extra` is not part of this config's model",
    );
    check_error(
        "one twice",
        video.load(
            &change(&|t| {
                let again = t[0].clone();
                t.push(again);
            }),
            None,
        ),
        "tensor `encoder.patch_embed.proj.weight` is given twice",
    );
    check_error(
        "another shape",
        video.load(&change(&|t| t[1].shape = vec![4, 4]), None),
        "tensor `encoder.patch_embed.proj.bias` has shape [4, 4], expected [16]",
    );
    check_error(
        "too few bytes",
        video.load(
            &change(&|t| {
                t[1].bytes.pop();
            }),
            None,
        ),
        "tensor `encoder.patch_embed.proj.bias` has 63 bytes, expected 64 for its shape",
    );
    check_error(
        "another quantizer",
        video.load(
            &change(&|t| {
                if let Some(last) = t.last_mut() {
                    last.bytes[8] = 9;
                }
            }),
            None,
        ),
        "buffer `quantizer.basis` differs from that of this config: the model was made with other settings",
    );
    assert_eq!(video.export().unwrap(), whole);
}

#[test]
fn frozen_models_of_another_shape_are_refused() {
    let pipeline = |tokenizer: ModelConfig, actions: ModelConfig| {
        let model =
            |kind, config: ModelConfig| Model::new(kind, &config, &key(), Device::Cpu).unwrap();
        let upstream = Upstream::new(
            model(ModelKind::VideoTokenizer, tokenizer),
            model(ModelKind::LatentActions, actions),
        );
        Pipeline::new(model(ModelKind::Dynamics, config()), Some(upstream?))
    };
    let other_codebook = ModelConfig {
        num_bins: 3,
        ..config()
    };
    check_error(
        "another codebook",
        pipeline(other_codebook, config()),
        "the frozen video tokenizer has `num_bins` = 3, expected this stage's 4",
    );
    let other_actions = ModelConfig {
        n_actions: 2,
        ..config()
    };
    check_error(
        "other actions",
        pipeline(config(), other_actions),
        "the frozen latent-action model has `n_actions` = 2, expected this stage's 4",
    );
}

#[test]
fn only_dynamics_has_upstream_models_and_each_of_its_kind() {
    let model = |kind| Model::new(kind, &config(), &key(), Device::Cpu).unwrap();
    let upstream = || {
        Upstream::new(
            model(ModelKind::VideoTokenizer),
            model(ModelKind::LatentActions),
        )
        .unwrap()
    };
    check_error(
        "dynamics without them",
        Pipeline::new(model(ModelKind::Dynamics), None),
        "the pair of upstream models is missing, expected two for dynamics",
    );
    check_error(
        "a video tokenizer with them",
        Pipeline::new(model(ModelKind::VideoTokenizer), Some(upstream())),
        "the pair of upstream models is given, expected none outside dynamics",
    );
    check_error(
        "the wrong way round",
        Upstream::new(
            model(ModelKind::LatentActions),
            model(ModelKind::VideoTokenizer),
        ),
        "an upstream model of dynamics is of kind LatentActions, expected VideoTokenizer",
    );
}

#[test]
fn the_default_models_have_tinyworlds_parameter_counts() {
    let default = ModelConfig {
        frame_size: 64,
        patch_size: 4,
        context_length: 4,
        embed_dim: 32,
        num_heads: 8,
        hidden_dim: 128,
        num_blocks: 4,
        latent_dim: 5,
        num_bins: 4,
        n_actions: 4,
    };
    let count = |kind, num_blocks| {
        let config = ModelConfig {
            num_blocks,
            ..default.clone()
        };
        Model::new(kind, &config, &key(), Device::Cpu)
            .unwrap()
            .parameters()
            .count()
    };
    assert_eq!(count(ModelKind::VideoTokenizer, 4), 138_821);
    assert_eq!(count(ModelKind::LatentActions, 2), 74_066);
    assert_eq!(count(ModelKind::Dynamics, 8), 173_077);
}

#[test]
fn training_continues_after_a_batch_that_does_not_fit_into_memory() {
    let mut video = trainer(ModelKind::VideoTokenizer);
    let before = (video.export().unwrap(), video.export_optimizer().unwrap());
    // One window repeated 2^40 times: it takes no memory until it is cut into patches, then petabytes.
    let frames = windows(1, 1).expand([1 << 40, 4, 16, 16, 3], false);
    let found = video.update(&[MicroBatch { frames, mask: None }], 0.1, Wanted::default());
    assert!(
        matches!(found, Err(TrainError::OutOfMemory { .. })),
        "{found:?}"
    );
    assert_eq!(
        (video.export().unwrap(), video.export_optimizer().unwrap()),
        before
    );
    assert!(
        train(&mut video, ModelKind::VideoTokenizer, 1..2)[0]
            .loss
            .is_finite()
    );
}
