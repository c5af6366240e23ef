//! How much of the scene a prediction preserves: five scores of predicted frames against true ones.
//!
//! A game is nearly static, so a prediction of its background alone looks right. All scores therefore work on the
//! residuals `p` (prediction) and `t` (truth), which are the frames minus the data's mean image, scaled so that a byte's
//! range is 2, as for the models. Means are over pixels and channels.
//!
//! | score | formula |
//! |---|---|
//! | flatness | var(p) / var(t), variance about each channel's mean |
//! | stripes | (s(p) - s(t)) / (1 - s(t)), s = max(var(row means), var(column means)) / var |
//! | blockiness | (B(p) / I(p)) / (B(t) / I(t)), B and I the mean squared difference of neighbours across and inside patches |
//! | ssim | sum of w * SSIM over windows / sum of w, w = mean(p)^2 + mean(t)^2 + var(p) + var(t) of the window |
//! | mse_ratio | mean((p - t)^2) / mean(t^2), so the mean image scores 1 |
//!
//! SSIM is that of Wang et al. 2004 ("Image quality assessment: from error visibility to structural similarity",
//! equation 13) on 8x8 windows at every 4th pixel, per channel. Without the weights the empty background, where p = t = 0
//! counts as full similarity, would dominate. The constants are small, because residuals are.
//!
//! Pooled scores use the same formulas with sums over all frames. A ratio whose denominator is below 1e-12 is `None`.
//!
//! Invariant: only + - * / in a fixed order, so the scores have the same bits on every machine.

use crate::data::trivial::MeanImage;
use crate::events::{Scalar, StructureScores};

const CHANNELS: usize = 3;
/// Divides bytes to the models' scale, where half of 255 is 1.
const HALF_RANGE: f64 = 127.5;
const SMALLEST_DENOMINATOR: f64 = 1e-12;
const WINDOW: usize = 8;
const WINDOW_STEP: usize = 4;
const SSIM_C1: f64 = 1e-5;
const SSIM_C2: f64 = 1e-4;

/// Why frames could not be scored.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StructureError {
    #[error(
        "{prediction} bytes of predicted frames and {truth} of true ones, expected equally many"
    )]
    Unequal { prediction: usize, truth: usize },
    #[error("{found} bytes of frames, expected a multiple of {frame} (height * width * 3) above 0")]
    NotWholeFrames { found: usize, frame: usize },
}

/// The scores of a set of predicted frames.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// One entry per frame, in the given order.
    pub frames: Vec<StructureScores>,
    /// All frames as if they were one.
    pub pooled: StructureScores,
}

/// Scores `prediction` against `truth`, both uint8 `[frames, height, width, 3]` of the mean image's size.
/// `patch_size` is the model's, in pixels; up to 1 there are no borders to compare, and blockiness is `None`.
///
/// # Errors
/// Different lengths, no frames, or not a whole number of frames.
pub fn score(
    prediction: &[u8],
    truth: &[u8],
    mean: &MeanImage,
    patch_size: usize,
) -> Result<Scored, StructureError> {
    if prediction.len() != truth.len() {
        return Err(StructureError::Unequal {
            prediction: prediction.len(),
            truth: truth.len(),
        });
    }
    let frame = mean.steps().len();
    if frame == 0 || truth.is_empty() || !truth.len().is_multiple_of(frame) {
        return Err(StructureError::NotWholeFrames {
            found: truth.len(),
            frame,
        });
    }
    let mut pooled = Tally::default();
    let frames = prediction
        .chunks_exact(frame)
        .zip(truth.chunks_exact(frame))
        .map(|(prediction, truth)| {
            let tally = Tally::of(
                &Residual::new(prediction, mean),
                &Residual::new(truth, mean),
                patch_size,
            );
            pooled.add(&tally);
            tally.scores()
        })
        .collect();
    Ok(Scored {
        frames,
        pooled: pooled.scores(),
    })
}

/// A frame minus the mean image, `[height, width, 3]`.
struct Residual {
    values: Vec<f64>,
    height: usize,
    width: usize,
}

impl Residual {
    fn new(frame: &[u8], mean: &MeanImage) -> Self {
        let values = frame
            .iter()
            .zip(mean.steps())
            .map(|(&byte, &mean)| (f64::from(byte) - mean) / HALF_RANGE)
            .collect();
        Self {
            values,
            height: mean.height(),
            width: mean.width(),
        }
    }

    fn at(&self, y: usize, x: usize, channel: usize) -> f64 {
        self.values[(y * self.width + x) * CHANNELS + channel]
    }

    fn mean(&self, ys: std::ops::Range<usize>, xs: std::ops::Range<usize>, channel: usize) -> f64 {
        let count = (ys.len() * xs.len()) as f64;
        let sum: f64 = ys
            .flat_map(|y| xs.clone().map(move |x| self.at(y, x, channel)))
            .sum();
        sum / count
    }

    fn variance(&self) -> Variance {
        let (height, width) = (self.height, self.width);
        let mut found = Variance::default();
        for channel in 0..CHANNELS {
            let mean = self.mean(0..height, 0..width, channel);
            let square = |value: f64| (value - mean) * (value - mean);
            let all: f64 = self
                .values
                .iter()
                .skip(channel)
                .step_by(CHANNELS)
                .map(|&value| square(value))
                .sum();
            let rows: f64 = (0..height)
                .map(|y| square(self.mean(y..y + 1, 0..width, channel)))
                .sum();
            let columns: f64 = (0..width)
                .map(|x| square(self.mean(0..height, x..x + 1, channel)))
                .sum();
            found.all += all / (height * width * CHANNELS) as f64;
            found.rows += rows / (height * CHANNELS) as f64;
            found.columns += columns / (width * CHANNELS) as f64;
        }
        found
    }

    fn gradients(&self, patch_size: usize) -> Gradients {
        let (mut border, mut inside) = ((0.0, 0_u64), (0.0, 0_u64));
        let mut add = |place: usize, difference: f64| {
            let is_border = patch_size > 0 && place.is_multiple_of(patch_size);
            let sum = if is_border { &mut border } else { &mut inside };
            sum.0 += difference * difference;
            sum.1 += 1;
        };
        for y in 0..self.height {
            for x in 0..self.width {
                for channel in 0..CHANNELS {
                    let here = self.at(y, x, channel);
                    if x > 0 {
                        add(x, here - self.at(y, x - 1, channel));
                    }
                    if y > 0 {
                        add(y, here - self.at(y - 1, x, channel));
                    }
                }
            }
        }
        let mean = |(sum, count): (f64, u64)| if count == 0 { 0.0 } else { sum / count as f64 };
        Gradients {
            border: mean(border),
            inside: mean(inside),
        }
    }
}

/// Variance of a frame, of its row means and of its column means.
#[derive(Default, Clone, Copy)]
struct Variance {
    all: f64,
    rows: f64,
    columns: f64,
}

/// Mean squared differences of neighbouring pixels.
#[derive(Default, Clone, Copy)]
struct Gradients {
    border: f64,
    inside: f64,
}

/// The sums behind the scores; those of several frames add up.
#[derive(Default)]
struct Tally {
    frames: f64,
    variance: [Variance; 2],
    gradients: [Gradients; 2],
    similarity: f64,
    weight: f64,
    error: f64,
    mean_error: f64,
}

impl Tally {
    fn of(prediction: &Residual, truth: &Residual, patch_size: usize) -> Self {
        let count = truth.values.len() as f64;
        let pairs = || prediction.values.iter().zip(&truth.values);
        let (similarity, weight) = similarity(prediction, truth);
        Self {
            frames: 1.0,
            variance: [prediction.variance(), truth.variance()],
            gradients: [
                prediction.gradients(patch_size),
                truth.gradients(patch_size),
            ],
            similarity,
            weight,
            error: pairs().map(|(p, t)| (p - t) * (p - t)).sum::<f64>() / count,
            mean_error: pairs().map(|(_, t)| t * t).sum::<f64>() / count,
        }
    }

    fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        for (sum, other) in self.variance.iter_mut().zip(&other.variance) {
            sum.all += other.all;
            sum.rows += other.rows;
            sum.columns += other.columns;
        }
        for (sum, other) in self.gradients.iter_mut().zip(&other.gradients) {
            sum.border += other.border;
            sum.inside += other.inside;
        }
        self.similarity += other.similarity;
        self.weight += other.weight;
        self.error += other.error;
        self.mean_error += other.mean_error;
    }

    fn scores(&self) -> StructureScores {
        // The sums are over frames; their mean is compared with the smallest denominator.
        let ratio = |numerator: f64, denominator: f64| {
            (denominator / self.frames >= SMALLEST_DENOMINATOR).then(|| numerator / denominator)
        };
        let [p, t] = self.variance;
        let share = |v: Variance| {
            ratio(
                if v.rows > v.columns {
                    v.rows
                } else {
                    v.columns
                },
                v.all,
            )
        };
        let stripes = share(p).zip(share(t)).and_then(|(p, t)| {
            let rest = 1.0 - t;
            (rest >= SMALLEST_DENOMINATOR).then(|| (p - t) / rest)
        });
        let [prediction, truth] = self.gradients;
        let blockiness =
            ratio(prediction.border, prediction.inside).zip(ratio(truth.border, truth.inside));
        StructureScores {
            flatness: ratio(p.all, t.all).map(Scalar::new),
            stripes: stripes.map(Scalar::new),
            blockiness: blockiness
                .and_then(|(p, t)| (t >= SMALLEST_DENOMINATOR).then(|| Scalar::new(p / t))),
            ssim: ratio(self.similarity, self.weight).map(Scalar::new),
            mse_ratio: ratio(self.error, self.mean_error).map(Scalar::new),
        }
    }
}

/// The sums of w * SSIM and of w over all windows, divided by their number.
fn similarity(prediction: &Residual, truth: &Residual) -> (f64, f64) {
    let (height, width) = (truth.height, truth.width);
    let (mut sum, mut weights, mut count) = (0.0, 0.0, 0_u64);
    // A frame smaller than a window is one window.
    let (tall, wide) = (WINDOW.min(height), WINDOW.min(width));
    for y in (0..=height - tall).step_by(WINDOW_STEP) {
        for x in (0..=width - wide).step_by(WINDOW_STEP) {
            for channel in 0..CHANNELS {
                let (ssim, weight) = window(prediction, truth, (y..y + tall, x..x + wide), channel);
                sum += ssim * weight;
                weights += weight;
                count += 1;
            }
        }
    }
    (sum / count as f64, weights / count as f64)
}

fn window(
    p: &Residual,
    t: &Residual,
    (ys, xs): (std::ops::Range<usize>, std::ops::Range<usize>),
    channel: usize,
) -> (f64, f64) {
    let count = (ys.len() * xs.len()) as f64;
    let (mean_p, mean_t) = (
        p.mean(ys.clone(), xs.clone(), channel),
        t.mean(ys.clone(), xs.clone(), channel),
    );
    let (mut var_p, mut var_t, mut covariance) = (0.0, 0.0, 0.0);
    for y in ys {
        for x in xs.clone() {
            let (a, b) = (p.at(y, x, channel) - mean_p, t.at(y, x, channel) - mean_t);
            var_p += a * a;
            var_t += b * b;
            covariance += a * b;
        }
    }
    (var_p, var_t, covariance) = (var_p / count, var_t / count, covariance / count);
    let squares = mean_p * mean_p + mean_t * mean_t;
    let luminance = (2.0 * mean_p * mean_t + SSIM_C1) / (squares + SSIM_C1);
    let structure = (2.0 * covariance + SSIM_C2) / (var_p + var_t + SSIM_C2);
    (luminance * structure, squares + var_p + var_t)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 16;

    fn gray(value: impl Fn(usize, usize) -> u8) -> Vec<u8> {
        (0..SIDE)
            .flat_map(|y| (0..SIDE).map(move |x| (y, x)))
            .flat_map(|(y, x)| [value(y, x); 3])
            .collect()
    }

    fn mean() -> MeanImage {
        MeanImage::from_steps(SIDE, SIDE, vec![100.0; SIDE * SIDE * CHANNELS]).unwrap()
    }

    fn one(prediction: &[u8], truth: &[u8]) -> StructureScores {
        score(prediction, truth, &mean(), 8).unwrap().frames[0]
    }

    #[track_caller]
    fn check(name: &str, found: Option<Scalar>, want: Option<f64>) {
        let found = found.map(Scalar::get);
        let near = match (found, want) {
            (Some(found), Some(want)) => (found - want).abs() < 1e-9,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        assert!(near, "{name}: {found:?}, expected {want:?}");
    }

    #[test]
    fn scores_match_values_computed_by_hand() {
        let board = gray(|y, x| if (y + x) % 2 == 0 { 110 } else { 90 });
        let half = gray(|y, x| if (y + x) % 2 == 0 { 105 } else { 95 });
        let inverse = gray(|y, x| if (y + x) % 2 == 0 { 90 } else { 110 });
        let rows = gray(|y, _| if y % 2 == 0 { 110 } else { 90 });
        let columns = gray(|_, x| if x % 2 == 0 { 110 } else { 90 });
        let blocks = gray(|y, x| if (y / 8 + x / 8) % 2 == 0 { 110 } else { 90 });
        let flat = gray(|_, _| 100);

        check(
            "flatness of half the contrast",
            one(&half, &board).flatness,
            Some(0.25),
        );
        check(
            "flatness of the mean image",
            one(&flat, &board).flatness,
            Some(0.0),
        );
        check(
            "flatness where the truth is flat",
            one(&board, &flat).flatness,
            None,
        );
        check("stripes of rows", one(&rows, &board).stripes, Some(1.0));
        check(
            "stripes of columns",
            one(&columns, &board).stripes,
            Some(1.0),
        );
        check("stripes of a board", one(&half, &board).stripes, Some(0.0));
        check(
            "stripes where the truth has nothing else",
            one(&board, &rows).stripes,
            None,
        );
        check(
            "blockiness of a board",
            one(&half, &board).blockiness,
            Some(1.0),
        );
        check(
            "blockiness where blocks have no inside",
            one(&blocks, &board).blockiness,
            None,
        );
        // Every neighbour of a board differs; those of rows differ in one direction: 15 of 16 * 15 are borders.
        check(
            "blockiness of rows",
            one(&rows, &board).blockiness,
            Some(1.0),
        );
        check("ssim of the truth", one(&board, &board).ssim, Some(1.0));
        let (variance, weight) = ((10.0 / 127.5) * (10.0 / 127.5), 2.0);
        let ssim = (SSIM_C2 - weight * variance) / (weight * variance + SSIM_C2);
        check(
            "ssim of the inverse",
            one(&inverse, &board).ssim,
            Some(ssim),
        );
        check(
            "ssim of the mean image",
            one(&flat, &board).ssim,
            Some(SSIM_C2 / (variance + SSIM_C2)),
        );
        check(
            "ssim where both are the mean image",
            one(&flat, &flat).ssim,
            None,
        );
        check(
            "mse_ratio of the truth",
            one(&board, &board).mse_ratio,
            Some(0.0),
        );
        check(
            "mse_ratio of half the contrast",
            one(&half, &board).mse_ratio,
            Some(0.25),
        );
        check(
            "mse_ratio of the mean image",
            one(&flat, &board).mse_ratio,
            Some(1.0),
        );
        check(
            "mse_ratio of the inverse",
            one(&inverse, &board).mse_ratio,
            Some(4.0),
        );
        check(
            "mse_ratio where the truth is the mean image",
            one(&board, &flat).mse_ratio,
            None,
        );
    }

    #[test]
    fn blockiness_sees_borders_that_the_truth_does_not_have() {
        // A ramp has the same step everywhere: B = I. Flattened to a quarter inside, B / I = 16.
        let ramp = gray(|_, x| 60 + 4 * x as u8);
        let steps = gray(|_, x| 60 + 4 * (x / 8 * 8) as u8 + (x % 8) as u8);
        let border = 32.0 - 7.0;
        check(
            "steps at the borders",
            one(&steps, &ramp).blockiness,
            Some(border * border),
        );
        let found = score(&steps, &ramp, &mean(), 1).unwrap().pooled.blockiness;
        check("patches of one pixel have no inside", found, None);
    }

    #[test]
    fn pooled_scores_use_sums_over_frames() {
        let board = gray(|y, x| if (y + x) % 2 == 0 { 110 } else { 90 });
        let strong = gray(|y, x| if (y + x) % 2 == 0 { 130 } else { 70 });
        let flat = gray(|_, _| 100);
        let truth = [board.as_slice(), &strong].concat();
        let scores = score(&[board.as_slice(), &flat].concat(), &truth, &mean(), 8).unwrap();
        check("flatness", scores.pooled.flatness, Some(0.1));
        check("mse_ratio", scores.pooled.mse_ratio, Some(0.9));
        assert_eq!(scores.frames.len(), 2);
        assert_eq!(scores.frames[0], one(&board, &board));
    }

    #[test]
    fn frames_that_do_not_match_are_refused() {
        let frame = gray(|_, _| 100);
        let bytes = frame.len();
        let found = score(&frame[1..], &frame, &mean(), 8);
        assert_eq!(
            found,
            Err(StructureError::Unequal {
                prediction: bytes - 1,
                truth: bytes
            })
        );
        let found = score(&frame[1..], &frame[1..], &mean(), 8);
        assert_eq!(
            found,
            Err(StructureError::NotWholeFrames {
                found: bytes - 1,
                frame: bytes
            })
        );
        assert_eq!(
            score(&[], &[], &mean(), 8),
            Err(StructureError::NotWholeFrames {
                found: 0,
                frame: bytes
            })
        );
    }
}
