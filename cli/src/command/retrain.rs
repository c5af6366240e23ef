//! `replay --retrain`: trains the recorded chunks again and compares every sample and every file with
//! the log.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use serde::Serialize;
use tinygate::config::TrainerKind;
use tinygate::events::{Event, ProcessStarted, StageName};
use tinygate::run::builtin::{BuiltinTrainer, GroupRequest, Permission, TrainerSetup, form_group};
use tinygate::run::retrain::{
    Comparison, Plan, Recorded, Retrain, Retrained, Retraining, Skipped, StartedTrainer,
};
use tinygate::setup;
use tinygate_words::describe;

use super::shared::overrides;
use super::{drive, signals};
use crate::args::ReplayArgs;
use crate::exit::Exit;
use crate::output::{self, count};
use crate::session::{Output, Session};

/// The answer of one recorded chunk.
#[derive(Serialize)]
struct ChunkJson {
    chunk: String,
    #[serde(flatten)]
    answer: Answer,
    /// What differs between the machines, where samples or files do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    machines: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Retrained(Comparison),
    Skipped(String),
}

#[derive(Default, Serialize)]
struct Totals {
    chunks: u64,
    skipped: u64,
    differing: u64,
    samples: u64,
    samples_equal: u64,
    files: u64,
    files_equal: u64,
}

#[derive(Serialize)]
struct RetrainJson<'a> {
    log: String,
    chunks: &'a [ChunkJson],
    totals: &'a Totals,
}

pub fn perform(args: &ReplayArgs, dir: &Path) -> anyhow::Result<Exit> {
    let request = Retrain {
        stage: args.stage.as_deref().map(StageName::new),
        chunks: args.chunks.map(|range| range.first..=range.last),
        changes: overrides(&args.set)?,
    };
    let Plan {
        config,
        held_out,
        chunks,
    } = request.plan(dir)?;
    if config.trainer.kind == TrainerKind::Command {
        return skip_all(&chunks, args.json, dir);
    }
    let session = Session {
        output: Output {
            json: args.json,
            quiet: args.json,
        },
        job: None,
        allow_fallback: false,
    };
    let scratch = tempfile::Builder::new()
        .prefix("tinygate-retrain-")
        .tempdir()
        .context("cannot make a scratch folder")?;
    let frames = setup::frames(&config)?;
    let stop = signals::listen(session.output.quiet).context("cannot listen to signals")?;
    let alone = drive::group_request(1, Permission::Denied, &session)?;
    let mut start =
        |ranks: u32| -> Result<StartedTrainer, Box<dyn std::error::Error + Send + Sync>> {
            let request = GroupRequest {
                ranks,
                ..alone.clone()
            };
            let formed = form_group(&config, &frames, request, &mut |_| {})?;
            let setup = TrainerSetup {
                directory: scratch.path().to_owned(),
                config: config.clone(),
                frames: Arc::clone(&frames),
                held_out,
                stop: Arc::clone(&stop),
            };
            Ok(BuiltinTrainer::start(setup, formed)?.into_started())
        };
    let mut retraining = Retraining::new(dir, scratch.path(), &mut start)?;
    let mut answers = Vec::new();
    let mut totals = Totals::default();
    for chunk in &chunks {
        let begun = &mut |chunk: &Recorded| {
            session
                .output
                .say(&format!("training {} again", chunk.name()));
        };
        let Some(retrained) = retraining.retrain(chunk, begun)? else {
            output::say("interrupted; nothing was changed, so it can be started again");
            return Ok(Exit::Interrupted);
        };
        let answer = ChunkJson::of(chunk, retrained);
        totals.add(&answer.answer);
        if !args.json {
            output::data(&answer.lines())?;
        }
        answers.push(answer);
    }
    finish(&answers, &totals, args.json, dir)
}

/// Nothing of a run that a program trained can be trained again.
fn skip_all(chunks: &[Recorded], json: bool, dir: &Path) -> anyhow::Result<Exit> {
    let mut answers = Vec::new();
    let mut totals = Totals::default();
    for chunk in chunks {
        let why = "a program trained it, and only the built-in trainer can train a chunk again";
        let answer = ChunkJson {
            chunk: chunk.name(),
            answer: Answer::Skipped(why.to_owned()),
            machines: Vec::new(),
        };
        totals.add(&answer.answer);
        if !json {
            output::data(&answer.lines())?;
        }
        answers.push(answer);
    }
    finish(&answers, &totals, json, dir)
}

fn finish(answers: &[ChunkJson], totals: &Totals, json: bool, dir: &Path) -> anyhow::Result<Exit> {
    let log = dir.display().to_string();
    if json {
        let json = RetrainJson {
            log,
            chunks: answers,
            totals,
        };
        output::data_line(&serde_json::to_string(&json)?)?;
    } else {
        output::data_line(&format!("{log}: {totals}"))?;
    }
    Ok(totals.exit())
}

impl ChunkJson {
    fn of(chunk: &Recorded, retrained: Retrained) -> ChunkJson {
        let (answer, machines) = match retrained {
            Retrained::Skipped(why) => (Answer::Skipped(reason(why)), Vec::new()),
            Retrained::Compared {
                comparison,
                process,
            } => {
                let then = chunk.process.as_ref().filter(|_| !comparison.is_equal());
                let machines = then.map_or_else(Vec::new, |then| machines(then, &process));
                (Answer::Retrained(comparison), machines)
            }
        };
        ChunkJson {
            chunk: chunk.name(),
            answer,
            machines,
        }
    }

    fn lines(&self) -> String {
        let mut text = match &self.answer {
            Answer::Skipped(why) => format!("{}: skipped, {why}\n", self.chunk),
            Answer::Retrained(found) => format!(
                "{}: {} of {} samples and {} of {} files bit-equal\n",
                self.chunk,
                count(found.samples_equal),
                count(found.samples),
                found.files_equal,
                found.files
            ),
        };
        if let Answer::Retrained(Comparison {
            first_difference: Some(difference),
            ..
        }) = &self.answer
        {
            text += &format!("  {difference}\n");
            if self.machines.is_empty() {
                text += "  the log shows no difference between the machines\n";
            }
        }
        for difference in &self.machines {
            text += &format!("  {difference}\n");
        }
        text
    }
}

/// The text is also in the JSON output, where it must not change.
fn reason(why: Skipped) -> String {
    match why {
        Skipped::Unfinished => "it was not finished".to_owned(),
        Skipped::Failed(failed) => format!("it failed: {}", describe(&Event::ChunkFailed(failed))),
        Skipped::Superseded => {
            "nothing of it counts: it was resumed where it began, or before".to_owned()
        }
        Skipped::NoCheckpoint { path } => {
            format!("its checkpoint `{path}` is gone, and the chunk before was not trained again")
        }
        Skipped::NotUnicode { path } => format!("`{}` is not UTF-8", path.display()),
        Skipped::FailedAgain(failed) => describe(&Event::ChunkFailed(failed)),
    }
}

/// What differs between the machine that trained a chunk and this one.
fn machines(then: &ProcessStarted, now: &ProcessStarted) -> Vec<String> {
    let rows = [
        ("device", devices(then, now), devices(now, then)),
        ("threads", then.threads.to_string(), now.threads.to_string()),
        (
            "libtorch",
            then.libtorch_version.clone(),
            now.libtorch_version.clone(),
        ),
        (
            "tinygate",
            then.tinygate_version.clone(),
            now.tinygate_version.clone(),
        ),
        ("host", then.host.clone(), now.host.clone()),
    ];
    let different = rows.into_iter().filter(|(_, then, now)| then != now);
    different
        .map(|(what, then, now)| format!("{what}: {then} then, {now} now"))
        .collect()
}

/// The devices of `one`, with the names of their cards where both sides have them.
fn devices(one: &ProcessStarted, other: &ProcessStarted) -> String {
    if one.cards.is_empty() || other.cards.is_empty() {
        return one.devices.join(", ");
    }
    tinygate_words::hardware(one)
}

impl Totals {
    fn add(&mut self, answer: &Answer) {
        match answer {
            Answer::Skipped(_) => self.skipped += 1,
            Answer::Retrained(found) => {
                self.chunks += 1;
                self.differing += u64::from(!found.is_equal());
                self.samples += found.samples;
                self.samples_equal += found.samples_equal;
                self.files += found.files;
                self.files_equal += found.files_equal;
            }
        }
    }

    fn exit(&self) -> Exit {
        match (self.chunks, self.differing) {
            (0, _) => Exit::NothingChecked,
            (_, 0) => Exit::Done,
            (_, _) => Exit::Refused,
        }
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} chunks trained again, {} skipped: {} of {} samples and {} of {} files bit-equal",
            self.chunks,
            self.skipped,
            count(self.samples_equal),
            count(self.samples),
            self.files_equal,
            self.files
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_compared_where_both_logs_have_them() {
        let process = |cards: &[&str]| ProcessStarted {
            host: "host".to_owned(),
            pid: 1,
            tinygate_version: "1".to_owned(),
            libtorch_version: "2".to_owned(),
            devices: vec!["cuda:0".to_owned()],
            threads: 1,
            cards: cards.iter().map(|card| (*card).to_owned()).collect(),
        };
        assert_eq!(
            machines(&process(&["A"]), &process(&["B"])),
            ["device: cuda:0 (A) then, cuda:0 (B) now"]
        );
        assert!(machines(&process(&["A"]), &process(&["A"])).is_empty());
        assert!(
            machines(&process(&[]), &process(&["B"])).is_empty(),
            "an older log does not say"
        );
    }
}
