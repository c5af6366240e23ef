//! An event of the log on one line.

use tinygate::events::{
    CheckpointRef, ChunkFailure, Event, FailureAnswer, InterruptReason, Record, Scalar, Verdict,
    metric,
};

use super::{bytes, count, duration, number, timestamp, words};

/// Sequence number, time (UTC), kind, and what it says.
pub fn event_line(record: &Record) -> String {
    format!(
        "{:>6}  {}  {:<18}  {}",
        record.seq.get(),
        timestamp(record.time_ms),
        record.event.kind(),
        says(&record.event)
    )
}

/// Kind and what it says, for a line among others.
pub fn event_line_short(event: &Event) -> String {
    format!("{}: {}", event.kind().replace('_', " "), says(event))
}

fn says(event: &Event) -> String {
    match event {
        Event::RunCreated(e) => format!(
            "`{}`: {} stages, preset {}, seed {}, rules {}, {} frames",
            e.run,
            e.policy.stages.len(),
            e.policy.preset,
            e.seed,
            e.rules,
            count(e.dataset.frames)
        ),
        Event::ProcessStarted(e) => format!(
            "{} on {}, {} threads, tinygate {}, pid {}",
            e.devices.join(" "),
            e.host,
            e.threads,
            e.tinygate_version,
            e.pid
        ),
        Event::RunInterrupted(e) => match &e.reason {
            InterruptReason::Signal { name } => format!("by {name}"),
            InterruptReason::Environment { detail } => detail.clone(),
        },
        Event::SettingChanged(e) => format!(
            "{}{} {} -> {} by {} ({})",
            e.stage
                .as_ref()
                .map_or(String::new(), |stage| format!("{stage}.")),
            e.key.as_str(),
            words::setting(e.from),
            words::setting(e.to),
            e.who,
            e.why
        ),
        Event::FallbackGranted(e) => format!(
            "{} of {} ranks, accumulation times {} (by {})",
            e.ranks_available, e.ranks_wanted, e.accumulation_factor, e.granted_by
        ),
        Event::StageMeasured(e) => {
            let loss = e
                .trivial
                .iter()
                .find(|metric| metric.name == metric::TRIVIAL_LOSS);
            let loss = loss.and_then(|metric| metric.value);
            format!(
                "{}: {} scores {}",
                e.stage,
                words::predictor(&e.predictor),
                value(loss)
            )
        }
        Event::MetricsLogged(e) => metrics(e),
        Event::CheckpointWritten(e) => {
            let size = e.files.iter().map(|file| file.size).sum();
            format!("{} ({})", e.checkpoint.path, bytes(size))
        }
        Event::CheckpointJudged(e) => match &e.rejected {
            None => format!("{} accepted", e.checkpoint.path),
            Some(rejected) => format!("{} rejected: {}", e.checkpoint.path, rejected.text),
        },
        Event::HeldOutScored(e) => {
            let values = e.values.iter();
            let values: Vec<String> = values
                .map(|metric| format!("{} {}", metric.name, value(metric.value)))
                .collect();
            format!("{} at {}: {}", e.stage, e.step, values.join(", "))
        }
        Event::PictureScored(e) => e.path.clone(),
        Event::ChunkFinished(e) => format!(
            "{} chunk {} at {} after {}",
            e.stage,
            e.chunk,
            e.step,
            duration(e.seconds.get())
        ),
        Event::ChunkFailed(e) => {
            format!(
                "{} chunk {} at {}: {}",
                e.stage,
                e.chunk,
                e.step,
                failure(&e.failure)
            )
        }
        Event::StoreRepaired(e) => format!("{}: {}", e.copy, e.detail),
        Event::StageStarted(e) => format!("{} from {}", e.stage, from(e.resume_from.as_ref())),
        Event::ChunkStarted(e) => format!(
            "{} chunk {} attempt {}: ({}, {}] from {}",
            e.stage,
            e.chunk,
            e.attempt,
            e.from,
            e.to,
            from(e.resume_from.as_ref())
        ),
        Event::SamplesSuperseded(e) => format!("{} after {}", e.stage, e.after),
        Event::GateDecided(e) => {
            let failed = e
                .criteria
                .iter()
                .filter(|result| result.verdict == Verdict::Fail);
            let failed: Vec<&str> = failed.map(|result| result.name.as_str()).collect();
            let why = if failed.is_empty() {
                String::new()
            } else {
                format!("; failed {}", failed.join(", "))
            };
            format!(
                "{} at {}: {}{why}",
                e.stage,
                e.gate_step,
                e.decision.as_str()
            )
        }
        Event::PatchApplied(e) => format!("{}: {}", e.stage, words::patch(&e.patch)),
        Event::PatchDeferred(e) => format!("{}: {}", e.stage, words::patch(&e.patch)),
        Event::FailureDecided(e) => {
            let answer = match e.answer {
                FailureAnswer::RunAgain => "run again",
                FailureAnswer::Stop => "stop",
            };
            format!(
                "{} chunk {}: {}: {answer}",
                e.stage,
                e.chunk,
                words::failure(e.cause)
            )
        }
        Event::StageReopened(e) => {
            format!("{} at {}: {}", e.stage, e.gate_step, e.decision.as_str())
        }
        Event::CheckpointDeleted(e) => e.checkpoint.path.clone(),
        Event::StagePassed(e) => format!("{} with {}", e.stage, e.checkpoint.path),
        Event::StageStopped(e) => format!("{} at {}: {}", e.stage, e.step, words::stop(&e.reason)),
        Event::RunFinished(e) => format!("{} stages", e.stages),
        Event::RunStopped(e) => format!("in {}", e.stage),
    }
}

fn metrics(logged: &tinygate::events::MetricsLogged) -> String {
    let losses = logged
        .columns
        .iter()
        .find(|column| column.name == metric::LOSS);
    let span = losses.and_then(|column| {
        let last = column.values.len().checked_sub(1)?;
        let (from, to) = (column.steps.at(0)?, column.steps.at(last)?);
        Some((from, to, *column.values.get(last)?))
    });
    match span {
        Some((from, to, loss)) => format!(
            "{} updates {from} to {to}, loss {}",
            logged.stage,
            number(loss.get())
        ),
        None => format!("{}: {} columns", logged.stage, logged.columns.len()),
    }
}

fn failure(failure: &ChunkFailure) -> String {
    match failure {
        ChunkFailure::OutOfMemory { detail } => format!("out of memory: {detail}"),
        ChunkFailure::WorkerExited { status, stderr } => format!("{status}: {stderr}"),
        ChunkFailure::WorkerTimedOut { seconds, .. } => format!("timed out after {seconds} s"),
        ChunkFailure::CheckpointUnloadable { path, detail } => format!("{path}: {detail}"),
    }
    .replace('\n', " ")
}

fn from(checkpoint: Option<&CheckpointRef>) -> &str {
    checkpoint.map_or("fresh weights", |checkpoint| checkpoint.path.as_str())
}

fn value(value: Option<Scalar>) -> String {
    value.map_or("n/a".to_owned(), |value| number(value.get()))
}
