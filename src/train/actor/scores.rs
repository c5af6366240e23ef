//! Scores for a gate on the held-out windows: losses, a picture and its structure scores.

use super::super::{Pipeline, TrainError};
use super::batches::Batches;
use super::directory::RunDirectory;
use super::failure::{Failure, known_model};
use super::measure::named;
use crate::data::WindowId;
use crate::events::{HeldOutScored, PictureScored, StageName, metric};
use crate::machine::TrainChunk;
use crate::picture::byte_of;
use crate::picture::png::Grid;
use crate::picture::structure;

/// Held-out frames that are predicted, scored and drawn at every gate.
const PICTURE_WINDOWS: usize = 16;

/// The held-out losses of the current weights.
pub(super) fn losses(
    data: &Batches,
    train: &TrainChunk,
    pipeline: &Pipeline,
) -> Result<HeldOutScored, Failure> {
    let batches = data.held_out(&train.stage, known_model(&train.model)?);
    let evaluation = pipeline
        .evaluate(batches, &mut data.pieces(&train.stage))
        .map_err(|failure: Failure| failure.at_one_window("scoring held-out windows"))?;
    let mut values = vec![named(
        metric::HELD_OUT_LOSS,
        Some(evaluation.reconstruction),
    )];
    values.extend(
        evaluation
            .moving
            .map(|moving| named(metric::HELD_OUT_LOSS_MOVING, Some(moving))),
    );
    Ok(HeldOutScored {
        stage: train.stage.clone(),
        chunk: train.chunk,
        attempt: train.attempt,
        step: train.to,
        values,
    })
}

/// Predicts the last frame of each picture window, scores it, and draws it next to the true one.
pub(super) fn picture(
    data: &Batches,
    directory: &RunDirectory,
    train: &TrainChunk,
    pipeline: &Pipeline,
) -> Result<PictureScored, Failure> {
    let ids = data.windows().held_out_spread(PICTURE_WINDOWS);
    let (truth, prediction) = last_frames(data, &train.stage, pipeline, &ids)?;
    let frames = data.windows().frames();
    let scores = structure::score(&prediction, &truth, data.mean(), data.patch_size())?;

    // Several chunks or attempts may end at the same step; each has its own picture.
    let path = format!(
        "{0}/pictures/{0}_step_{1}_chunk_{2}_attempt_{3}.png",
        train.stage, train.to, train.chunk, train.attempt
    );
    // Four frames per row, so that sixteen pairs fit on a screen.
    let across = if ids.len().is_multiple_of(4) { 4 } else { 1 };
    let grid = Grid {
        rows: ids.len() / across,
        frames: across,
        height: frames.height(),
        width: frames.width(),
    };
    let file = directory.new_file(&path)?;
    let picture = grid.draw(&truth, &prediction)?;
    let hash = picture.write(&file)?;
    Ok(PictureScored {
        stage: train.stage.clone(),
        chunk: train.chunk,
        attempt: train.attempt,
        step: train.to,
        path,
        blake3: hash.to_hex().to_string(),
        pixels: Some(picture.pixels().to_hex().to_string()),
        pooled: scores.pooled,
        frames: scores.frames,
    })
}

/// True and predicted last frames, u8 `[windows, H, W, 3]`.
fn last_frames(
    data: &Batches,
    stage: &StageName,
    pipeline: &Pipeline,
    ids: &[WindowId],
) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let frames = data.windows().frames();
    let mut truth = Vec::with_capacity(ids.len() * frames.frame_bytes());
    for id in ids {
        let last = data
            .windows()
            .frame_numbers(*id)?
            .last()
            .and_then(|number| frames.frame(number));
        truth.extend_from_slice(last.unwrap_or_default());
    }
    let drawn = data.frames(ids).and_then(|input| {
        let drawn = pipeline.predict(&input, &mut data.pieces(stage));
        drawn.map_err(Failure::from)
    });
    let drawn = drawn.map_err(|failure| failure.at_one_window("drawing held-out windows"))?;
    let window = drawn.time * frames.frame_bytes();
    if window == 0 || drawn.values.len() != ids.len() * window {
        let found = format!("{} values of predicted frames", drawn.values.len());
        return Err(TrainError::Input {
            what: "a prediction",
            found,
            expected: "whole windows".to_owned(),
        }
        .into());
    }
    let last = drawn
        .values
        .chunks_exact(window)
        .flat_map(|window| &window[window.len() - frames.frame_bytes()..]);
    Ok((truth, last.map(|value| byte_of(*value)).collect()))
}
