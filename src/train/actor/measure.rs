//! Measures a stage before training: losses of trivial predictors on the held-out windows.

use super::super::{TokenCounts, Upstream};
use super::batches::Batches;
use super::failure::{Failure, known_model};
use crate::data::WindowId;
use crate::data::trivial;
use crate::events::{Metric, Scalar, StageMeasured, metric};
use crate::machine::MeasureStage;
use crate::presets::ModelKind;

/// Trivial losses of a stage that predicts frames.
pub(super) fn frames(data: &Batches, measure: &MeasureStage) -> Result<StageMeasured, Failure> {
    let batches = data.held_out_windows(&measure.stage);
    let windows: Vec<WindowId> = batches.into_iter().flatten().collect();
    let measured = trivial::measure(data.windows(), data.mean(), &windows)?;
    let previous = || {
        measured.previous_frame.ok_or_else(|| {
            Failure::Environment(
                "windows of one frame have no previous frame; set `context_length` to 2 or more"
                    .to_owned(),
            )
        })
    };
    let (predictor, losses) = match known_model(&measure.model)? {
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

/// Trivial loss of dynamics: cross-entropy of the marginal token distribution per position.
pub(super) fn tokens(
    data: &Batches,
    measure: &MeasureStage,
    upstream: &Upstream,
) -> Result<StageMeasured, Failure> {
    let mut pieces = data.pieces(&measure.stage);
    let marginal = data.marginal(&measure.stage);
    let counts = TokenCounts::of(upstream, marginal, &mut pieces);
    let loss = counts.and_then(|counts| {
        let held_out = data.held_out(&measure.stage, ModelKind::Dynamics);
        counts.loss(upstream, held_out, &mut pieces)
    });
    let loss = loss.map_err(|failure: Failure| failure.at_one_window("measuring the data"))?;
    Ok(StageMeasured {
        stage: measure.stage.clone(),
        trivial: vec![named(metric::TRIVIAL_LOSS, Some(loss))],
        predictor: "token_marginals".to_owned(),
    })
}

pub(super) fn named(name: &str, value: Option<f64>) -> Metric {
    Metric {
        name: name.to_owned(),
        value: value.map(Scalar::new),
    }
}
