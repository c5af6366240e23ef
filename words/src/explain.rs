//! Why something was decided, with every number that the decision was made from.
//!
//! The text states what the log holds. Only which limits are vacuous is computed here, since it is
//! known before a gate records it.

use tinygate_events::{
    Action, CriterionResult, CriterionTest, Event, FailureDecided, GateDecided, Policy,
    RestartCause, RestartReason, RungSkipped, SettingPatch, SkipReason, StageMeasured, StageName,
    StageReopened, StageStopped, Verdict,
};
use tinygate_machine::vacuous_limits;

use crate::criteria::{comparison, reason};
use crate::describe::{answer, describe, patch, start, stop};
use crate::findings::{finding, notes};
use crate::numbers::{number, plural};
use crate::tone::{Line, Tone};
use crate::values::optional_number;

/// Why an event was decided. `policy` is that of the run; without it a criterion is shown with
/// its value and limit but not how the two compare. Other events are described.
pub fn explain(event: &Event, policy: Option<&Policy>) -> String {
    match event {
        Event::GateDecided(gate) => explain_gate(gate, policy),
        Event::FailureDecided(decided) => explain_failure(decided),
        Event::StageReopened(reopened) => explain_reopened(reopened),
        Event::StageStopped(stopped) => explain_stopped(stopped),
        Event::StageMeasured(measured) => explain_measured(measured, policy),
        Event::RunCreated(_)
        | Event::ProcessStarted(_)
        | Event::RunInterrupted(_)
        | Event::SettingChanged(_)
        | Event::FallbackGranted(_)
        | Event::MetricsLogged(_)
        | Event::CheckpointWritten(_)
        | Event::CheckpointJudged(_)
        | Event::HeldOutScored(_)
        | Event::PictureScored(_)
        | Event::ChunkFinished(_)
        | Event::ChunkFailed(_)
        | Event::StoreRepaired(_)
        | Event::CheckpointGivenUp(_)
        | Event::PruneRequested(_)
        | Event::StageStarted(_)
        | Event::ChunkStarted(_)
        | Event::SamplesSuperseded(_)
        | Event::PatchApplied(_)
        | Event::PatchDeferred(_)
        | Event::CheckpointDeleted(_)
        | Event::StagePassed(_)
        | Event::RunFinished(_)
        | Event::RunStopped(_) => describe(event),
    }
}

fn explain_gate(gate: &GateDecided, policy: Option<&Policy>) -> String {
    let mut lines = vec![format!(
        "{}, gate at update {} (chunk {}, attempt {}): {}",
        gate.stage,
        gate.gate_step,
        gate.chunk,
        gate.attempt,
        action(gate)
    )];
    for verdict in [Verdict::Fail, Verdict::Pass, Verdict::NotApplicable] {
        let results = gate
            .criteria
            .iter()
            .filter(|result| result.verdict == verdict);
        lines.extend(results.map(|result| {
            let test = policy.and_then(|policy| test_of(policy, &gate.stage, &result.name));
            format!("  {}", criterion(result, test))
        }));
    }
    lines.extend(consequences(gate).iter().map(Line::to_string));
    lines.join("\n")
}

fn action(gate: &GateDecided) -> String {
    let failed = gate
        .criteria
        .iter()
        .filter(|result| result.verdict == Verdict::Fail)
        .count() as u64;
    let none_failed = failed == 0;
    let failed = plural(failed, "criterion failed", "criteria failed");
    match gate.decision {
        Action::Continue if none_failed => "continue, since no criterion failed".to_owned(),
        // Only an edited log has this.
        Action::Continue => format!("continue, although {failed}"),
        Action::Retune => format!("retune, since {failed}"),
        Action::RestartStage if gate.criteria.is_empty() => {
            "restart the stage, since the chunk has no checkpoint to start from".to_owned()
        }
        Action::RestartStage => format!("restart the stage, since {failed}"),
        Action::Stop if gate.criteria.is_empty() => {
            "stop, since the chunk failed before its gate".to_owned()
        }
        Action::Stop => format!("stop, since {failed}"),
    }
}

fn test_of<'a>(policy: &'a Policy, stage: &StageName, name: &str) -> Option<&'a CriterionTest> {
    let stage = policy.stages.iter().find(|policy| policy.name == *stage)?;
    let criterion = stage.criteria.iter().find(|known| known.name == name)?;
    Some(&criterion.test)
}

fn criterion(result: &CriterionResult, test: Option<&CriterionTest>) -> String {
    let name = &result.name;
    let verdict = match result.verdict {
        Verdict::Pass => "passed",
        Verdict::Fail => "FAILED",
        Verdict::NotApplicable => "does not apply",
    };
    let why = result.why.as_ref().map(|why| reason(why, test));
    let numbers = match (result.verdict, test) {
        (Verdict::NotApplicable, _) => None,
        (_, Some(test)) => comparison(result, test),
        (_, None) => Some(match (result.value, result.limit) {
            (Some(value), Some(limit)) => {
                format!("{} (limit {})", number(value.get()), number(limit.get()))
            }
            (value, limit) => format!(
                "{} (limit {})",
                optional_number(value),
                optional_number(limit)
            ),
        }),
    };
    let text: Vec<String> = [numbers, why].into_iter().flatten().collect();
    if text.is_empty() {
        format!("{name} {verdict}")
    } else {
        format!("{name} {verdict}: {}", text.join("; "))
    }
}

/// The score of a predictor that learned nothing, and the limits that it already meets.
fn explain_measured(measured: &StageMeasured, policy: Option<&Policy>) -> String {
    let mut lines = vec![describe(&Event::StageMeasured(measured.clone()))];
    let stage = policy.and_then(|policy| policy.stages.iter().find(|s| s.name == measured.stage));
    let vacuous = stage.map(|stage| vacuous_limits(stage, measured));
    let notes = vacuous
        .iter()
        .flatten()
        .map(|finding| note(self::finding(finding)).to_string());
    lines.extend(notes);
    lines.join("\n")
}

fn note(text: String) -> Line {
    Line::plain("  ")
        .and(Tone::Notable, "note:")
        .and(Tone::Plain, format!(" {text}"))
}

/// The findings at a gate and what follows from it, one indented line each.
pub(crate) fn consequences(gate: &GateDecided) -> Vec<Line> {
    let notes = notes(&gate.findings).into_iter().map(note);
    notes
        .chain(next_steps(gate).into_iter().map(Line::plain))
        .collect()
}

fn next_steps(gate: &GateDecided) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(restart(gate.restart.as_ref()));
    lines.extend(ladder(gate.rung, &gate.skipped, gate.cursor));
    lines.extend(patches(&gate.config_patch_applied, gate.deferred.as_ref()));
    lines.extend(
        gate.stop
            .as_ref()
            .map(|reason| format!("  stopped: {}", stop(reason))),
    );
    lines.push(format!("  failures so far: {}", gate.failures));
    if gate.decision != Action::Stop {
        lines.push(format!("  continues from {}", start(&gate.resume_from)));
    }
    lines
}

fn restart(restart: Option<&RestartReason>) -> Option<String> {
    let restart = restart?;
    let cause = match restart.cause {
        RestartCause::NoAcceptedCheckpoint => "no checkpoint of the lineage is accepted",
        RestartCause::NonFiniteLoss => "the loss was not finite",
        RestartCause::StructureLost => "the scene lost its structure at two gates in a row",
    };
    let abandoned: Vec<String> = restart
        .abandoned
        .iter()
        .map(|chunk| chunk.to_string())
        .collect();
    let chunks = if abandoned.is_empty() {
        String::new()
    } else {
        format!("; chunks abandoned: {}", abandoned.join(", "))
    };
    Some(format!(
        "  restart number {}, since {cause}{chunks}",
        restart.restart
    ))
}

fn ladder(rung: Option<u32>, skipped: &[RungSkipped], cursor: u32) -> Vec<String> {
    let mut lines: Vec<String> = skipped
        .iter()
        .map(|skipped| {
            let why = match skipped.why {
                SkipReason::AtBound => "its value is at its bound",
                SkipReason::LossNotDropping => "the loss is not dropping",
                SkipReason::NoPreviousGate => "there is no previous gate to compare the loss with",
                SkipReason::EntropyNotCollapsed => "the entropy has not collapsed",
                SkipReason::AlreadyDeferred => "it was already deferred in this run",
                SkipReason::ExtensionsUsedUp => "the target was extended as often as allowed",
                SkipReason::NotASettingOfThisStage => "this stage has no such setting",
            };
            format!("  rung {} skipped: {why}", skipped.rung)
        })
        .collect();
    lines.extend(rung.map(|rung| {
        format!(
            "  rung {rung} applied; the next failure tries rung {} first",
            cursor.saturating_add(1)
        )
    }));
    lines
}

fn patches(applied: &[SettingPatch], deferred: Option<&SettingPatch>) -> Vec<String> {
    let mut lines: Vec<String> = applied
        .iter()
        .map(|applied| format!("  {}", patch(applied)))
        .collect();
    lines.extend(
        deferred.map(|deferred| format!("  {}, only in the next full cycle", patch(deferred))),
    );
    lines
}

fn explain_failure(decided: &FailureDecided) -> String {
    let mut lines = vec![format!(
        "{}, chunk {} attempt {}: {}",
        decided.stage,
        decided.chunk,
        decided.attempt,
        answer(decided)
    )];
    lines.extend(patches(&decided.patches, None));
    lines.extend(decided.effective_batch.map(|batch| {
        format!(
            "  windows per update: {} before, {} after",
            batch.before, batch.after
        )
    }));
    lines.push(format!(
        "  failures so far: {}; chunks that failed in a row before their gate: {}",
        decided.failures, decided.chunk_failures
    ));
    lines.join("\n")
}

fn explain_reopened(reopened: &StageReopened) -> String {
    let mut lines = vec![format!(
        "{} reopened at update {}, since more retries were allowed: {}",
        reopened.stage,
        reopened.gate_step,
        reopened.decision.as_str()
    )];
    lines.extend(restart(reopened.restart.as_ref()));
    lines.extend(ladder(reopened.rung, &reopened.skipped, reopened.cursor));
    lines.extend(patches(
        &reopened.config_patch_applied,
        reopened.deferred.as_ref(),
    ));
    lines.push(format!("  continues from {}", start(&reopened.resume_from)));
    lines.join("\n")
}

fn explain_stopped(stopped: &StageStopped) -> String {
    let mut lines = vec![format!(
        "{} stopped at update {}: {}",
        stopped.stage,
        stopped.step,
        stop(&stopped.reason)
    )];
    lines.extend(stopped.blocking.iter().map(|blocking| {
        format!(
            "  {} failed at {}, last with {} against the limit {}",
            blocking.criterion,
            plural(u64::from(blocking.gates), "gate", "gates"),
            optional_number(blocking.value),
            optional_number(blocking.limit)
        )
    }));
    lines.push(match &stopped.best {
        Some(best) => format!("  best known checkpoint: `{}`", best.path),
        None => "  no checkpoint is known to be good".to_owned(),
    });
    lines.join("\n")
}
