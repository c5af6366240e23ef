//! Refuses data with nothing to learn: frames that never change pass every gate, because a trivial predictor is right.
//!
//! There are three cases. All training frames are one picture: no stage learns anything. No training window changes: the
//! video tokenizer can learn several pictures, but the other stages learn from changes. A trivial predictor is exact on the
//! held-out windows: no gate could measure anything.

use crate::advice::{Advice, Hint};

use super::frames::Frames;
use super::windows::{WindowId, Windows};

/// A trivial loss below this leaves nothing to measure, as in a gate's skill.
const TRIVIAL_LOSS_MIN: f64 = 1e-9;

/// Why nothing can be learnt or measured.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StillError {
    #[error(
        "all {frames} frames to train on are the same picture{}; nothing can be learnt from them",
        of_color(*color)
    )]
    OnePicture {
        frames: usize,
        /// The colour of all pixels, if there is only one.
        color: Option<[u8; 3]>,
        /// Chunks of HDF5 arrays that were never written.
        unwritten: u64,
    },
    #[error(
        "none of the {windows} windows to train on changes: each shows one picture {context_length} times, and latent \
         actions and dynamics learn from what changes"
    )]
    NothingMoves {
        windows: usize,
        context_length: usize,
        frame_stride: usize,
    },
    #[error(
        "the {windows} held-out windows, frames {first} to {last}, {what}: no gate could measure anything"
    )]
    HeldOut {
        windows: usize,
        first: usize,
        last: usize,
        what: &'static str,
        unwritten: u64,
    },
}

impl Advice for StillError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            StillError::OnePicture { unwritten, .. } => vec![Hint::text(format!(
                "check how the dataset was made: an HDF5 array that was never written reads as 0, and floats from 0 to 1 \
                 become 0 without `(frames * 255).round().astype(\"uint8\")`{}",
                of_unwritten(*unwritten)
            ))],
            StillError::NothingMoves { frame_stride, .. } => vec![
                Hint::text(format!(
                    "check the order of the frames and `data.frame_stride` ({frame_stride})"
                )),
                Hint::OneStage {
                    stage: "video_tokenizer",
                },
            ],
            StillError::HeldOut { unwritten, .. } => vec![Hint::text(format!(
                "the last windows are held out; remove the still end from the dataset, or put a recording that moves \
                 last{}",
                of_unwritten(*unwritten)
            ))],
        }
    }
}

/// What the stages to train need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Whether a stage learns from changes within a window.
    pub change: bool,
}

/// Checks the windows. The losses are those of the trivial predictors on the held-out ones.
///
/// # Errors
/// The first [`StillError`] that applies.
pub fn check(
    windows: &Windows,
    needs: Needs,
    mean_image: Option<f64>,
    previous_frame: Option<f64>,
) -> Result<(), StillError> {
    let frames = windows.frames();
    let training = || (0..windows.train_len()).filter_map(|k| windows.train(k));
    let first = training()
        .next()
        .and_then(|window| numbers(windows, window).next());
    let other = |number: usize| frames.frame(number) != first.and_then(|first| frames.frame(first));
    if !training().any(|window| numbers(windows, window).any(other)) {
        return Err(one_picture(windows, first));
    }
    let shape = windows.shape();
    let moves = 1 < shape.context_length;
    if needs.change && moves && !training().any(|window| changes(windows, window)) {
        return Err(StillError::NothingMoves {
            windows: windows.train_len(),
            context_length: shape.context_length,
            frame_stride: shape.frame_stride,
        });
    }
    let nothing = |loss: Option<f64>| loss.is_some_and(|loss| loss < TRIVIAL_LOSS_MIN);
    if nothing(mean_image) {
        return Err(held_out(windows, "show the mean image of the others"));
    }
    if needs.change && nothing(previous_frame) {
        return Err(held_out(windows, "never change"));
    }
    Ok(())
}

fn numbers(windows: &Windows, window: WindowId) -> impl Iterator<Item = usize> {
    windows.frame_numbers(window).into_iter().flatten()
}

fn changes(windows: &Windows, window: WindowId) -> bool {
    let frames = windows.frames();
    let mut shown = numbers(windows, window).map(|number| frames.frame(number));
    let first = shown.next();
    shown.any(|frame| Some(frame) != first)
}

fn one_picture(windows: &Windows, first: Option<usize>) -> StillError {
    let frame = first.and_then(|first| windows.frames().frame(first));
    let pixels = frame.unwrap_or_default().as_chunks::<3>().0;
    let color = pixels.first().copied();
    StillError::OnePicture {
        frames: training_frames(windows),
        unwritten: unwritten(windows.frames()),
        color: color.filter(|color| pixels.iter().all(|pixel| pixel == color)),
    }
}

fn training_frames(windows: &Windows) -> usize {
    let mut seen = vec![false; windows.frames().count()];
    for window in (0..windows.train_len()).filter_map(|k| windows.train(k)) {
        for number in numbers(windows, window) {
            if let Some(seen) = seen.get_mut(number) {
                *seen = true;
            }
        }
    }
    seen.into_iter().filter(|&seen| seen).count()
}

fn held_out(windows: &Windows, what: &'static str) -> StillError {
    let shown = || {
        (0..windows.held_out_len())
            .filter_map(|k| windows.held_out(k))
            .flat_map(|window| numbers(windows, window))
    };
    StillError::HeldOut {
        windows: windows.held_out_len(),
        first: shown().min().unwrap_or(0),
        last: shown().max().unwrap_or(0),
        what,
        unwritten: unwritten(windows.frames()),
    }
}

fn unwritten(frames: &Frames) -> u64 {
    let chunks = frames.passed_over().iter();
    let unwritten = chunks.filter(|found| found.why.starts_with("chunk"));
    unwritten.fold(0, |sum, found| sum.saturating_add(found.count))
}

fn of_unwritten(chunks: u64) -> String {
    match chunks {
        0 => String::new(),
        chunks => format!(
            "; {chunks} chunks were never written, so the program that wrote them may have ended early"
        ),
    }
}

/// The brightest value of all frames: 1 if a mask or floats from 0 to 1 were cast to bytes.
pub fn brightest(frames: &Frames) -> u8 {
    frames.bytes().iter().copied().max().unwrap_or(0)
}

fn of_color(color: Option<[u8; 3]>) -> String {
    color.map_or_else(String::new, |color| format!(", every pixel {color:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::WindowShape;
    use crate::data::trivial::{self, MeanImage};
    use std::sync::Arc;

    const MOTION: Needs = Needs { change: true };
    const STILL: Needs = Needs { change: false };

    /// Checks recordings of one-pixel frames, given by their gray values.
    fn found(recordings: &[&[u8]], context_length: usize, needs: Needs) -> Option<StillError> {
        let bytes: Vec<u8> = recordings
            .concat()
            .iter()
            .flat_map(|&gray| [gray; 3])
            .collect();
        let lengths: Vec<usize> = recordings.iter().map(|recording| recording.len()).collect();
        let frames = Frames::from_bytes(1, 1, bytes)
            .unwrap()
            .with_segments(&lengths);
        let shape = WindowShape {
            context_length,
            frame_stride: 1,
        };
        let windows = Windows::new(Arc::new(frames), shape, 1).unwrap();
        let ids = windows.held_out_spread(windows.held_out_len());
        let trivial = trivial::measure(&windows, &MeanImage::of(&windows), &ids).unwrap();
        let previous = trivial.previous_frame.map(|loss| loss.all);
        check(&windows, needs, Some(trivial.mean_image.all), previous).err()
    }

    #[test]
    fn frames_that_move_are_accepted() {
        assert_eq!(found(&[&[1, 9, 1, 9, 1, 9, 1, 9]], 2, MOTION), None);
        assert_eq!(
            found(&[&[1, 2, 3, 4, 5, 6, 7, 8, 9]], 1, MOTION),
            None,
            "windows of one frame"
        );
        assert_eq!(
            found(&[&[5, 5, 5, 5, 5, 5, 9, 5, 9, 5]], 2, MOTION),
            None,
            "one change is enough"
        );
    }

    #[test]
    fn one_picture_is_refused_for_every_stage() {
        for needs in [MOTION, STILL] {
            let want = StillError::OnePicture {
                frames: 5,
                color: Some([7, 7, 7]),
                unwritten: 0,
            };
            assert_eq!(found(&[&[7; 8]], 2, needs), Some(want));
        }
        let found = found(&[&[7, 7, 7, 7, 7, 7, 200, 9]], 2, STILL).unwrap();
        assert!(
            found
                .to_string()
                .contains("the same picture, every pixel [7, 7, 7]"),
            "{found}"
        );
    }

    #[test]
    fn still_recordings_are_refused_for_stages_that_learn_from_change() {
        let recordings: [&[u8]; 4] = [&[1; 5], &[50; 5], &[100; 5], &[200, 10, 200]];
        let error = found(&recordings, 2, MOTION).unwrap();
        assert!(
            matches!(error, StillError::NothingMoves { windows: 12, .. }),
            "{error:?}"
        );
        assert_eq!(
            found(&recordings, 2, STILL),
            None,
            "pictures for the video tokenizer"
        );
    }

    #[test]
    fn a_still_end_is_refused_because_nothing_could_be_measured() {
        let frames = [&[1, 200, 3, 150, 9, 60][..], &[0; 3]].concat();
        let error = found(&[&frames], 2, MOTION).unwrap();
        let want = StillError::HeldOut {
            windows: 2,
            first: 6,
            last: 8,
            what: "never change",
            unwritten: 0,
        };
        assert_eq!(error, want);
        assert_eq!(found(&[&frames], 2, STILL), None);
        let error = found(&[&[0, 200, 0, 200, 100, 100, 100]], 2, STILL);
        assert!(
            matches!(error, Some(StillError::HeldOut { .. })),
            "the mean image: {error:?}"
        );
        assert_eq!(found(&[&[0, 200, 0, 200, 90, 90, 90]], 2, STILL), None);
    }
}
