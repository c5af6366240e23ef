//! What predictors that learned nothing score on the held-out windows.

use tch::Tensor;

use super::super::{HeldOut, MicroBatch, StageTrainer, TokenMask, maskgit_mask};
use super::Failure;
use super::session::Session;
use crate::data::WindowId;
use crate::data::trivial;
use crate::events::{Metric, ModelKind, Scalar, StageMeasured, StageName, metric};
use crate::machine::MeasureStage;
use crate::random::Place;
use crate::setup;

/// Held-out batches a gate looks at: enough for a steady mean, and no more than
/// an update or two a hundred costs.
const HELD_OUT_BATCHES_MAX: usize = 32;
/// Training batches whose tokens are counted for the marginal distribution.
const MARGINAL_BATCHES_MAX: usize = 64;

/// Trivial losses of a stage that is judged by frames.
pub(super) fn frames(session: &Session, measure: &MeasureStage) -> Result<StageMeasured, Failure> {
    let windows: Vec<WindowId> = held_out_batches(session).into_iter().flatten().collect();
    let measured = trivial::measure(&session.windows, &session.mean, &windows)?;
    let previous = || {
        measured.previous_frame.ok_or_else(|| {
            Failure::Environment(
                "windows of one frame have no previous frame; set `context_length` to 2 or more"
                    .to_owned(),
            )
        })
    };
    let (predictor, losses) = match measure.model {
        ModelKind::VideoTokenizer => ("mean_image", measured.mean_image),
        ModelKind::LatentActions | ModelKind::Dynamics => ("previous_frame", previous()?),
    };
    Ok(StageMeasured {
        stage: measure.stage.clone(),
        trivial: vec![
            named(metric::TRIVIAL_LOSS, Some(losses.all)),
            named(metric::TRIVIAL_LOSS_MOVING, losses.moving),
        ],
        predictor: predictor.to_owned(),
    })
}

/// Cross-entropy of the marginal token distribution per position.
pub(super) fn tokens(
    session: &Session,
    measure: &MeasureStage,
    trainer: &StageTrainer,
) -> Result<StageMeasured, Failure> {
    let batch = setup::largest_batch(&session.config);
    let whole = session.windows.train_len() / batch;
    let used = whole.clamp(1, MARGINAL_BATCHES_MAX);
    let mut batches = Vec::with_capacity(used);
    for number in 0..used {
        let first = number * whole / used * batch;
        let ids: Vec<WindowId> = (first..first + batch)
            .filter_map(|k| session.windows.train(k))
            .collect();
        batches.push(frames_tensor(session, &ids)?);
    }
    let counts = trainer.token_counts(&batches)?;
    let held_out = held_out(session, &measure.stage, ModelKind::Dynamics)?;
    let loss = trainer.marginal_loss(&counts, &held_out)?;
    Ok(StageMeasured {
        stage: measure.stage.clone(),
        trivial: vec![named(metric::TRIVIAL_LOSS, Some(loss))],
        predictor: "token_marginals".to_owned(),
    })
}

/// The fixed held-out micro-batches of a stage, with fixed masks for dynamics.
pub(super) fn held_out(
    session: &Session,
    stage: &StageName,
    model: ModelKind,
) -> Result<Vec<HeldOut>, Failure> {
    let mut batches = Vec::new();
    for (number, ids) in held_out_batches(session).into_iter().enumerate() {
        let frames = frames_tensor(session, &ids)?;
        let mask = (model == ModelKind::Dynamics).then(|| {
            let place = Place {
                seed: session.config.seed,
                stage: stage.as_str(),
                restart: 0,
                update: 0,
                shard: number as u64,
                purpose: "held-out mask",
            };
            token_mask(session, ids.len(), place)
        });
        let moving = match model {
            ModelKind::VideoTokenizer | ModelKind::LatentActions => Some(moving(session, &ids)?),
            ModelKind::Dynamics => None,
        };
        batches.push(HeldOut {
            batch: MicroBatch { frames, mask },
            moving,
        });
    }
    Ok(batches)
}

/// Windows `[B, T, H, W, 3]` as the models take them.
pub(super) fn frames_tensor(session: &Session, ids: &[WindowId]) -> Result<Tensor, Failure> {
    let shape = session.windows.shape();
    let frames = session.windows.frames();
    let bytes = session.windows.gather(ids)?;
    let sizes = [
        ids.len(),
        shape.context_length,
        frames.height(),
        frames.width(),
        3,
    ]
    .map(|size| size as i64);
    let tensor = Tensor::f_from_slice(&bytes).and_then(|flat| flat.f_view(sizes));
    Ok(tensor.map_err(super::super::TrainError::from)?)
}

/// The MaskGIT mask of one micro-batch, from its place alone.
pub(super) fn token_mask(session: &Session, batch: usize, place: Place<'_>) -> TokenMask {
    let shape = session.config.shape;
    let side = (shape.frame_size / shape.patch_size.max(1)) as usize;
    let mut stream = place.stream();
    maskgit_mask(batch, shape.context_length as usize, side * side, || {
        stream.next_f64()
    })
}

/// Whole batches of held-out windows, spread evenly over all of them.
fn held_out_batches(session: &Session) -> Vec<Vec<WindowId>> {
    let batch = setup::largest_batch(&session.config);
    let whole = (session.windows.held_out_len() / batch).clamp(1, HELD_OUT_BATCHES_MAX);
    let ids = session.windows.held_out_spread(whole * batch);
    ids.chunks_exact(batch).map(<[WindowId]>::to_vec).collect()
}

/// Pixels `[B, T, H, W]` that differ from the mean image.
fn moving(session: &Session, ids: &[WindowId]) -> Result<Tensor, Failure> {
    let frames = session.windows.frames();
    let mut marks: Vec<u8> = Vec::new();
    for id in ids {
        for number in session.windows.frame_numbers(*id)? {
            let frame = frames.frame(number).unwrap_or_default();
            marks.extend(session.mean.moving(frame).map(u8::from));
        }
    }
    let sizes = [
        ids.len(),
        session.windows.shape().context_length,
        frames.height(),
        frames.width(),
    ];
    let tensor =
        Tensor::f_from_slice(&marks).and_then(|flat| flat.f_view(sizes.map(|size| size as i64)));
    Ok(tensor.map_err(super::super::TrainError::from)?)
}

pub(super) fn named(name: &str, value: Option<f64>) -> Metric {
    Metric {
        name: name.to_owned(),
        value: value.map(Scalar::new),
    }
}
