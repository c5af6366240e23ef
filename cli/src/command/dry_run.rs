//! `run --dry-run`: what a run would cost, measured on a few updates.

use std::sync::Arc;

use anyhow::Context;
use serde::Serialize;
use tinygate::data::still::brightest;
use tinygate::events::{Applies, Criterion, Dataset, Event, RunCreated, StageName, StagePolicy};
use tinygate::run::Draft;
use tinygate::run::builtin::{BuiltinTrainer, TrainerSetup};
use tinygate::run::dry_run::{DryRunError, StageCost, UPDATES};
use tinygate_words::{describe, passes_when};

use super::{drive, signals};
use crate::exit::Exit;
use crate::output::{self, Align, Table, bytes, count, duration, number};
use crate::session::Session;

pub fn perform(draft: &Draft, ranks: u32, session: &Session) -> anyhow::Result<Exit> {
    let output = session.output;
    let created = draft.created();
    let permission = session.permission(draft.config());
    let frames = drive::with_frames(draft.frames())?;
    let formed = drive::form(draft.config(), frames, ranks, permission, session)?;
    let warnings = output::dataset::warnings(&created.dataset, brightest(frames));
    output.say_all(&warnings);
    let stop = signals::listen(output.quiet).context("cannot listen to signals")?;
    if !output.json && !output.quiet {
        for line in output::dataset::lines(&created.dataset) {
            output::data_line(&line)?;
        }
        output::data_line("")?;
        for line in gates(created) {
            output::data_line(&line)?;
        }
        output::data_line("")?;
    }
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let setup = TrainerSetup {
        directory: scratch.path().to_owned(),
        config: draft.config().clone(),
        frames: Arc::clone(frames),
        held_out: created.held_out_batches,
        stop,
    };
    let trainer = BuiltinTrainer::start(setup, formed)?;
    let several = 1 < trainer.group().size;
    let begun =
        &mut |stage: &StageName| output.say(&format!("{stage}: measuring {UPDATES} updates"));
    let Some(costs) = trainer.measure(draft, begun).map_err(with_failure)? else {
        return Ok(Exit::Interrupted);
    };
    let estimates: Vec<Estimate> = costs
        .into_iter()
        .map(|cost| Estimate::of(cost, created))
        .collect();
    let seconds = estimates.iter().map(|estimate| estimate.seconds).sum();
    let memory_bytes = peak_memory();
    if output.json {
        let estimate = DryRunJson {
            dataset: &created.dataset,
            stages: estimates,
            seconds,
            memory_bytes,
        };
        output::data_line(&serde_json::to_string(&estimate)?)?;
        return Ok(Exit::Done);
    }
    if output.quiet {
        return Ok(Exit::Done);
    }
    for line in table(&estimates) {
        output::data_line(&line)?;
    }
    output::data_line(&format!("time: {} if every gate passes", duration(seconds)))?;
    if let Some(most) = memory_bytes {
        let most = bytes(most);
        let each = if several { ", in each rank" } else { "" };
        output::data_line(&format!(
            "memory: {most} at most in these updates, data included{each}"
        ))?;
    }
    Ok(Exit::Done)
}

/// The error with the failure of the chunk in words.
fn with_failure(error: DryRunError) -> anyhow::Error {
    if let DryRunError::Failed(Some(failed)) = error {
        let failed = describe(&Event::ChunkFailed(*failed));
        return anyhow::anyhow!("a stage could not be trained; {failed}");
    }
    error.into()
}

/// The cost of a run, for a program.
#[derive(Serialize)]
struct DryRunJson<'a> {
    /// The data, as a run's first event has it.
    dataset: &'a Dataset,
    stages: Vec<Estimate>,
    /// Of the whole run, if every gate passes.
    seconds: f64,
    /// The most memory that this process had; null where the system does not say.
    memory_bytes: Option<u64>,
}

/// The cost of a stage if every gate passes.
#[derive(Serialize)]
struct Estimate {
    stage: String,
    criteria: Vec<Asked>,
    /// Numbers in the model.
    numbers: u64,
    checkpoint_bytes: u64,
    updates: u64,
    seconds_per_update: f64,
    gates: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct Asked {
    criterion: String,
    passes_when: String,
    asked: &'static str,
}

fn asked(stage: &StagePolicy) -> Vec<Asked> {
    let asked = |criterion: &Criterion| Asked {
        criterion: criterion.name.clone(),
        passes_when: passes_when(&criterion.test),
        asked: match criterion.applies {
            Applies::EveryGate => "every gate",
            Applies::AtTarget => "at the target",
        },
    };
    stage.criteria.iter().map(asked).collect()
}

/// Every stage's gates, criterion by criterion.
fn gates(created: &RunCreated) -> Vec<String> {
    let mut table = Table::new(&[
        ("stage", Align::Left),
        ("gates at", Align::Left),
        ("criterion", Align::Left),
        ("passes when", Align::Left),
        ("asked", Align::Left),
    ]);
    for stage in &created.policy.stages {
        for (place, asked) in asked(stage).into_iter().enumerate() {
            let (name, at) = match place {
                0 => (stage.name.to_string(), grid(stage)),
                _ => (String::new(), String::new()),
            };
            let Asked {
                criterion,
                passes_when,
                asked,
            } = asked;
            table.row([name, at, criterion, passes_when, asked.to_owned()]);
        }
    }
    table.lines()
}

fn grid(stage: &StagePolicy) -> String {
    let settings = &stage.settings;
    let (chunk, target) = (settings.chunk_size, settings.n_updates);
    if target <= chunk {
        return count(target);
    }
    format!("every {} to {}", count(chunk), count(target))
}

impl Estimate {
    fn of(cost: StageCost, created: &RunCreated) -> Estimate {
        let mut stages = created.policy.stages.iter();
        let stage = stages.find(|stage| stage.name == cost.stage);
        Estimate {
            stage: cost.stage.to_string(),
            criteria: stage.map_or_else(Vec::new, asked),
            numbers: cost.numbers,
            checkpoint_bytes: cost.checkpoint_bytes,
            updates: cost.updates,
            seconds_per_update: cost.seconds_per_update,
            gates: cost.gates,
            seconds: cost.seconds,
        }
    }
}

fn table(estimates: &[Estimate]) -> Vec<String> {
    let mut table = Table::new(&[
        ("stage", Align::Left),
        ("numbers", Align::Right),
        ("checkpoint", Align::Right),
        ("updates", Align::Right),
        ("seconds each", Align::Right),
        ("gates", Align::Right),
        ("time", Align::Right),
    ]);
    for estimate in estimates {
        table.row([
            estimate.stage.clone(),
            count(estimate.numbers),
            bytes(estimate.checkpoint_bytes),
            count(estimate.updates),
            number(estimate.seconds_per_update),
            count(estimate.gates),
            duration(estimate.seconds),
        ]);
    }
    table.lines()
}

/// The most memory that this process had, in bytes, where the system says so.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kilobytes.checked_mul(1024)
}
