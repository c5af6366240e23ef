//! The losses of trivial predictors: the mean image and the previous frame.
//!
//! A limit that such a predictor passes means little, so they are scored with the stage's own loss:
//! smooth L1 with beta 1 on pixels scaled from bytes to [-1, 1] by `x / 127.5 - 1`, that is `0.5 d^2` for `|d| < 1`
//! and `|d| - 0.5` beyond (Girshick 2015, "Fast R-CNN", equation 3).
//!
//! The mean image is the mean of the frames before the first held-out one. A *moving* pixel differs from it by more than
//! 8/255 in at least one channel.
//!
//! Invariant: sums are in f64 and in the order of the windows, so the results are the same on every machine.

use super::error::WindowError;
use super::source::CHANNELS;
use super::windows::{WindowId, Windows};

/// A pixel moves if a channel differs from the mean image by more than this, in steps of a byte.
pub const MOVING_STEPS: f64 = 8.0;

/// The mean of the training frames, `[height, width, 3]`, in steps of a byte (0 to 255).
#[derive(Debug, Clone, PartialEq)]
pub struct MeanImage {
    steps: Vec<f64>,
    height: usize,
    width: usize,
}

impl MeanImage {
    /// Averages the training frames, with exact sums.
    pub fn of(windows: &Windows) -> Self {
        let frames = windows.frames();
        let count = windows.training_frames_end();
        let mut sums = vec![0_u64; frames.frame_bytes()];
        for frame in frames
            .bytes()
            .chunks_exact(frames.frame_bytes().max(1))
            .take(count)
        {
            for (sum, &byte) in sums.iter_mut().zip(frame) {
                *sum += u64::from(byte);
            }
        }
        let steps = sums.iter().map(|&sum| sum as f64 / count as f64).collect();
        Self {
            steps,
            height: frames.height(),
            width: frames.width(),
        }
    }

    /// From values between 0 and 255; `None` unless there are `height * width * 3`.
    pub fn from_steps(height: usize, width: usize, steps: Vec<f64>) -> Option<Self> {
        (steps.len() == height.checked_mul(width)?.checked_mul(CHANNELS)?).then_some(Self {
            steps,
            height,
            width,
        })
    }

    /// `[height, width, 3]`, 0 to 255.
    pub fn steps(&self) -> &[f64] {
        &self.steps
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// For each pixel of a frame `[height, width, 3]`, whether it moves; `[height * width]`.
    pub fn moving<'a>(&'a self, frame: &'a [u8]) -> impl Iterator<Item = bool> + 'a {
        self.steps
            .chunks_exact(CHANNELS)
            .zip(frame.chunks_exact(CHANNELS))
            .map(|(mean, pixel)| {
                mean.iter()
                    .zip(pixel)
                    .any(|(&mean, &byte)| (f64::from(byte) - mean).abs() > MOVING_STEPS)
            })
    }
}

/// A predictor's mean loss over all pixels, and over the moving ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrivialLoss {
    pub all: f64,
    /// `None` when no pixel moves.
    pub moving: Option<f64>,
}

/// The losses of the trivial predictors on some windows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trivial {
    /// The mean image for every frame: the video tokenizer's trivial predictor.
    pub mean_image: TrivialLoss,
    /// The previous frame for every frame but the first: the trivial predictor of latent actions' reconstruction. `None`
    /// for windows of one frame.
    pub previous_frame: Option<TrivialLoss>,
    /// The share of pixels that move, from 0 to 1.
    pub moving_share: f64,
}

/// Scores the trivial predictors on `ids`.
///
/// # Errors
/// A window of another dataset.
pub fn measure(
    windows: &Windows,
    mean: &MeanImage,
    ids: &[WindowId],
) -> Result<Trivial, WindowError> {
    let (mut of_mean, mut of_previous) = (Sums::default(), Sums::default());
    for &id in ids {
        let mut previous: Option<&[u8]> = None;
        for number in windows.frame_numbers(id)? {
            let Some(frame) = windows.frames().frame(number) else {
                continue;
            };
            of_mean.add(mean, frame, mean.steps.iter().copied());
            if let Some(previous) = previous {
                of_previous.add(mean, frame, previous.iter().map(|&byte| f64::from(byte)));
            }
            previous = Some(frame);
        }
    }
    let moving_share = if of_mean.pixels == 0 {
        0.0
    } else {
        of_mean.moving_pixels as f64 / of_mean.pixels as f64
    };
    Ok(Trivial {
        mean_image: of_mean.loss(),
        previous_frame: (of_previous.pixels > 0).then(|| of_previous.loss()),
        moving_share,
    })
}

/// Sums over pixels of the loss, which is summed over the channels of each.
#[derive(Default)]
struct Sums {
    all: f64,
    pixels: u64,
    moving: f64,
    moving_pixels: u64,
}

impl Sums {
    fn add(&mut self, mean: &MeanImage, frame: &[u8], mut prediction: impl Iterator<Item = f64>) {
        for (pixel, moves) in frame.chunks_exact(CHANNELS).zip(mean.moving(frame)) {
            let loss: f64 = pixel
                .iter()
                .zip(prediction.by_ref())
                .map(|(&byte, predicted)| smooth_l1(f64::from(byte), predicted))
                .sum();
            self.all += loss;
            self.pixels += 1;
            if moves {
                self.moving += loss;
                self.moving_pixels += 1;
            }
        }
    }

    fn loss(&self) -> TrivialLoss {
        let mean = |sum: f64, pixels: u64| sum / (pixels * CHANNELS as u64) as f64;
        TrivialLoss {
            all: if self.pixels == 0 {
                0.0
            } else {
                mean(self.all, self.pixels)
            },
            moving: (self.moving_pixels > 0).then(|| mean(self.moving, self.moving_pixels)),
        }
    }
}

/// Smooth L1 with beta 1 of two values in steps of a byte, on the scale of [-1, 1].
fn smooth_l1(truth: f64, predicted: f64) -> f64 {
    let distance = ((truth - predicted) / 127.5).abs();
    if distance < 1.0 {
        0.5 * distance * distance
    } else {
        distance - 0.5
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Frames, WindowShape};
    use std::sync::Arc;

    /// 20 gray frames of two pixels: the left one is always 100, the right one is 100 and `last` in the last 4 frames.
    fn windows(last: u8) -> Windows {
        let frames = (0..20)
            .flat_map(|number| [[100; 3], [if number < 16 { 100 } else { last }; 3]])
            .flatten()
            .collect();
        let frames = Frames::from_bytes(1, 2, frames).unwrap();
        Windows::new(
            Arc::new(frames),
            WindowShape {
                context_length: 2,
                frame_stride: 1,
            },
            2,
        )
        .unwrap()
    }

    #[track_caller]
    fn check(
        name: &str,
        last: u8,
        ids: &[usize],
        mean_image: TrivialLoss,
        previous: TrivialLoss,
        moving_share: f64,
    ) {
        let windows = windows(last);
        let ids: Vec<_> = ids.iter().map(|&k| windows.held_out(k).unwrap()).collect();
        let found = measure(&windows, &MeanImage::of(&windows), &ids).unwrap();
        let found_previous = found.previous_frame.unwrap();
        let near = |found: f64, want: f64| (found - want).abs() < 1e-12;
        for (found, want) in [(found.mean_image, mean_image), (found_previous, previous)] {
            assert!(
                near(found.all, want.all),
                "{name}: {found:?}, expected {want:?}"
            );
            assert_eq!(found.moving.is_some(), want.moving.is_some(), "{name}");
            assert!(
                near(found.moving.unwrap_or(0.0), want.moving.unwrap_or(0.0)),
                "{name}: {found:?}, expected {want:?}"
            );
        }
        assert_eq!(found.moving_share, moving_share, "{name}");
    }

    #[test]
    fn no_windows_have_no_moving_pixels() {
        let windows = windows(151);
        let found = measure(&windows, &MeanImage::of(&windows), &[]).unwrap();
        let none = TrivialLoss {
            all: 0.0,
            moving: None,
        };
        assert_eq!(
            found,
            Trivial {
                mean_image: none,
                previous_frame: None,
                moving_share: 0.0
            }
        );
    }

    #[test]
    fn losses_match_values_computed_by_hand() {
        // Held out are the windows that begin at 15, 16, 17 and 18; the mean of the frames before 15 is 100.
        let loss = |all, moving| TrivialLoss { all, moving };
        let small = 0.5 * (51.0 / 127.5) * (51.0 / 127.5);
        let large = 153.0 / 127.5 - 0.5;
        check(
            "a square below 1",
            151,
            &[1],
            loss(small / 2.0, Some(small)),
            loss(0.0, Some(0.0)),
            0.5,
        );
        check(
            "a line from 1 on",
            253,
            &[1],
            loss(large / 2.0, Some(large)),
            loss(0.0, Some(0.0)),
            0.5,
        );
        check(
            "the frame where it changes",
            151,
            &[0],
            loss(small / 4.0, Some(small)),
            loss(small / 2.0, Some(small)),
            0.25,
        );
        let eight = 0.5 * (8.0 / 127.5) * (8.0 / 127.5);
        check(
            "8 steps do not move",
            108,
            &[1],
            loss(eight / 2.0, None),
            loss(0.0, None),
            0.0,
        );
        let nine = 0.5 * (9.0 / 127.5) * (9.0 / 127.5);
        check(
            "9 steps move",
            109,
            &[1],
            loss(nine / 2.0, Some(nine)),
            loss(0.0, Some(0.0)),
            0.5,
        );
        check(
            "several windows count alike",
            151,
            &[0, 1],
            loss(small * 3.0 / 8.0, Some(small)),
            loss(small / 4.0, Some(small / 2.0)),
            0.375,
        );
    }
}
