//! Which frames make a sample, and which samples are held out.
//!
//! A window has `context_length` frames of one segment, `frame_stride` apart. The last 2 % of the windows, and at least
//! two batches, are held out. Training windows end before the first held-out window begins; windows in between are not
//! used.
//!
//! Invariant: no frame of a training window, nor one between its frames, belongs to a held-out window.

use super::error::WindowError;
use super::frames::Frames;
use std::sync::Arc;

/// The shape of a sample in frames. Both numbers are at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowShape {
    /// Frames of a sample.
    pub context_length: usize,
    /// Distance between two frames of a sample; 1 takes every frame.
    pub frame_stride: usize,
}

/// A window of one [`Windows`], by its index among all training and held-out windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WindowId(usize);

/// All windows of a dataset.
#[derive(Debug, Clone)]
pub struct Windows {
    frames: Arc<Frames>,
    shape: WindowShape,
    /// First frame of each window, ascending.
    starts: Vec<usize>,
    train_len: usize,
    held_out_from: usize,
}

impl Windows {
    /// Cuts `frames` into windows. `batch_size` is that of a micro-batch; with the same size stages hold out the same
    /// windows.
    ///
    /// # Errors
    /// A size of 0, a dataset too small for a window, or for a training batch in addition to the held-out windows.
    pub fn new(
        frames: Arc<Frames>,
        shape: WindowShape,
        batch_size: usize,
    ) -> Result<Self, WindowError> {
        let WindowShape {
            context_length,
            frame_stride,
        } = shape;
        for (name, value) in [
            ("context_length", context_length),
            ("frame_stride", frame_stride),
            ("batch_size", batch_size),
        ] {
            if value == 0 {
                return Err(WindowError::Zero { name });
            }
        }
        let span = (context_length - 1)
            .saturating_mul(frame_stride)
            .saturating_add(1);
        let starts: Vec<usize> = frames
            .segments()
            .iter()
            .flat_map(|segment| {
                segment.start..(segment.end + 1).saturating_sub(span).max(segment.start)
            })
            .collect();
        if starts.is_empty() {
            let longest = frames
                .segments()
                .iter()
                .map(|segment| segment.len())
                .max()
                .unwrap_or(0);
            return Err(WindowError::NoWindow {
                longest,
                span,
                context_length,
                frame_stride,
            });
        }
        let held_out = starts
            .len()
            .div_ceil(50)
            .max(batch_size.saturating_mul(2))
            .min(starts.len());
        let held_out_from = starts.len() - held_out;
        let boundary = starts[held_out_from];
        let train_len = starts.partition_point(|&start| start + span <= boundary);
        if train_len < batch_size {
            return Err(WindowError::TooFew {
                windows: starts.len(),
                held_out,
                training: train_len,
                batch_size,
            });
        }
        Ok(Self {
            frames,
            shape,
            starts,
            train_len,
            held_out_from,
        })
    }

    /// The frames that the windows are cut from.
    pub fn frames(&self) -> &Frames {
        &self.frames
    }

    /// The shape of all windows.
    pub fn shape(&self) -> WindowShape {
        self.shape
    }

    /// Number of training windows, at least one batch.
    pub fn train_len(&self) -> usize {
        self.train_len
    }

    /// Number of held-out windows, at least two batches.
    pub fn held_out_len(&self) -> usize {
        self.starts.len() - self.held_out_from
    }

    /// The `k`-th training window; `None` from [`Self::train_len`] on.
    pub fn train(&self, k: usize) -> Option<WindowId> {
        (k < self.train_len).then_some(WindowId(k))
    }

    /// The `k`-th held-out window; `None` from [`Self::held_out_len`] on.
    pub fn held_out(&self, k: usize) -> Option<WindowId> {
        (k < self.held_out_len()).then(|| WindowId(self.held_out_from + k))
    }

    /// Up to `count` held-out windows, evenly spread from the first to the last: the fixed sets for a gate's losses and
    /// its picture.
    pub fn held_out_spread(&self, count: usize) -> Vec<WindowId> {
        let len = self.held_out_len();
        let count = count.min(len);
        let gaps = count.saturating_sub(1).max(1);
        (0..count)
            .map(|k| WindowId(self.held_out_from + k * (len - 1) / gaps))
            .collect()
    }

    /// The indices of a window's frames in the dataset.
    ///
    /// # Errors
    /// A window of another dataset.
    pub fn frame_numbers(
        &self,
        window: WindowId,
    ) -> Result<impl Iterator<Item = usize> + use<>, WindowError> {
        let stride = self.shape.frame_stride;
        let count = self.starts.len();
        let &start = self.starts.get(window.0).ok_or(WindowError::NoSuchWindow {
            found: window.0,
            count,
        })?;
        Ok((0..self.shape.context_length).map(move |k| start + k * stride))
    }

    /// The frames of the windows, concatenated: uint8 `[windows, context_length, height, width, 3]`.
    ///
    /// # Errors
    /// A window of another dataset.
    pub fn gather(&self, windows: &[WindowId]) -> Result<Vec<u8>, WindowError> {
        let mut batch = Vec::with_capacity(
            windows.len() * self.shape.context_length * self.frames.frame_bytes(),
        );
        for &window in windows {
            for number in self.frame_numbers(window)? {
                let count = self.starts.len();
                let frame = self.frames.frame(number).ok_or(WindowError::NoSuchWindow {
                    found: window.0,
                    count,
                })?;
                batch.extend_from_slice(frame);
            }
        }
        Ok(batch)
    }

    /// The first frame that no training window contains; training may use those before it.
    pub(super) fn training_frames_end(&self) -> usize {
        self.starts[self.held_out_from]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Recordings of these lengths; a frame is one pixel that encodes its index.
    fn frames(files: &[usize]) -> Arc<Frames> {
        let count: usize = files.iter().sum();
        let bytes = (0..count)
            .flat_map(|number| [number as u8, (number >> 8) as u8, 0])
            .collect();
        Arc::new(
            Frames::from_bytes(1, 1, bytes)
                .unwrap()
                .with_segments(files),
        )
    }

    fn windows(
        files: &[usize],
        context_length: usize,
        frame_stride: usize,
        batch: usize,
    ) -> Result<Windows, WindowError> {
        Windows::new(
            frames(files),
            WindowShape {
                context_length,
                frame_stride,
            },
            batch,
        )
    }

    fn numbers(windows: &Windows, id: Option<WindowId>) -> Vec<usize> {
        windows.frame_numbers(id.unwrap()).unwrap().collect()
    }

    #[track_caller]
    fn check(
        name: &str,
        files: &[usize],
        (context, stride, batch): (usize, usize, usize),
        want: (usize, usize),
    ) {
        let windows = windows(files, context, stride, batch).unwrap();
        assert_eq!(
            (windows.train_len(), windows.held_out_len()),
            want,
            "{name}"
        );

        let held_out: BTreeSet<usize> = (0..want.1)
            .flat_map(|k| numbers(&windows, windows.held_out(k)))
            .collect();
        for k in 0..want.0 {
            let training = numbers(&windows, windows.train(k));
            let (first, last) = (training[0], training[training.len() - 1]);
            assert!(
                held_out.range(first..=last).next().is_none(),
                "{name}: window {k} shares frames"
            );
            assert!(
                windows
                    .frames()
                    .segments()
                    .iter()
                    .any(|file| file.contains(&first) && file.contains(&last)),
                "{name}: window {k} crosses a file's end"
            );
        }
        assert_eq!(
            (windows.train(want.0), windows.held_out(want.1)),
            (None, None),
            "{name}"
        );
    }

    #[test]
    fn held_out_windows_share_no_frames_with_training() {
        // 1000 frames, span 13: 988 windows, 2 % of them are 19.76, so 20; the first held-out one begins at frame 968.
        check("two per cent, rounded up", &[1000], (4, 4, 8), (956, 20));
        check("at least two batches", &[1000], (4, 4, 16), (944, 32));
        check("a window of one frame", &[100], (1, 1, 1), (98, 2));
        check(
            "a window of one frame, whatever the stride",
            &[100],
            (1, 9, 1),
            (98, 2),
        );
        check(
            "files end windows",
            &[20, 13, 12, 500],
            (4, 4, 2),
            (8 + 1 + 466, 10),
        );
        check(
            "held-out windows reach back into the file before",
            &[100, 14],
            (4, 4, 2),
            (74, 4),
        );
        check("exactly one training batch", &[30], (2, 2, 5), (16, 10));
        check("as few windows as possible", &[19], (2, 2, 5), (5, 10));
    }

    #[track_caller]
    fn check_error(
        name: &str,
        files: &[usize],
        (context, stride, batch): (usize, usize, usize),
        want: WindowError,
    ) {
        assert_eq!(
            windows(files, context, stride, batch).unwrap_err(),
            want,
            "{name}"
        );
    }

    #[test]
    fn a_dataset_that_is_too_small_says_what_is_missing() {
        let no_window = |longest| WindowError::NoWindow {
            longest,
            span: 13,
            context_length: 4,
            frame_stride: 4,
        };
        check_error("shorter than one window", &[12], (4, 4, 1), no_window(12));
        check_error(
            "each file shorter than one window",
            &[12, 9, 11],
            (4, 4, 1),
            no_window(12),
        );
        let too_few = |windows, held_out, training, batch_size| WindowError::TooFew {
            windows,
            held_out,
            training,
            batch_size,
        };
        check_error("one window", &[13], (4, 4, 1), too_few(1, 1, 0, 1));
        check_error(
            "one training window short",
            &[18],
            (2, 2, 5),
            too_few(16, 10, 4, 5),
        );
        check_error(
            "no batch",
            &[100],
            (4, 4, 0),
            WindowError::Zero { name: "batch_size" },
        );
        check_error(
            "no context",
            &[100],
            (0, 4, 1),
            WindowError::Zero {
                name: "context_length",
            },
        );
        check_error(
            "no stride",
            &[100],
            (4, 0, 1),
            WindowError::Zero {
                name: "frame_stride",
            },
        );
        let huge = WindowError::NoWindow {
            longest: 100,
            span: usize::MAX,
            context_length: usize::MAX,
            frame_stride: usize::MAX,
        };
        check_error(
            "a context beyond all numbers",
            &[100],
            (usize::MAX, usize::MAX, 1),
            huge,
        );
    }

    #[test]
    fn a_batch_holds_the_frames_of_its_windows_in_order() {
        let windows = windows(&[300], 3, 2, 2).unwrap();
        let ids = [windows.train(5).unwrap(), windows.held_out(0).unwrap()];
        let first = numbers(&windows, windows.held_out(0))[0];
        let expected: Vec<u8> = [5, 7, 9, first, first + 2, first + 4]
            .iter()
            .flat_map(|&n| [n as u8, (n >> 8) as u8, 0])
            .collect();
        assert_eq!(windows.gather(&ids).unwrap(), expected);
        assert_eq!(
            windows.gather(&[WindowId(296)]).unwrap_err(),
            WindowError::NoSuchWindow {
                found: 296,
                count: 296
            }
        );
    }

    #[test]
    fn the_spread_begins_with_the_first_and_ends_with_the_last() {
        let windows = windows(&[1000], 4, 4, 8).unwrap();
        let spread = windows.held_out_spread(5);
        assert_eq!(
            spread.iter().map(|id| id.0 - 968).collect::<Vec<_>>(),
            [0, 4, 9, 14, 19]
        );
        assert_eq!(windows.held_out_spread(100).len(), 20);
        assert_eq!(windows.held_out_spread(1), [windows.held_out(0).unwrap()]);
        assert!(windows.held_out_spread(0).is_empty());
    }
}
