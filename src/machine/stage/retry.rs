//! The retry after a failed gate: a rung of the ladder, an extension of the target, a restart.

use alloc::vec::Vec;

use super::context::RunPolicy;
use super::start::Start;
use super::state::StageState;
use crate::chunk::{ChunkState, Previous};
use crate::gate::{self, Evaluation};
use crate::ladder::{self, Climb, Situation};
use tinygate_events::{
    Action, CheckpointRef, Criterion, CriterionResult, CriterionTest, PatchReason, RestartReason,
    SettingKey, SettingPatch, SettingValue, StagePolicy, StopReason, Verdict,
};

/// What changes before the next chunk.
pub struct Retry {
    pub climb: Climb,
    pub patches: Vec<SettingPatch>,
    pub restart: Option<RestartReason>,
}

impl Retry {
    /// Fails if the target would have to be extended but must not be, or if there are no more restart
    /// numbers.
    pub fn new(
        stage: &StageState,
        chunk: &ChunkState,
        start: Start<'_>,
        climb: Climb,
        may_extend: bool,
    ) -> Result<Retry, StopReason> {
        let resume_from = start.resume_from();
        let restart = match start.cause {
            None => None,
            Some(cause) => Some(RestartReason {
                cause,
                restart: stage.restart.next().ok_or(StopReason::CountersExhausted)?,
                abandoned: stage.lineage.abandoned_by(chunk.number, resume_from),
            }),
        };
        Ok(Retry {
            patches: with_extension(stage, resume_from, climb.patch.clone(), may_extend)?,
            climb,
            restart,
        })
    }

    pub fn action(&self) -> Action {
        if self.restart.is_some() {
            Action::RestartStage
        } else {
            Action::Retune
        }
    }
}

/// The rung that a failed gate applies.
pub fn climb_after_gate(
    run: RunPolicy<'_>,
    stage: &StageState,
    chunk: &ChunkState,
    evaluation: &Evaluation,
) -> Climb {
    climb(stage, &situation(run, stage, chunk, evaluation))
}

/// The rung that a restart without a gate applies.
pub fn climb_without_gate(run: RunPolicy<'_>, stage: &StageState) -> Climb {
    climb(stage, &situation_without_gate(run, stage))
}

/// Whether the stage's target may be extended once more.
pub fn may_extend(stage: &StageState) -> bool {
    stage.extensions < stage.max_retries
}

fn situation<'a>(
    run: RunPolicy<'_>,
    stage: &'a StageState,
    chunk: &ChunkState,
    evaluation: &Evaluation,
) -> Situation<'a> {
    Situation {
        loss_dropping: match chunk.previous {
            Previous::None => None,
            Previous::GateLoss(previous) => Some(match (evaluation.gate_loss, previous) {
                (Some(loss), Some(previous)) => loss.get() < previous.get(),
                (None, _) | (_, None) => false,
            }),
        },
        failed_metrics: failed_metrics(&stage.policy, &evaluation.criteria),
        ..situation_without_gate(run, stage)
    }
}

fn situation_without_gate<'a>(run: RunPolicy<'_>, stage: &'a StageState) -> Situation<'a> {
    Situation {
        loss_dropping: None,
        failed_metrics: Vec::new(),
        deferred_before: run.deferred,
        may_extend: may_extend(stage),
        chunk_size_min: gate::updates_min(&stage.policy.criteria),
    }
}

fn climb(stage: &StageState, situation: &Situation<'_>) -> Climb {
    ladder::climb(&stage.policy, stage.cursor, &stage.settings, situation)
}

/// The metrics whose criterion failed.
fn failed_metrics<'a>(policy: &'a StagePolicy, criteria: &[CriterionResult]) -> Vec<&'a str> {
    let failed = |(criterion, result): (&'a Criterion, &CriterionResult)| {
        if let CriterionTest::MetricAtLeast { metric, .. } = &criterion.test
            && result.verdict == Verdict::Fail
        {
            Some(metric.as_str())
        } else {
            None
        }
    };
    policy
        .criteria
        .iter()
        .zip(criteria)
        .filter_map(failed)
        .collect()
}

/// If the resume step of a failed gate is at or past the target, extends the target so that
/// there is a next chunk. A rung that extends it less is raised to the same target.
fn with_extension(
    stage: &StageState,
    resume_from: Option<&CheckpointRef>,
    rung: Option<SettingPatch>,
    may_extend: bool,
) -> Result<Vec<SettingPatch>, StopReason> {
    let resume_step = resume_from.map_or(0, |checkpoint| checkpoint.step.get());
    let mut patches: Vec<SettingPatch> = rung.into_iter().collect();
    let mut patched = stage.settings.clone();
    for patch in &patches {
        ladder::set(&mut patched, &patch.key, patch.to);
    }
    if resume_step < patched.n_updates {
        return Ok(patches);
    }
    let chunk_size = stage.policy.settings.chunk_size.max(1);
    let to = SettingValue::Count(resume_step.saturating_add(chunk_size));
    let by_rung = patches
        .iter_mut()
        .find(|patch| patch.key == SettingKey::NUpdates);
    if let Some(patch) = by_rung {
        patch.to = to;
    } else if may_extend {
        patches.push(SettingPatch {
            key: SettingKey::NUpdates,
            from: SettingValue::Count(stage.settings.n_updates),
            to,
            why: PatchReason::Extension,
        });
    } else {
        return Err(StopReason::ExtensionsExceeded {
            extensions: stage.extensions,
            max_extensions: stage.max_retries,
        });
    }
    Ok(patches)
}
