//! The structure scores and their limits on real frames of two games: six kinds of fake frames must count as
//! collapsed, predictions that keep the scene must not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::path::Path;
use std::sync::Arc;
use tinygate::data::trivial::MeanImage;
use tinygate::data::{Frames, WindowShape, Windows};
use tinygate::machine::gate::lost_share;
use tinygate::picture::structure;
use tinygate::presets::structure_limits;
use tinygate::random::{Stream, StreamKey};

const SIDE: usize = 64;
const CHANNELS: usize = 3;
const FRAME: usize = SIDE * SIDE * CHANNELS;
const PATCH: usize = 8;

/// True frames of one game, the frames before them, and the mean image: all values 0 to 255, `[64, 64, 3]`.
struct Game {
    name: &'static str,
    mean: MeanImage,
    truth: Vec<Vec<f64>>,
    previous: Vec<Vec<f64>>,
}

fn load(file: &str) -> Frames {
    Frames::load(&[Path::new(env!("CARGO_MANIFEST_DIR")).join(file)], SIDE).unwrap()
}

fn widen(frame: &[u8]) -> Vec<f64> {
    frame.iter().map(|&byte| f64::from(byte)).collect()
}

fn pong() -> Game {
    let shape = WindowShape {
        context_length: 4,
        frame_stride: 4,
    };
    let windows = Windows::new(Arc::new(load("data/pong_frames.h5")), shape, 8).unwrap();
    let last_two: Vec<[usize; 2]> = windows
        .held_out_spread(24)
        .into_iter()
        .map(|id| {
            let numbers: Vec<usize> = windows.frame_numbers(id).unwrap().collect();
            [numbers[2], numbers[3]]
        })
        .collect();
    let frame = |number: usize| widen(windows.frames().frame(number).unwrap());
    Game {
        name: "Pong",
        mean: MeanImage::of(&windows),
        truth: last_two.iter().map(|pair| frame(pair[1])).collect(),
        previous: last_two.iter().map(|pair| frame(pair[0])).collect(),
    }
}

/// The excerpt has 40 groups of 5 frames; within a group, frames are 4 frames of the recording apart.
fn space_invaders() -> Game {
    let frames = load("tests/fixtures/data/space_invaders_cut.npz");
    let mut steps = vec![0.0; FRAME];
    for frame in frames.bytes().chunks_exact(FRAME) {
        for (sum, &byte) in steps.iter_mut().zip(frame) {
            *sum += f64::from(byte) / 200.0;
        }
    }
    let frame = |number: usize| widen(frames.frame(number).unwrap());
    Game {
        name: "Space Invaders",
        mean: MeanImage::from_steps(SIDE, SIDE, steps).unwrap(),
        truth: (0..40).map(|group| frame(group * 5 + 4)).collect(),
        previous: (0..40).map(|group| frame(group * 5 + 3)).collect(),
    }
}

impl Game {
    /// The share of frames that count as collapsed if `draw` predicts them from the true frames.
    fn collapsed(&self, name: &str, mut draw: impl FnMut(usize, &[f64]) -> Vec<f64>) -> f64 {
        let bytes = |frame: &[f64]| -> Vec<u8> {
            frame
                .iter()
                .map(|value| value.round().clamp(0.0, 255.0) as u8)
                .collect()
        };
        let prediction: Vec<u8> = self
            .truth
            .iter()
            .enumerate()
            .flat_map(|(place, truth)| bytes(&draw(place, truth)))
            .collect();
        let truth: Vec<u8> = self.truth.iter().flat_map(|truth| bytes(truth)).collect();
        let scores = structure::score(&prediction, &truth, &self.mean, PATCH).unwrap();
        let share = lost_share(&scores.frames, &structure_limits()).unwrap();
        eprintln!(
            "{:14} {name:34} {share:.2} {:.3?}",
            self.name, scores.pooled
        );
        share
    }

    #[track_caller]
    fn check_fake(&self, name: &str, draw: impl FnMut(usize, &[f64]) -> Vec<f64>) {
        let share = self.collapsed(name, draw);
        assert!(
            share >= 0.95,
            "{}, {name}: only {share} of the frames count as collapsed",
            self.name
        );
    }

    #[track_caller]
    fn check_good(&self, name: &str, most: f64, draw: impl FnMut(usize, &[f64]) -> Vec<f64>) {
        let share = self.collapsed(name, draw);
        assert!(
            share <= most,
            "{}, {name}: {share} of the frames count as collapsed",
            self.name
        );
    }

    /// The mean image plus the frame's difference from it, after `change`.
    fn plus_mean(&self, truth: &[f64], change: impl FnOnce(&[f64]) -> Vec<f64>) -> Vec<f64> {
        let mean = self.mean.steps();
        let residual: Vec<f64> = truth
            .iter()
            .zip(mean)
            .map(|(truth, mean)| truth - mean)
            .collect();
        change(&residual)
            .iter()
            .zip(mean)
            .map(|(residual, mean)| residual + mean)
            .collect()
    }
}

/// Each value replaced by its mean over a block of the given height and width.
fn blocks(frame: &[f64], height: usize, width: usize) -> Vec<f64> {
    let mut sums = vec![0.0; FRAME];
    let corner = |place: usize| {
        let (y, x, channel) = (
            place / CHANNELS / SIDE,
            place / CHANNELS % SIDE,
            place % CHANNELS,
        );
        (y / height * height * SIDE + x / width * width) * CHANNELS + channel
    };
    for (place, value) in frame.iter().enumerate() {
        sums[corner(place)] += value / (height * width) as f64;
    }
    (0..FRAME).map(|place| sums[corner(place)]).collect()
}

/// The frame moved down and right, wrapping around.
fn shifted(frame: &[f64], down: usize, right: usize) -> Vec<f64> {
    (0..FRAME)
        .map(|place| {
            let (y, x, channel) = (
                place / CHANNELS / SIDE,
                place / CHANNELS % SIDE,
                place % CHANNELS,
            );
            let (from_y, from_x) = ((y + SIDE - down) % SIDE, (x + SIDE - right) % SIDE);
            frame[(from_y * SIDE + from_x) * CHANNELS + channel]
        })
        .collect()
}

/// A 3x3 blur with the weight `middle` in the middle and the rest on the eight neighbours; borders repeat.
fn blurred(frame: &[f64], middle: f64) -> Vec<f64> {
    let at = |y: usize, x: usize, channel: usize| {
        frame[(y.min(SIDE - 1) * SIDE + x.min(SIDE - 1)) * CHANNELS + channel]
    };
    (0..FRAME)
        .map(|place| {
            let (y, x, channel) = (
                place / CHANNELS / SIDE,
                place / CHANNELS % SIDE,
                place % CHANNELS,
            );
            let rows = [y.saturating_sub(1), y, y + 1];
            let columns = [x.saturating_sub(1), x, x + 1];
            let all: f64 = rows
                .iter()
                .flat_map(|&y| columns.map(|x| at(y, x, channel)))
                .sum();
            let here = at(y, x, channel);
            middle * here + (1.0 - middle) * (all - here) / 8.0
        })
        .collect()
}

fn stream() -> Stream {
    StreamKey {
        seed: 1,
        stage: "test",
        restart: 0,
        update: 0,
        shard: 0,
        purpose: "noise",
    }
    .stream()
}

/// A nearly normal number: the sum of twelve uniform numbers has variance 1.
fn normal(stream: &mut Stream) -> f64 {
    (0..12).map(|_| stream.next_f64()).sum::<f64>() - 6.0
}

fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (values
        .iter()
        .map(|value| (value - mean) * (value - mean))
        .sum::<f64>()
        / values.len() as f64)
        .sqrt()
}

#[test]
fn the_six_fakes_count_as_collapsed() {
    for game in [pong(), space_invaders()] {
        let mut noise = stream();
        game.check_fake("constant", |_, truth| blocks(truth, SIDE, SIDE));
        game.check_fake("constant gray", |_, _| vec![128.0; FRAME]);
        game.check_fake("black", |_, _| vec![0.0; FRAME]);
        game.check_fake("the mean image", |_, _| game.mean.steps().to_vec());
        game.check_fake("row means", |_, truth| blocks(truth, 1, SIDE));
        game.check_fake("row means plus the mean image", |_, truth| {
            game.plus_mean(truth, |r| blocks(r, 1, SIDE))
        });
        game.check_fake("column means", |_, truth| blocks(truth, SIDE, 1));
        game.check_fake("column means plus the mean image", |_, truth| {
            game.plus_mean(truth, |r| blocks(r, SIDE, 1))
        });
        game.check_fake("8-pixel block means", |_, truth| blocks(truth, 8, 8));
        game.check_fake("block means plus the mean image", |_, truth| {
            game.plus_mean(truth, |r| blocks(r, 8, 8))
        });
        game.check_fake("noise", |_, truth| {
            truth.iter().map(|_| 255.0 * noise.next_f64()).collect()
        });
        for strength in [1.0, 0.5] {
            game.check_fake("noise on the mean image", |_, truth| {
                game.plus_mean(truth, |r| {
                    let size = strength * deviation(r);
                    r.iter().map(|_| size * normal(&mut noise)).collect()
                })
            });
        }
        for (down, right) in [(0, 8), (8, 0), (4, 4), (3, 5)] {
            game.check_fake("shifted frames", |_, truth| shifted(truth, down, right));
            game.check_fake("shifted plus the mean image", |_, truth| {
                game.plus_mean(truth, |r| shifted(r, down, right))
            });
        }
    }
}

#[test]
fn predictions_that_keep_the_scene_pass() {
    for game in [pong(), space_invaders()] {
        let mut noise = stream();
        game.check_good("the truth", 0.0, |_, truth| truth.to_vec());
        game.check_good("a little noise", 0.0, |_, truth| {
            truth
                .iter()
                .map(|value| value + 3.0 * normal(&mut noise))
                .collect()
        });
        game.check_good("faded by half", 0.0, |_, truth| {
            game.plus_mean(truth, |r| r.iter().map(|r| r * 0.5).collect())
        });
        game.check_good("things slightly blurred", 0.0, |_, truth| {
            game.plus_mean(truth, |r| blurred(r, 0.5))
        });
        game.check_good("things blurred", 0.0, |_, truth| {
            game.plus_mean(truth, |r| blurred(r, 1.0 / 9.0))
        });
        game.check_good("fewer colours", 0.0, |_, truth| {
            truth
                .iter()
                .map(|value| (value / 8.0).floor() * 8.0 + 4.0)
                .collect()
        });
        // Objects have moved since, and each counts twice: as missing and as extra.
        game.check_good("the previous frame", 0.1, |place, _| {
            game.previous[place].clone()
        });
        game.check_good("half-way from the previous frame", 0.1, |place, truth| {
            truth
                .iter()
                .zip(&game.previous[place])
                .map(|(truth, previous)| (truth + previous) / 2.0)
                .collect()
        });
    }
}

/// Pictures of real models: true frames, the same decoded by the tokenizer (or autoencoder), and predictions.
struct Trained {
    game: Game,
    kinds: [Vec<u8>; 3],
}

impl Trained {
    fn load(game: Game, file: &str) -> Self {
        let frames = load(&format!("tests/fixtures/structure/{file}"));
        let mut kinds = frames.bytes().chunks_exact(frames.bytes().len() / 3);
        let kinds = [(); 3].map(|()| kinds.next().unwrap().to_vec());
        Self { game, kinds }
    }

    #[track_caller]
    fn check(&self, name: &str, prediction: usize, truth: usize, want: bool) {
        let (prediction, truth) = (&self.kinds[prediction], &self.kinds[truth]);
        let scores = structure::score(prediction, truth, &self.game.mean, PATCH).unwrap();
        let share = lost_share(&scores.frames, &structure_limits());
        eprintln!(
            "{:14} {name:48} {:?} {:.3?}",
            self.game.name, share, scores.pooled
        );
        assert_eq!(
            share.map(|share| share < 0.5),
            Some(want),
            "{}, {name}",
            self.game.name
        );
    }
}

#[test]
fn real_models_pass_when_they_show_the_scene_and_fail_when_they_do_not() {
    const TRUTH: usize = 0;
    const DECODED: usize = 1;
    const PREDICTED: usize = 2;
    let kept = true;
    for (game, file) in [
        (pong(), "pong_trained.npz"),
        (space_invaders(), "space_invaders_trained.npz"),
    ] {
        let trained = Trained::load(game, file);
        trained.check("an autoencoder that shows the scene", DECODED, TRUTH, kept);
        trained.check("a predictor that shows the scene", PREDICTED, TRUTH, kept);
    }
    for (game, file) in [
        (pong(), "pong_weak.npz"),
        (space_invaders(), "space_invaders_weak.npz"),
    ] {
        let weak = Trained::load(game, file);
        weak.check(
            "a tokenizer that shows the background alone",
            DECODED,
            TRUTH,
            !kept,
        );
        weak.check("its dynamics against the frames", PREDICTED, TRUTH, !kept);
        weak.check(
            "its dynamics against what it can show",
            PREDICTED,
            DECODED,
            kept,
        );
    }
    for (name, file, want) in [
        ("dynamics that has hardly learned", "pong_early.npz", !kept),
        (
            "dynamics whose tokens do not fit together",
            "pong_one_shot.npz",
            !kept,
        ),
        (
            "the same, its tokens decoded step by step",
            "pong_iterated.npz",
            kept,
        ),
    ] {
        Trained::load(pong(), file).check(name, PREDICTED, DECODED, want);
    }
}
