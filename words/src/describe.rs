//! An event in one line.

use tinygate_events::{
    CheckpointJudged, CheckpointRef, ChunkFailure, ChunkStarted, Dataset, Event, FailureAnswer,
    FailureCause, FailureDecided, GateDecided, InterruptReason, Metric, MetricsLogged, PatchReason,
    ProcessStarted, Record, SettingPatch, SettingValue, StopReason, Verdict, metric,
};

use crate::findings::predictor;
use crate::numbers::{number, plural, timestamp};
use crate::values::{optional_number, setting};

/// Sequence number, time (UTC), kind and description.
pub fn event_line(record: &Record) -> String {
    format!(
        "{:>6}  {}  {:<18}  {}",
        record.seq.get(),
        timestamp(record.time_ms),
        record.event.kind(),
        describe(&record.event)
    )
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
            InterruptReason::Environment { detail } => {
                format!("stopped by the environment, which is not a failure: {detail}")
            }
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
            "the {} allowed {} of {} ranks, with accumulation multiplied by {}",
            e.granted_by, e.ranks_available, e.ranks_wanted, e.accumulation_factor
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
            "{} at {}: {} saved in `{}`: flatness {}, stripes {}, blockiness {}, ssim {}, mse ratio {}",
            e.stage,
            e.step,
            plural(e.frames.len() as u64, "frame", "frames"),
            e.path,
            optional_number(e.pooled.flatness),
            optional_number(e.pooled.stripes),
            optional_number(e.pooled.blockiness),
            optional_number(e.pooled.ssim),
            optional_number(e.pooled.mse_ratio)
        ),
        Event::ChunkFinished(e) => format!(
            "{}: chunk {} attempt {} finished at {} after {} s",
            e.stage,
            e.chunk,
            e.attempt,
            e.step,
            number(e.seconds.get())
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
            "the log's {} was repaired, {} restored: {}",
            e.copy,
            plural(e.restored, "event", "events"),
            e.detail
        ),
        Event::CheckpointGivenUp(e) => format!(
            "{}: checkpoint `{}` given up by {}: {}",
            e.stage, e.checkpoint.path, e.who, e.why
        ),
        Event::PruneRequested(e) => format!(
            "{} requested pruning: the newest {} are kept, besides best, passed and resume points",
            e.who,
            plural(u64::from(e.keep_last), "checkpoint", "checkpoints")
        ),
        Event::StageStarted(e) => format!("{} started, from {}", e.stage, start(&e.resume_from)),
        Event::ChunkStarted(e) => chunk_started(e),
        Event::SamplesSuperseded(e) => format!(
            "{}: chunk {} attempt {} continues from {}; later samples are discarded",
            e.stage,
            e.chunk,
            e.attempt,
            start(&e.resume_from)
        ),
        Event::GateDecided(e) => gate_line(e),
        Event::PatchApplied(e) => format!("{}: {}", e.stage, patch(&e.patch)),
        Event::PatchDeferred(e) => format!(
            "{}: {}, only in the next full cycle",
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
            format!("{}: checkpoint `{}` deleted", e.stage, e.checkpoint.path)
        }
        Event::StagePassed(e) => {
            format!("{} passed with `{}`", e.stage, e.checkpoint.path)
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

/// The devices of a process, each with the name of its card: `cuda:0 (NVIDIA H100)`.
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

/// What was read from the data; empty for logs without that information.
fn data_read(dataset: &Dataset) -> String {
    if dataset.recordings.is_empty() {
        return String::new();
    }
    let missing = dataset.recordings.iter().fold(0_u64, |sum, recording| {
        sum.saturating_add(recording.missing)
    });
    let mut text = format!(
        ", {} in {}",
        plural(dataset.frames, "frame", "frames"),
        plural(dataset.recordings.len() as u64, "recording", "recordings")
    );
    if 0 < missing {
        text += &format!(", {missing} missing in the numbering");
    }
    let not_read = dataset.passed_over.iter().map(|found| found.count);
    if let Some(first) = dataset.passed_over.first() {
        let not_read = not_read.fold(0, u64::saturating_add);
        text += &format!(
            ", {not_read} others not read ({}: `{}`)",
            first.why, first.example
        );
    }
    text
}

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
        optional_number(loss)
    );
    if !failed.is_empty() {
        line += &format!("; failed: {}", failed.join(", "));
    }
    line
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
                    format!("{}..{}", number(first.get()), number(last.get()))
                }
                (first, _) => optional_number(first.copied()),
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
        setting(SettingValue::Real(started.settings.learning_rate))
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

fn named(metrics: &[Metric]) -> String {
    let each: Vec<String> = metrics
        .iter()
        .map(|metric| format!("{} {}", metric.name, optional_number(metric.value)))
        .collect();
    each.join(", ")
}

pub(crate) fn patch(patch: &SettingPatch) -> String {
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

pub(crate) fn start(resume_from: &Option<CheckpointRef>) -> String {
    resume_from
        .as_ref()
        .map_or("fresh weights".to_owned(), |from| {
            format!("`{}` (update {})", from.path, from.step)
        })
}

pub(crate) fn stop(reason: &StopReason) -> String {
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
            format!("{failures} in a row failed before a gate, {max_chunk_failures} allowed")
        }
        StopReason::OutOfMemoryAtFloor { batch_size_per_gpu } => {
            format!("out of memory with a batch of {batch_size_per_gpu}, which cannot be halved")
        }
        StopReason::CountersExhausted => "a chunk's number or step is out of range".to_owned(),
    }
}

pub(crate) fn answer(decided: &FailureDecided) -> String {
    let cause = match decided.cause {
        FailureCause::OutOfMemory => "out of memory",
        FailureCause::WorkerExited => "the worker exited",
        FailureCause::WorkerTimedOut => "the worker did not answer in time",
        FailureCause::NoProgress => "the trainer made no progress",
        FailureCause::CheckpointUnloadable => "the checkpoint could not be loaded",
        FailureCause::Interrupted => "interrupted too often without a new checkpoint",
    };
    let next = match decided.answer {
        FailureAnswer::RunAgain => "train the same range again",
        FailureAnswer::Stop => "stop",
    };
    format!("{cause}; {next}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_one_are_singular() {
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
            "1 chunk in a row failed before a gate, 0 allowed"
        );
    }
}
