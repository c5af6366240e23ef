//! Prepares the data of a run before training.
//!
//! Loads the frames that a config names, cuts them into windows, and describes both for
//! the run's first event: the hash by which a resumed run recognizes its data, and the
//! losses of predictors that need no training. No libtorch.

use std::sync::Arc;

use crate::advice::{Advice, Hint};
use crate::config::Config;
use crate::data::still::{self, Needs, StillError};
use crate::data::trivial::{self, MeanImage};
use crate::data::{DataError, Frames, WindowError, WindowShape, Windows};
use crate::events::{Dataset, Metric, PassedOver, Recording, Scalar, StagePolicy};
use crate::presets::ModelKind;

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Windows(#[from] WindowError),
    #[error(transparent)]
    Still(#[from] StillError),
}

impl Advice for SetupError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            SetupError::Data(error) => error.hints(),
            SetupError::Windows(error) => error.hints(),
            SetupError::Still(error) => error.hints(),
        }
    }
}

/// The frames of a run.
///
/// # Errors
/// A file is missing or damaged, or is not a file of frames.
pub fn frames(config: &Config) -> Result<Arc<Frames>, SetupError> {
    Ok(Arc::new(Frames::load(
        &config.data.path,
        config.shape.frame_size as usize,
    )?))
}

/// The windows of a run. All stages hold out the same windows, so their number depends on
/// the largest configured batch; halving a batch later does not change it.
///
/// # Errors
/// Too few frames for one window, or for a training batch besides the held-out windows.
pub fn windows(config: &Config, frames: Arc<Frames>) -> Result<Windows, WindowError> {
    let shape = WindowShape {
        context_length: config.shape.context_length as usize,
        frame_stride: config.data.frame_stride as usize,
    };
    Windows::new(frames, shape, largest_batch(config))
}

/// The largest number of windows per micro-batch of any stage.
pub fn largest_batch(config: &Config) -> usize {
    let stages = &config.policy.stages;
    stages
        .iter()
        .map(|stage| stage.settings.batch_size_per_gpu)
        .max()
        .unwrap_or(1)
        .max(1) as usize
}

/// The description of the data in the first event.
pub fn dataset(config: &Config, windows: &Windows) -> Dataset {
    let frames = windows.frames();
    Dataset {
        files: config
            .data
            .path
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        blake3: frames.hash().to_hex().to_string(),
        frames: frames.count() as u64,
        height: frames.height() as u32,
        width: frames.width() as u32,
        training_windows: windows.train_len() as u64,
        held_out_windows: windows.held_out_len() as u64,
        recordings: recordings(frames),
        passed_over: passed_over(frames),
    }
}

/// The description of a run that reads no frames.
pub fn no_dataset() -> Dataset {
    Dataset {
        files: Vec::new(),
        blake3: String::new(),
        frames: 0,
        height: 0,
        width: 0,
        training_windows: 0,
        held_out_windows: 0,
        recordings: Vec::new(),
        passed_over: Vec::new(),
    }
}

fn recordings(frames: &Frames) -> Vec<Recording> {
    let recording = |found: &crate::data::Recording| Recording {
        path: found.path.clone(),
        frames: found.frames as u64,
        height: frames.height() as u32,
        width: frames.width() as u32,
        first: found.first.clone(),
        last: found.last.clone(),
        missing: found.missing,
    };
    frames.recordings().iter().map(recording).collect()
}

fn passed_over(frames: &Frames) -> Vec<PassedOver> {
    let passed_over = |found: &crate::data::PassedOver| PassedOver {
        path: found.path.clone(),
        why: found.why.clone(),
        count: found.count,
        example: found.example.clone(),
    };
    frames.passed_over().iter().map(passed_over).collect()
}

/// Rejects data from which the stages could learn nothing. Only new runs are checked.
///
/// `trivial` is what [`trivial_predictors`] measured.
///
/// # Errors
/// The frames never change.
pub fn check_change(
    stages: &[StagePolicy],
    windows: &Windows,
    trivial: &[Metric],
) -> Result<(), StillError> {
    let needs = Needs {
        change: stages
            .iter()
            .any(|stage| ModelKind::of(&stage.model) != Some(ModelKind::VideoTokenizer)),
    };
    let loss = |name: &str| Metric::find(trivial, name).map(Scalar::get);
    still::check(windows, needs, loss("mean_image"), loss("previous_frame"))
}

/// Held-out losses of the mean image and of the previous frame.
///
/// # Errors
/// A window is out of range; not possible for windows cut from these frames.
pub fn trivial_predictors(windows: &Windows) -> Result<Vec<Metric>, WindowError> {
    let ids = windows.held_out_spread(windows.held_out_len());
    let measured = trivial::measure(windows, &MeanImage::of(windows), &ids)?;
    let metric = |name: &str, value: Option<f64>| Metric {
        name: name.to_owned(),
        value: value.map(Scalar::new),
    };
    let previous = measured.previous_frame;
    Ok(vec![
        metric("mean_image", Some(measured.mean_image.all)),
        metric("mean_image_moving", measured.mean_image.moving),
        metric("previous_frame", previous.map(|loss| loss.all)),
        metric(
            "previous_frame_moving",
            previous.and_then(|loss| loss.moving),
        ),
        metric("moving_share", Some(measured.moving_share)),
    ])
}
