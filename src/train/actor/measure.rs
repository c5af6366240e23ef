//! What predictors that learned nothing score on the held-out windows.

use tch::Tensor;

use super::super::{
    HeldOut, MicroBatch, Pieces, TokenCounts, TokenMask, TrainError, Upstream, maskgit_mask,
};
use super::Failure;
use super::session::Session;
use crate::data::WindowId;
use crate::data::trivial;
use crate::events::{HeldOutBatches, Metric, ModelKind, Scalar, StageMeasured, StageName, metric};
use crate::machine::MeasureStage;
use crate::random::Place;
use crate::setup;

/// Held-out batches a gate looks at: enough for a steady mean, and no more than
/// an update or two a hundred costs ..
const HELD_OUT_BATCHES_MAX: usize = 32;
/// .. or more of them where they are small, up to so many windows.
const HELD_OUT_WINDOWS: usize = 128;
/// Training batches whose tokens are counted for the marginal distribution ..
const MARGINAL_BATCHES_MAX: usize = 64;
/// .. or more of them, up to so many windows: too few tokens make a poor predictor, which every model beats.
const MARGINAL_WINDOWS: usize = 1024;

/// Trivial losses of a stage that is judged by frames.
pub(super) fn frames(session: &Session, measure: &MeasureStage) -> Result<StageMeasured, Failure> {
    let batches = held_out_batches(session, &measure.stage);
    let windows: Vec<WindowId> = batches.into_iter().flatten().collect();
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
    upstream: &Upstream,
) -> Result<StageMeasured, Failure> {
    let mut pieces = session.pieces(&measure.stage);
    let marginal = marginal_batches(session, &measure.stage);
    let marginal = marginal.map(|ids| frames_tensor(session, &ids));
    let counts = TokenCounts::of(upstream, marginal, &mut pieces);
    let loss = counts.and_then(|counts| {
        let held_out = held_out(session, &measure.stage, ModelKind::Dynamics);
        counts.loss(upstream, held_out, &mut pieces)
    });
    let loss = loss.map_err(|failure| without_memory(failure, "measuring the data"))?;
    Ok(StageMeasured {
        stage: measure.stage.clone(),
        trivial: vec![named(metric::TRIVIAL_LOSS, Some(loss))],
        predictor: "token_marginals".to_owned(),
    })
}

/// A lack of memory where nothing is learned is nobody's failure: smaller training batches would not help, and one
/// window at a time has been tried.
pub(super) fn without_memory(failure: Failure, doing: &str) -> Failure {
    if let Failure::Train(TrainError::OutOfMemory { message }) = failure {
        return Failure::Environment(format!(
            "out of memory while {doing}, even one window at a time: {message}; free memory on the device"
        ));
    }
    failure
}

impl Session {
    /// Windows per batch that a stage is measured and scored with: its own as configured when the run began, even if
    /// training has to halve it.
    fn scored_batch(&self, stage: &StageName) -> usize {
        match self.held_out {
            HeldOutBatches::Largest => setup::largest_batch(&self.config),
            HeldOutBatches::Stage => {
                let policy = self.config.stage(stage);
                let batch = policy.map_or(1, |policy| policy.settings.batch_size_per_gpu);
                batch.max(1) as usize
            }
        }
    }

    /// `batches`, or as many as `windows` fill.
    pub(super) fn batches_max(&self, batches: usize, windows: usize, batch: usize) -> usize {
        match self.held_out {
            HeldOutBatches::Largest => batches,
            HeldOutBatches::Stage => batches.max(windows / batch),
        }
    }

    /// How many windows go through a stage's model at once while it is measured and scored.
    pub(super) fn pieces(&self, stage: &StageName) -> Pieces {
        #[cfg(test)]
        if let Some(fits) = self.memory_for {
            return Pieces::with_memory_for(fits);
        }
        match self.held_out {
            // Pictures have more windows than a small batch.
            HeldOutBatches::Largest => Pieces::whole(),
            HeldOutBatches::Stage => Pieces::of(self.scored_batch(stage)),
        }
    }
}

/// Batches of training windows, spread evenly over all of them.
fn marginal_batches(session: &Session, stage: &StageName) -> impl Iterator<Item = Vec<WindowId>> {
    let batch = session.scored_batch(stage);
    let whole = session.windows.train_len() / batch;
    let most = session.batches_max(MARGINAL_BATCHES_MAX, MARGINAL_WINDOWS, batch);
    let used = whole.clamp(1, most);
    (0..used).map(move |number| {
        let first = number * whole / used * batch;
        (first..first + batch)
            .filter_map(|k| session.windows.train(k))
            .collect()
    })
}

/// The fixed held-out micro-batches of a stage, with fixed masks for dynamics. Each is made when it is asked for.
pub(super) fn held_out(
    session: &Session,
    stage: &StageName,
    model: ModelKind,
) -> impl Iterator<Item = Result<HeldOut, Failure>> {
    let batches = held_out_batches(session, stage).into_iter().enumerate();
    batches.map(move |(number, ids)| {
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
        Ok(HeldOut {
            batch: MicroBatch { frames, mask },
            moving,
        })
    })
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
fn held_out_batches(session: &Session, stage: &StageName) -> Vec<Vec<WindowId>> {
    let batch = session.scored_batch(stage);
    let most = session.batches_max(HELD_OUT_BATCHES_MAX, HELD_OUT_WINDOWS, batch);
    let whole = (session.windows.held_out_len() / batch).clamp(1, most);
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
