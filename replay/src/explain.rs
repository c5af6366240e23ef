//! Events in words: [`describe`] in a line, [`explain`] with every number a decision was made from.
//!
//! Both say what the log says. Only what a stage's limits are worth is worked out here, since it
//! is known before a gate records it.

use tinygate_events::{
    Action, Cause, CheckpointJudged, CheckpointRef, ChunkFailure, ChunkStarted, CriterionReason,
    CriterionResult, CriterionTest, Dataset, Event, FailureAnswer, FailureCause, FailureDecided,
    Finding, GateDecided, InterruptReason, Metric, MetricsLogged, PatchReason, Policy,
    ProcessStarted, RestartCause, RestartReason, RungSkipped, SettingPatch, SkipReason,
    StageMeasured, StageName, StageReopened, StageStopped, StopReason, Verdict, metric,
};
use tinygate_machine::vacuous_limits;

use crate::criteria::comparison;
use crate::numbers::{of, plural, setting, short, times};

/// What was read of the data; nothing for logs that do not say it.
fn data_read(dataset: &Dataset) -> String {
    if dataset.recordings.is_empty() {
        return String::new();
    }
    let missing = dataset.recordings.iter().fold(0_u64, |sum, recording| {
        sum.saturating_add(recording.missing)
    });
    let mut said = format!(
        ", {} in {}",
        plural(dataset.frames, "frame", "frames"),
        plural(dataset.recordings.len() as u64, "recording", "recordings")
    );
    if 0 < missing {
        said += &format!(", {missing} missing by their numbers");
    }
    let not_read = dataset.passed_over.iter().map(|found| found.count);
    if let Some(first) = dataset.passed_over.first() {
        let not_read = not_read.fold(0, u64::saturating_add);
        said += &format!(
            ", {not_read} beside them not read ({}: `{}`)",
            first.why, first.example
        );
    }
    said
}

/// The devices of a process, each with the name of its card where that is not part of it: `cuda:0 (NVIDIA H100)`.
pub fn hardware(started: &ProcessStarted) -> String {
    let cards = started.cards.iter().map(String::as_str);
    let named = |(device, card): (&String, &str)| {
        if card.is_empty() || device.contains(card) {
            device.clone()
        } else {
            format!("{device} ({card})")
        }
    };
    let cards = cards.chain(std::iter::repeat(""));
    let all: Vec<String> = started.devices.iter().zip(cards).map(named).collect();
    all.join(", ")
}

/// What happened, in one line.
pub fn describe(event: &Event) -> String {
    match event {
        Event::RunCreated(e) => format!(
            "run `{}` created: preset {}, rules {}, seed {}, {}{}",
            e.run,
            e.policy.preset,
            e.rules,
            e.seed,
            plural(e.policy.stages.len() as u64, "stage", "stages"),
            data_read(&e.dataset)
        ),
        Event::ProcessStarted(e) => format!(
            "process {} started on {} with {} ({})",
            e.pid,
            e.host,
            hardware(e),
            plural(u64::from(e.threads), "thread", "threads")
        ),
        Event::RunInterrupted(e) => match &e.reason {
            InterruptReason::Signal { name } => format!("stopped by {name}"),
            InterruptReason::Environment { detail } => format!("stopped, no failure: {detail}"),
        },
        Event::SettingChanged(e) => format!(
            "{} changed {}{} from {} to {}: {}",
            e.who,
            e.stage
                .as_ref()
                .map_or(String::new(), |stage| format!("{stage}.")),
            e.key.as_str(),
            setting(e.from),
            setting(e.to),
            e.why
        ),
        Event::FallbackGranted(e) => format!(
            "{} of {} ranks allowed by the {}, accumulation times {}",
            e.ranks_available, e.ranks_wanted, e.granted_by, e.accumulation_factor
        ),
        Event::StageMeasured(e) => format!(
            "{}: {} has {}",
            e.stage,
            predictor(&e.predictor),
            named(&e.trivial)
        ),
        Event::MetricsLogged(e) => metrics_logged(e),
        Event::CheckpointWritten(e) => format!(
            "{}: checkpoint `{}` written after {} windows",
            e.stage, e.checkpoint.path, e.samples_seen
        ),
        Event::CheckpointJudged(e) => judged(e),
        Event::HeldOutScored(e) => format!("{} at {}: {}", e.stage, e.step, named(&e.values)),
        Event::PictureScored(e) => format!(
            "{} at {}: {} drawn in `{}`: flatness {}, stripes {}, blockiness {}, ssim {}, mse ratio {}",
            e.stage,
            e.step,
            plural(e.frames.len() as u64, "frame", "frames"),
            e.path,
            of(e.pooled.flatness),
            of(e.pooled.stripes),
            of(e.pooled.blockiness),
            of(e.pooled.ssim),
            of(e.pooled.mse_ratio)
        ),
        Event::ChunkFinished(e) => format!(
            "{}: chunk {} attempt {} finished at {} after {} s",
            e.stage,
            e.chunk,
            e.attempt,
            e.step,
            short(e.seconds.get())
        ),
        Event::ChunkFailed(e) => format!(
            "{}: chunk {} attempt {} failed at {}: {}",
            e.stage,
            e.chunk,
            e.attempt,
            e.step,
            failure(&e.failure)
        ),
        Event::StoreRepaired(e) => format!(
            "the log's {} was rebuilt, {} back: {}",
            e.copy,
            plural(e.restored, "event", "events"),
            e.detail
        ),
        Event::CheckpointGivenUp(e) => format!(
            "{}: checkpoint `{}` given up by {}: {}",
            e.stage, e.checkpoint.path, e.who, e.why
        ),
        Event::PruneRequested(e) => format!(
            "{} asked for disk space: the newest {} stay, besides best, passed and resume points",
            e.who,
            plural(u64::from(e.keep_last), "checkpoint", "checkpoints")
        ),
        Event::StageStarted(e) => format!("{} started, from {}", e.stage, start(&e.resume_from)),
        Event::ChunkStarted(e) => chunk_started(e),
        Event::SamplesSuperseded(e) => format!(
            "{}: chunk {} attempt {} goes on from {}; later samples count no more",
            e.stage,
            e.chunk,
            e.attempt,
            start(&e.resume_from)
        ),
        Event::GateDecided(e) => gate_line(e),
        Event::PatchApplied(e) => format!("{}: {}", e.stage, patch(&e.patch)),
        Event::PatchDeferred(e) => format!(
            "{}: {}, in the next full cycle only",
            e.stage,
            patch(&e.patch)
        ),
        Event::FailureDecided(e) => format!(
            "{}: chunk {} attempt {}: {}",
            e.stage,
            e.chunk,
            e.attempt,
            answer(e)
        ),
        Event::StageReopened(e) => format!("{} reopened at {}", e.stage, e.gate_step),
        Event::CheckpointDeleted(e) => {
            format!("{}: checkpoint `{}` let go", e.stage, e.checkpoint.path)
        }
        Event::StagePassed(e) => {
            format!("{} passed; it hands on `{}`", e.stage, e.checkpoint.path)
        }
        Event::StageStopped(e) => {
            format!("{} stopped at {}: {}", e.stage, e.step, stop(&e.reason))
        }
        Event::RunFinished(e) => format!(
            "run finished: {} passed",
            plural(u64::from(e.stages), "stage", "stages")
        ),
        Event::RunStopped(e) => format!("run stopped in {}", e.stage),
    }
}

/// Why it was decided so. `policy` is the run's; without it a criterion is shown
/// with its value and limit and no word on how the two compare. What needs no
/// explanation is described.
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

// ---------------------------------------------------------------- gates

fn gate_line(gate: &GateDecided) -> String {
    let failed: Vec<&str> = gate
        .criteria
        .iter()
        .filter(|result| result.verdict == Verdict::Fail)
        .map(|result| result.name.as_str())
        .collect();
    let loss = Metric::find(&gate.metrics, metric::GATE_LOSS);
    let mut line = format!(
        "{} gate at {}: {}, gate loss {}",
        gate.stage,
        gate.gate_step,
        gate.decision.as_str(),
        of(loss)
    );
    if !failed.is_empty() {
        line += &format!("; failed: {}", failed.join(", "));
    }
    line
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
    lines.extend(consequences(gate));
    lines.join("\n")
}

/// What a predictor that learned nothing scores, and which limits it already meets.
fn explain_measured(measured: &StageMeasured, policy: Option<&Policy>) -> String {
    let mut lines = vec![describe(&Event::StageMeasured(measured.clone()))];
    let stage = policy.and_then(|policy| policy.stages.iter().find(|s| s.name == measured.stage));
    let vacuous = stage.map(|stage| vacuous_limits(stage, measured));
    let notes = vacuous
        .iter()
        .flatten()
        .map(|finding| format!("  note: {}", self::finding(finding)));
    lines.extend(notes);
    lines.join("\n")
}

/// What was found at a gate and what follows from it, one indented line each.
pub fn consequences(gate: &GateDecided) -> Vec<String> {
    let mut lines = notes(&gate.findings);
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
        lines.push(format!("  goes on from {}", start(&gate.resume_from)));
    }
    lines
}

/// A line for each finding; skills that are missing are said in one.
fn notes(findings: &[Finding]) -> Vec<String> {
    let is_skill = |finding: &&Finding| matches!(finding, Finding::NoSkill { .. });
    let mut lines = Vec::new();
    let mut said = false;
    for finding in findings {
        let text = match finding {
            Finding::NoSkill { .. } if said => continue,
            Finding::NoSkill { predictor, .. } => {
                said = true;
                no_skill(findings.iter().filter(is_skill), predictor)
            }
            Finding::VacuousLimit { .. }
            | Finding::NothingToMeasure { .. }
            | Finding::DecidedByNoise { .. }
            | Finding::Cause { .. } => self::finding(finding),
        };
        lines.push(format!("  note: {text}"));
    }
    lines
}

fn no_skill<'a>(findings: impl Iterator<Item = &'a Finding>, predictor: &str) -> String {
    let skills: Vec<String> = findings
        .filter_map(|finding| match finding {
            Finding::NoSkill { metric, skill, .. } => {
                Some(format!("{metric} is {}", short(skill.get())))
            }
            Finding::VacuousLimit { .. }
            | Finding::NothingToMeasure { .. }
            | Finding::DecidedByNoise { .. }
            | Finding::Cause { .. } => None,
        })
        .collect();
    format!(
        "the gate passes without skill: {}, so it is no better than {}",
        skills.join(" and "),
        self::predictor(predictor)
    )
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
        // Only a log that was tampered with says so.
        Action::Continue => format!("continue, although {failed}"),
        Action::Retune => format!("retune, since {failed}"),
        Action::RestartStage if gate.criteria.is_empty() => {
            "restart the stage, since the chunk has no checkpoint to be run again from".to_owned()
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
    let word = match result.verdict {
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
                format!("{} (limit {})", short(value.get()), short(limit.get()))
            }
            (value, limit) => format!("{} (limit {})", of(value), of(limit)),
        }),
    };
    let text: Vec<String> = [numbers, why].into_iter().flatten().collect();
    if text.is_empty() {
        format!("{name} {word}")
    } else {
        format!("{name} {word}: {}", text.join("; "))
    }
}

/// Why a criterion of this kind failed or does not apply.
pub fn reason(reason: &CriterionReason, test: Option<&CriterionTest>) -> String {
    match reason {
        CriterionReason::OnlyAtTarget => "it is asked at the target only".to_owned(),
        CriterionReason::FreshStart => "there is no gate before this one".to_owned(),
        CriterionReason::PreviousNotFinite => "the previous gate's loss was not finite".to_owned(),
        CriterionReason::NotFinite => "a value is not finite".to_owned(),
        CriterionReason::TooFewSamples { found, needed } => {
            format!("{found} finite samples, {needed} are needed")
        }
        CriterionReason::Missing { metric } => format!("`{metric}` was not logged"),
        CriterionReason::Stale {
            metric,
            last,
            needed_after,
        } => format!(
            "`{metric}` was last logged at update {last}, it is needed after {needed_after}"
        ),
        CriterionReason::NoPicture => "there is no new picture".to_owned(),
        CriterionReason::NoSkillToMeasure => match test {
            Some(CriterionTest::VisualStructure { .. }) => {
                "every held-out frame is the mean image, so there is no structure to keep"
                    .to_owned()
            }
            Some(_) | None => "the trivial predictor leaves nothing to be better at".to_owned(),
        },
        CriterionReason::NoStructureToMeasure => {
            "every held-out frame is the mean image, so there is no structure to keep".to_owned()
        }
        CriterionReason::NoCheckpoint => "there is no checkpoint at the gate".to_owned(),
        CriterionReason::NotJudged => "the checkpoint was not judged".to_owned(),
        CriterionReason::Rejected { code, text } => {
            format!("the checkpoint was rejected ({code}): {text}")
        }
    }
}

fn finding(finding: &Finding) -> String {
    match finding {
        Finding::VacuousLimit {
            criterion,
            limit,
            predictor,
            trivial_loss,
            factor,
        } => format!(
            "{criterion}: the limit {} is {} times looser than {}'s loss {}, and that learned nothing",
            short(limit.get()),
            times(factor.get()),
            self::predictor(predictor),
            short(trivial_loss.get())
        ),
        Finding::NoSkill { predictor, .. } => no_skill(std::iter::once(finding), predictor),
        Finding::NothingToMeasure { metric, predictor } if metric == metric::SKILL_MOVING => {
            format!(
                "no pixel of the held-out frames moves, so {metric} says nothing and {} cannot be beaten",
                self::predictor(predictor)
            )
        }
        Finding::NothingToMeasure { metric, predictor } => format!(
            "{} has a held-out loss of 0, so {metric} cannot be measured and the gate says nothing of what was learnt",
            self::predictor(predictor)
        ),
        Finding::DecidedByNoise {
            criterion,
            limit,
            within,
            beyond,
        } => format!(
            "{criterion} is decided by noise: of the last tenth of the samples {within} are within the limit {} and {beyond} beyond",
            short(limit.get())
        ),
        Finding::Cause {
            cause,
            single_action_share,
            median_entropy,
            rising,
            r2_learning_rate,
            r2_entropy,
        } => format!(
            "likely cause: {}; a single action in {} of the samples, median entropy {}, the loss {} at the end, r2 with the learning rate {}, with the entropy {}",
            match cause {
                Cause::Upstream => "upstream, the actions say nothing",
                Cause::Dynamics => "the dynamics model's own training",
                Cause::Mixed => "both the actions and the dynamics model's training",
                Cause::Undetermined => "undetermined",
            },
            single_action_share.map_or("none".to_owned(), |share| percent(share.get())),
            of(*median_entropy),
            if *rising { "rises" } else { "does not rise" },
            of(*r2_learning_rate),
            of(*r2_entropy)
        ),
    }
}

fn percent(share: f64) -> String {
    format!("{} %", short(share * 100.0))
}

fn predictor(name: &str) -> String {
    match name {
        "mean_image" => "the mean image".to_owned(),
        "previous_frame" => "the previous frame".to_owned(),
        "token_marginals" => "the marginal token distribution".to_owned(),
        other => format!("`{other}`"),
    }
}

// ---------------------------------------------------------------- what follows a gate

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
                SkipReason::NoPreviousGate => "there is no gate to compare the loss with",
                SkipReason::EntropyNotCollapsed => "the entropy has not collapsed",
                SkipReason::AlreadyDeferred => "this run deferred it before",
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
        deferred.map(|deferred| format!("  {}, in the next full cycle only", patch(deferred))),
    );
    lines
}

fn patch(patch: &SettingPatch) -> String {
    let why = match patch.why {
        PatchReason::Rung(rung) => format!("rung {rung}"),
        PatchReason::Extension => "the gate failed at the target, which is extended".to_owned(),
        PatchReason::OutOfMemory => "out of memory".to_owned(),
    };
    format!(
        "{} from {} to {} ({why})",
        patch.key.as_str(),
        setting(patch.from),
        setting(patch.to)
    )
}

fn stop(reason: &StopReason) -> String {
    match reason {
        StopReason::RetriesExceeded {
            failures,
            max_retries,
        } => format!(
            "failure {failures}, {} allowed",
            plural(u64::from(*max_retries), "retry is", "retries are")
        ),
        StopReason::NoRungApplies => "no rung of the ladder applies".to_owned(),
        StopReason::ExtensionsExceeded {
            extensions,
            max_extensions,
        } => format!(
            "the target was extended {}, {} allowed",
            plural(u64::from(*extensions), "time", "times"),
            plural(u64::from(*max_extensions), "time is", "times are")
        ),
        StopReason::ChunkFailuresExceeded {
            failures,
            max_chunk_failures,
        } => {
            let failures = plural(u64::from(*failures), "chunk", "chunks");
            format!("{failures} in a row failed before a gate, {max_chunk_failures} may")
        }
        StopReason::OutOfMemoryAtFloor { batch_size_per_gpu } => {
            format!("out of memory with a batch of {batch_size_per_gpu}, which cannot be halved")
        }
        StopReason::CountersExhausted => "a chunk's number or step is past its range".to_owned(),
    }
}

fn start(resume_from: &Option<CheckpointRef>) -> String {
    resume_from
        .as_ref()
        .map_or("fresh weights".to_owned(), |from| {
            format!("`{}` (update {})", from.path, from.step)
        })
}

// ---------------------------------------------------------------- other decisions

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

fn answer(decided: &FailureDecided) -> String {
    let cause = match decided.cause {
        FailureCause::OutOfMemory => "out of memory",
        FailureCause::WorkerExited => "the worker exited",
        FailureCause::WorkerTimedOut => "the worker did not answer in time",
        FailureCause::NoProgress => "the trainer made no progress",
        FailureCause::CheckpointUnloadable => "the checkpoint could not be loaded",
        FailureCause::Interrupted => "interrupted too often without a new checkpoint",
    };
    let next = match decided.answer {
        FailureAnswer::RunAgain => "the same range again",
        FailureAnswer::Stop => "stop",
    };
    format!("{cause}; {next}")
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
    lines.push(format!("  goes on from {}", start(&reopened.resume_from)));
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
            "  {} blocked: {} against a limit of {} when it last failed; it failed at {}",
            blocking.criterion,
            of(blocking.value),
            of(blocking.limit),
            plural(u64::from(blocking.gates), "gate", "gates")
        )
    }));
    lines.push(match &stopped.best {
        Some(best) => format!("  best known checkpoint: `{}`", best.path),
        None => "  no checkpoint is known to be good".to_owned(),
    });
    lines.join("\n")
}

// ---------------------------------------------------------------- facts

fn named(metrics: &[tinygate_events::Metric]) -> String {
    let each: Vec<String> = metrics
        .iter()
        .map(|metric| format!("{} {}", metric.name, of(metric.value)))
        .collect();
    each.join(", ")
}

fn metrics_logged(logged: &MetricsLogged) -> String {
    let columns: Vec<String> = logged
        .columns
        .iter()
        .map(|column| {
            let last = column.values.len().saturating_sub(1);
            let step = |index| column.steps.at(index).map_or(0, |step| step.get());
            let values = match (column.values.first(), column.values.last()) {
                (Some(first), Some(last)) if 1 < column.values.len() => {
                    format!("{}..{}", short(first.get()), short(last.get()))
                }
                (first, _) => of(first.copied()),
            };
            if last == 0 {
                format!("{} {values} at {}", column.name, step(0))
            } else {
                format!("{} {values} over {}..{}", column.name, step(0), step(last))
            }
        })
        .collect();
    format!(
        "{} chunk {} attempt {}: {}",
        logged.stage,
        logged.chunk,
        logged.attempt,
        columns.join(", ")
    )
}

fn judged(judged: &CheckpointJudged) -> String {
    let CheckpointJudged {
        stage, checkpoint, ..
    } = judged;
    match &judged.rejected {
        None => format!("{stage}: checkpoint `{}` accepted", checkpoint.path),
        Some(rejection) => format!(
            "{stage}: checkpoint `{}` rejected ({}): {}",
            checkpoint.path, rejection.code, rejection.text
        ),
    }
}

fn chunk_started(started: &ChunkStarted) -> String {
    format!(
        "{}: chunk {} attempt {} from {} to {}, starting from {}, learning rate {}",
        started.stage,
        started.chunk,
        started.attempt,
        started.from,
        started.to,
        start(&started.resume_from),
        started.settings.learning_rate
    )
}

fn failure(failure: &ChunkFailure) -> String {
    match failure {
        ChunkFailure::OutOfMemory { detail } => format!("out of memory: {detail}"),
        ChunkFailure::WorkerExited { status, .. } => format!("the worker exited with {status}"),
        ChunkFailure::WorkerTimedOut { seconds, .. } => {
            format!("the worker did not answer for {seconds} s")
        }
        ChunkFailure::NoProgress {
            silence_seconds,
            limit_seconds,
            ..
        } => format!(
            "the trainer made no progress for {silence_seconds} s, {limit_seconds} s are allowed"
        ),
        ChunkFailure::CheckpointUnloadable { path, detail } => {
            format!("checkpoint `{path}` cannot be loaded: {detail}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygate_presets::{self as presets, Preset};

    #[test]
    fn one_is_not_said_as_many() {
        let exceeded = |failures, max_retries| {
            stop(&StopReason::RetriesExceeded {
                failures,
                max_retries,
            })
        };
        assert_eq!(exceeded(2, 1), "failure 2, 1 retry is allowed");
        assert_eq!(exceeded(3, 2), "failure 3, 2 retries are allowed");
        let extended = StopReason::ExtensionsExceeded {
            extensions: 1,
            max_extensions: 1,
        };
        assert_eq!(
            stop(&extended),
            "the target was extended 1 time, 1 time is allowed"
        );
        let failed = StopReason::ChunkFailuresExceeded {
            failures: 1,
            max_chunk_failures: 0,
        };
        assert_eq!(
            stop(&failed),
            "1 chunk in a row failed before a gate, 0 may"
        );
    }

    #[test]
    fn a_gate_without_skill_is_noted_once() {
        let no_skill = |metric: &str, skill| Finding::NoSkill {
            metric: metric.to_owned(),
            skill: tinygate_events::Scalar::new(skill),
            predictor: "mean_image".to_owned(),
        };
        let both = [no_skill("skill", -13927.0), no_skill("skill_moving", -2.5)];
        let lines = notes(&both);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].starts_with(
                "  note: the gate passes without skill: skill is -13927 and skill_moving is -2.5, so it is no better than"
            ),
            "{lines:?}"
        );
        let [_, moving] = &both;
        assert_eq!(
            notes(std::slice::from_ref(moving)),
            [format!("  note: {}", finding(moving))]
        );
    }

    #[test]
    fn a_picture_without_structure_is_not_said_to_lack_skill() {
        let dynamics = presets::stage(Preset::Strict, tinygate_presets::ModelKind::Dynamics);
        let said = |name: &str| {
            let known = dynamics.criteria.iter().find(|known| known.name == name);
            reason(
                &CriterionReason::NoSkillToMeasure,
                Some(&known.unwrap().test),
            )
        };
        assert!(said("visual_structure").contains("no structure to keep"));
        assert!(said("skill").contains("trivial predictor"));
    }
}
