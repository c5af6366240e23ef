//! `replay --retrain`: train the recorded chunks again, each from its recorded checkpoint and by
//! the command the machine gave then, and compare every sample and every file with the log.
//!
//! Nothing is written into the run: checkpoints and pictures go to a scratch folder. A checkpoint
//! that retention let go is replaced by the one just trained again, if it has the recorded hashes.

mod compare;
mod recorded;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use serde::Serialize;
use tinygate::checkpoint;
use tinygate::config::Config;
use tinygate::data::Frames;
use tinygate::events::{Event, HeldOutBatches, ProcessStarted, Record, Step};
use tinygate::machine::{Machine, RunState, TrainChunk};
use tinygate::setup;
use tinygate::train::actor::{self, ActorSetup};
use tinygate::trainer::{
    Channels, Report, StopRequest, TICK, Trainer, TrainerCommand, TrainerFact,
};

use self::compare::{Comparison, machines};
use self::recorded::{End, Found, Recorded, chunks};
use super::ranks::{Grant, gather};
use super::{overrides, records, signals};
use crate::args::ReplayArgs;
use crate::exit::{EmptyLog, Exit};
use crate::output::{self, count};

/// What became of one recorded chunk.
#[derive(Serialize)]
struct ChunkJson {
    chunk: String,
    #[serde(flatten)]
    answer: Answer,
    /// What differs between the machines, where samples do.
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
    let records: Vec<Record> = records(dir)?.collect::<Result<_, _>>()?;
    let (config, state) = config(args, dir, &records)?;
    let chunks = chosen(args, chunks(&records), &state)?;
    let created = state.created.as_ref();
    let held_out = created.map_or(HeldOutBatches::Largest, |created| created.held_out_batches);
    let mut bench = Bench::new(dir, &config, held_out, args.json)?;
    let mut answers = Vec::new();
    let mut totals = Totals::default();
    for chunk in &chunks {
        let Some(answer) = bench.retrain(chunk)? else {
            output::say("interrupted; nothing was changed, so it can be started again");
            return Ok(Exit::Interrupted);
        };
        let answer = bench.judge(chunk, answer);
        totals.add(&answer.answer);
        if !args.json {
            output::data(&answer.lines())?;
        }
        answers.push(answer);
    }
    let log = dir.display().to_string();
    if args.json {
        let json = RetrainJson {
            log,
            chunks: &answers,
            totals: &totals,
        };
        output::data_line(&serde_json::to_string(&json)?)?;
    } else {
        output::data_line(&format!("{log}: {totals}"))?;
    }
    Ok(totals.exit())
}

/// The run's config with this process's data, device and threads.
fn config(args: &ReplayArgs, dir: &Path, records: &[Record]) -> anyhow::Result<(Config, RunState)> {
    let mut machine = Machine::default();
    for record in records {
        machine.apply(&record.event);
    }
    let state = machine.into_state();
    let Some(created) = state.created.clone() else {
        let place = dir.display().to_string();
        return Err(EmptyLog { place }.into());
    };
    let original = Config::from_json(&created.config)?;
    let in_force = state
        .stages
        .iter()
        .map(|stage| (stage.name(), &stage.settings));
    let resumed = original.resume(in_force, created.policy.max_retries, &overrides(&args.set)?)?;
    if let Some(setting) = resumed.settings.first() {
        let stage = setting.stage.iter().map(|stage| format!("{stage}."));
        bail!(
            "`{}{}` cannot be set: chunks are trained again with their recorded settings\n\
             hint: `--set` takes data.path, device and threads here",
            stage.collect::<String>(),
            setting.key.as_str()
        );
    }
    let config = Config {
        policy: original.policy,
        ..resumed.config
    };
    Ok((config, state))
}

/// The chunks asked for.
fn chosen(
    args: &ReplayArgs,
    chunks: Vec<Recorded>,
    state: &RunState,
) -> anyhow::Result<Vec<Recorded>> {
    if let Some(wanted) = &args.stage
        && state
            .stages
            .iter()
            .all(|stage| stage.name().as_str() != wanted)
    {
        let names: Vec<&str> = state
            .stages
            .iter()
            .map(|stage| stage.name().as_str())
            .collect();
        bail!(
            "the run has no stage `{wanted}`\nhint: its stages are {}",
            names.join(", ")
        );
    }
    let is_wanted = |chunk: &Recorded| {
        let command = &chunk.command;
        let of_stage = args
            .stage
            .as_ref()
            .is_none_or(|wanted| command.stage.as_str() == wanted);
        let number = command.chunk.get();
        of_stage
            && args
                .chunks
                .is_none_or(|range| range.first <= number && number <= range.last)
    };
    Ok(chunks.into_iter().filter(is_wanted).collect())
}

/// Trainers at work in a scratch folder.
struct Bench {
    run: PathBuf,
    scratch: tempfile::TempDir,
    config: Config,
    held_out: HeldOutBatches,
    frames: Arc<Frames>,
    stop: Arc<StopRequest>,
    team: Option<Team>,
    quiet: bool,
}

/// As many ranks as a chunk was trained by: with others, sums are taken in another order.
struct Team {
    ranks: u32,
    trainer: Channels,
    now: ProcessStarted,
}

impl Bench {
    fn new(
        dir: &Path,
        config: &Config,
        held_out: HeldOutBatches,
        quiet: bool,
    ) -> anyhow::Result<Bench> {
        let scratch = tempfile::Builder::new()
            .prefix("tinygate-retrain-")
            .tempdir()
            .context("cannot make a scratch folder")?;
        Ok(Bench {
            run: std::path::absolute(dir)?,
            scratch,
            config: config.clone(),
            held_out,
            frames: setup::frames(config)?,
            stop: signals::listen(quiet).context("cannot listen to signals")?,
            team: None,
            quiet,
        })
    }

    fn team(&mut self, ranks: u32) -> anyhow::Result<&Team> {
        let team = match self.team.take() {
            Some(team) if team.ranks == ranks => team,
            Some(_) | None => {
                let gathered = gather(&self.config, &self.frames, ranks, None, Grant::No)?;
                let now = gathered.process_started();
                // The thread ends with the trainer's channels.
                let (trainer, _) = actor::spawn(ActorSetup {
                    directory: self.scratch.path().to_owned(),
                    config: self.config.clone(),
                    frames: Arc::clone(&self.frames),
                    device: gathered.device,
                    threads: gathered.threads,
                    stop: Arc::clone(&self.stop),
                    ranks: gathered.ranks,
                    held_out: self.held_out,
                })?;
                Team {
                    ranks,
                    trainer,
                    now,
                }
            }
        };
        Ok(self.team.insert(team))
    }

    /// `None`: a signal came.
    fn retrain(&mut self, chunk: &Recorded) -> anyhow::Result<Option<Result<Found, String>>> {
        match &chunk.end {
            End::Open => return Ok(Some(Err("it was not finished".to_owned()))),
            End::Failed(how) => return Ok(Some(Err(format!("it failed: {how}")))),
            End::Resumed { after } if *after <= chunk.command.start() => {
                return Ok(Some(Err(
                    "nothing of it counts: it was resumed where it began, or before".to_owned(),
                )));
            }
            End::Resumed { .. } | End::Finished => {}
        }
        let command = match self.command(&chunk.command) {
            Ok(command) => command,
            Err(why) => return Ok(Some(Err(why))),
        };
        if !self.quiet {
            output::say(&format!("training {} again", chunk.name()));
        }
        let team = self.team(chunk.ranks())?;
        team.trainer
            .send(TrainerCommand::TrainChunk(Box::new(command)))?;
        let mut found = Found::default();
        loop {
            let Some(report) = team.trainer.receive(TICK)? else {
                continue;
            };
            match report {
                Report::Progress(_) => {}
                Report::Interrupted { .. } => return Ok(None),
                Report::Environment { detail } => {
                    bail!("{detail}\nhint: mend it and start again; the run itself is untouched")
                }
                Report::Fact(TrainerFact::ChunkFinished(_)) => break,
                Report::Fact(TrainerFact::ChunkFailed(failed)) => {
                    let failed = Event::ChunkFailed(failed);
                    return Ok(Some(Err(tinygate_words::describe(&failed))));
                }
                Report::Fact(fact) => found.add(&fact.into()),
            }
        }
        if let End::Resumed { after } = chunk.end {
            found.supersede(after);
        }
        self.tidy(&chunk.command);
        Ok(Some(Ok(found)))
    }

    /// The recorded command, with paths that hold from the scratch folder.
    fn command(&self, recorded: &TrainChunk) -> Result<TrainChunk, String> {
        let mut command = recorded.clone();
        if let Some(resume) = &mut command.resume {
            let path = &mut resume.checkpoint.path;
            let of_run = self.run.join(&*path);
            if of_run.exists() {
                *path = text(&of_run)?;
            } else if !self.scratch.path().join(&*path).is_dir() {
                return Err(format!(
                    "its checkpoint `{path}` is gone, and the chunk before was not trained again"
                ));
            }
        }
        for upstream in &mut command.upstream {
            let path = &mut upstream.checkpoint.path;
            *path = text(&self.run.join(&*path))?;
        }
        Ok(command)
    }

    /// Lets go of what chunks before this one wrote.
    fn tidy(&self, last: &TrainChunk) {
        let folder = self
            .scratch
            .path()
            .join(last.stage.as_str())
            .join("checkpoints");
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| is_past(name, last.from)) {
                // Only a scratch folder that grows: the next chunk asks for free space itself.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    fn judge(&self, chunk: &Recorded, answer: Result<Found, String>) -> ChunkJson {
        let answer = match answer {
            Ok(found) => Answer::Retrained(Comparison::of(&chunk.found, &found)),
            Err(why) => Answer::Skipped(why),
        };
        let differs = matches!(&answer, Answer::Retrained(comparison) if !comparison.is_equal());
        let then = chunk.process.as_ref().filter(|_| differs);
        let both = then.zip(self.team.as_ref());
        ChunkJson {
            chunk: chunk.name(),
            answer,
            machines: both.map_or_else(Vec::new, |(then, team)| machines(then, &team.now)),
        }
    }
}

/// Whether a checkpoint of this name stands before a chunk that begins behind `from`.
fn is_past(name: &str, from: Step) -> bool {
    checkpoint::step_name(name).is_some_and(|named| named.step <= from.get())
}

/// A path as a command names it.
fn text(path: &Path) -> Result<String, String> {
    let text = path.to_str();
    text.map(str::to_owned)
        .ok_or_else(|| format!("`{}` is not UTF-8", path.display()))
}

impl ChunkJson {
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
                text += "  no difference between the machines is on record\n";
            }
        }
        for difference in &self.machines {
            text += &format!("  {difference}\n");
        }
        text
    }
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

    #[track_caller]
    fn check(name: &str, from: u64, past: bool) {
        assert_eq!(is_past(name, Step::new(from)), past, "{name} from {from}");
    }

    #[test]
    fn only_what_stands_before_the_chunk_is_let_go() {
        check("dynamics_step_60", 60, true);
        check("dynamics_step_80", 60, false);
        check("dynamics_step_60_2", 60, true);
        // The second checkpoint at update 80 is what the next chunk begins from.
        check("dynamics_step_80_2", 60, false);
        check("a_step_9_step_80_12", 60, false);
        check("best", 60, false);
    }
}
