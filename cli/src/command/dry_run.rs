//! `run --dry-run`: what a run would be, measured on a few updates.
//!
//! The updates are real: the same trainer, driven by the same machine, over a log
//! in memory and a temporary folder that is removed afterwards. Nothing of it is
//! kept, and nothing is written where the user looks.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use serde::Serialize;
use tinygate::checkpoint::{self, Acceptance, Need};
use tinygate::controller::{Controller, Ending, Host, Observer};
use tinygate::events::{
    Applies, Criterion, CriterionTest, Dataset, Event, ProcessStarted, Record, RunCreated,
    StageName, StagePolicy,
};
use tinygate::machine::RunState;
use tinygate::store::MemoryLog;
use tinygate::train::actor::{self, ActorSetup};
use tinygate::trainer::{FileJudge, NoProgress, Patience, Progress, StopRequest};
use tinygate_words::{describe, passes_when};

use super::prepare::{LIBTORCH_VERSION, Prepared};
use super::ranks::Gathered;
use super::{now_ms, signals};
use crate::exit::Exit;
use crate::output::{self, Align, Table, bytes, count, duration, number};

/// Updates measured per stage; the first few warm caches up and do not count.
const UPDATES: u64 = 8;
const WARM_UP: usize = 3;

pub fn perform(
    prepared: &Prepared,
    gathered: Gathered,
    json: bool,
    quiet: bool,
) -> anyhow::Result<Exit> {
    let stop = signals::listen(quiet).context("cannot listen to signals")?;
    if let Some(warning) = gathered.warning.as_ref().filter(|_| !quiet) {
        output::say(warning);
    }
    if !json && !quiet {
        for line in output::dataset::lines(&prepared.created.dataset) {
            output::data_line(&line)?;
        }
        output::data_line("")?;
        for line in gates(&prepared.created) {
            output::data_line(&line)?;
        }
        output::data_line("")?;
    }
    let Some(costs) = measure(prepared, gathered, stop, quiet)? else {
        return Ok(Exit::Interrupted);
    };
    let estimates = estimates(&prepared.created, &costs);
    let seconds = estimates.iter().map(|estimate| estimate.seconds).sum();
    let memory_bytes = peak_memory();
    if json {
        let estimate = DryRunJson {
            dataset: &prepared.created.dataset,
            stages: estimates,
            seconds,
            memory_bytes,
        };
        output::data_line(&serde_json::to_string(&estimate)?)?;
        return Ok(Exit::Done);
    }
    if quiet {
        return Ok(Exit::Done);
    }
    for line in table(&estimates) {
        output::data_line(&line)?;
    }
    output::data_line(&format!("time: {} if every gate passes", duration(seconds)))?;
    if let Some(most) = memory_bytes {
        let most = bytes(most);
        let each = if 1 < prepared.created.world_size {
            ", in each rank"
        } else {
            ""
        };
        output::data_line(&format!(
            "memory: {most} at most in these updates, data included{each}"
        ))?;
    }
    Ok(Exit::Done)
}

/// What a run would come to, as a program reads it.
#[derive(Serialize)]
struct DryRunJson<'a> {
    /// What was read, as the first event of a run says it.
    dataset: &'a Dataset,
    stages: Vec<Estimate>,
    /// Of the whole run, if every gate passes.
    seconds: f64,
    /// The most this process had in memory; null where the system does not say.
    memory_bytes: Option<u64>,
}

/// What one stage would come to, if every gate passes.
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

/// What one stage costs.
struct Cost {
    stage: StageName,
    /// Numbers in a checkpoint's model.
    elements: u64,
    /// Median seconds of an update.
    update: f64,
    /// Seconds from the last update to the end of the chunk: checkpoint, held-out
    /// losses, picture.
    gate: f64,
    checkpoint_bytes: u64,
}

/// Runs a few updates of every stage, each on what the one before it made. `None`: a
/// signal came first.
fn measure(
    prepared: &Prepared,
    gathered: Gathered,
    stop: Arc<StopRequest>,
    quiet: bool,
) -> anyhow::Result<Option<Vec<Cost>>> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let Gathered {
        ranks,
        device,
        threads,
        fallback,
        ..
    } = gathered;
    let (trainer, thread) = actor::spawn(ActorSetup {
        directory: folder.path().to_owned(),
        config: prepared.config.clone(),
        frames: Arc::clone(&prepared.frames),
        device,
        threads,
        stop: Arc::clone(&stop),
        ranks,
        held_out: prepared.created.held_out_batches,
    })?;
    let log = MemoryLog::new();
    let mut controller = Controller::open(&log, folder.path(), now_ms)?;
    controller.record_fact(Event::RunCreated(Box::new(shortened(&prepared.created))))?;
    if let Some(granted) = fallback {
        controller.record_fact(Event::FallbackGranted(granted))?;
    }
    let mut watch = Watch {
        quiet,
        ..Watch::default()
    };
    let judge = FileJudge::new(folder.path());
    let host = Host {
        trainer: &trainer,
        judge: &judge,
        patience: Patience::new(prepared.config.no_progress_seconds)
            .with_floor(2 * u64::from(prepared.config.rank_timeout_seconds)),
        stop: &stop,
    };
    let ended = controller.run(started(threads), host, &mut watch);
    drop(trainer);
    if let Ok(Ending::NoProgress(NoProgress {
        silence_seconds, ..
    })) = ended
    {
        bail!("the trainer made no progress for {silence_seconds} s")
    }
    let trained = thread.join();
    match ended? {
        Ending::Finished => {}
        Ending::Stopped => bail!("a stage could not train; {}", watch.failure()),
        Ending::Interrupted { .. } => return Ok(None),
        Ending::Environment { detail } => bail!("{detail}"),
        // Said above.
        Ending::NoProgress(_) => {}
    }
    if trained.is_err() {
        bail!("the training thread ended in a panic");
    }
    watch.costs(folder.path()).map(Some)
}

/// The run with one short chunk in each stage, whose gate asks for nothing but a checkpoint.
fn shortened(created: &RunCreated) -> RunCreated {
    let mut short = created.clone();
    short.policy.max_retries = 0;
    for stage in &mut short.policy.stages {
        let given = created
            .init_from
            .iter()
            .find(|init| init.stage == stage.name);
        let from = given.map_or(0, |init| init.checkpoint.step.get());
        stage.settings.n_updates = from.saturating_add(UPDATES);
        stage.settings.chunk_size = UPDATES;
        stage.settings.checkpoint_interval = Some(UPDATES);
        stage.settings.log_interval = UPDATES;
        stage
            .criteria
            .retain(|criterion| criterion.test == CriterionTest::CheckpointValid);
    }
    short
}

fn started(threads: u16) -> ProcessStarted {
    ProcessStarted {
        host: String::new(),
        pid: std::process::id(),
        tinygate_version: env!("CARGO_PKG_VERSION").to_owned(),
        libtorch_version: LIBTORCH_VERSION.to_owned(),
        devices: Vec::new(),
        threads: u32::from(threads),
        cards: Vec::new(),
    }
}

/// Looks at the clock at every update.
#[derive(Default)]
struct Watch {
    quiet: bool,
    stages: Vec<Watched>,
    failures: Vec<String>,
}

struct Watched {
    stage: StageName,
    updates: Vec<Instant>,
    end: Option<Instant>,
    checkpoint: Option<String>,
    checkpoint_bytes: u64,
}

impl Observer for Watch {
    fn recorded(&mut self, record: &Record, _: &RunState) {
        if let Event::CheckpointWritten(written) = &record.event
            && let Some(watched) = self.last(&written.stage)
        {
            watched.checkpoint = Some(written.checkpoint.path.clone());
            watched.checkpoint_bytes = written.files.iter().map(|file| file.size).sum();
        }
        if let Event::ChunkFinished(finished) = &record.event
            && let Some(watched) = self.last(&finished.stage)
        {
            watched.end = Some(Instant::now());
        }
        if let Event::StageStarted(started) = &record.event
            && !self.quiet
        {
            output::say(&format!("{}: measuring {UPDATES} updates", started.stage));
        }
        if let Event::ChunkFailed(_) = &record.event {
            self.failures.push(describe(&record.event));
        }
    }

    fn progressed(&mut self, progress: &Progress) {
        if self.last(&progress.stage).is_none() {
            self.stages.push(Watched {
                stage: progress.stage.clone(),
                updates: Vec::new(),
                end: None,
                checkpoint: None,
                checkpoint_bytes: 0,
            });
        }
        if let Some(watched) = self.last(&progress.stage) {
            watched.updates.push(Instant::now());
        }
    }
}

impl Watch {
    fn last(&mut self, stage: &StageName) -> Option<&mut Watched> {
        self.stages
            .last_mut()
            .filter(|watched| watched.stage == *stage)
    }

    fn failure(&self) -> String {
        self.failures.last().cloned().unwrap_or_default()
    }

    fn costs(&self, folder: &std::path::Path) -> anyhow::Result<Vec<Cost>> {
        let cost = |watched: &Watched| {
            let path = watched
                .checkpoint
                .as_ref()
                .context("no checkpoint was written")?;
            let elements = match checkpoint::accept_for(Need::Weights, &folder.join(path), None) {
                Acceptance::Accepted(accepted) => accepted.elements,
                Acceptance::Rejected { reason } => bail!("the checkpoint was refused: {reason}"),
            };
            let last = watched.updates.last();
            let gate = watched.end.zip(last).map_or(0.0, |(end, last)| {
                end.saturating_duration_since(*last).as_secs_f64()
            });
            Ok(Cost {
                stage: watched.stage.clone(),
                elements,
                update: median(&watched.updates),
                gate,
                checkpoint_bytes: watched.checkpoint_bytes,
            })
        };
        self.stages.iter().map(cost).collect()
    }
}

/// Median time between updates after the warm-up.
fn median(updates: &[Instant]) -> f64 {
    let counted = updates.get(WARM_UP.saturating_sub(1)..).unwrap_or_default();
    let mut gaps: Vec<f64> = counted
        .windows(2)
        .filter_map(|pair| match pair {
            [a, b] => Some(b.saturating_duration_since(*a).as_secs_f64()),
            _ => None,
        })
        .collect();
    gaps.sort_by(f64::total_cmp);
    gaps.get(gaps.len() / 2).copied().unwrap_or(0.0)
}

fn estimates(created: &RunCreated, costs: &[Cost]) -> Vec<Estimate> {
    let estimate = |cost: &Cost| {
        let stage = created
            .policy
            .stages
            .iter()
            .find(|stage| stage.name == cost.stage)?;
        let given = created
            .init_from
            .iter()
            .find(|init| init.stage == stage.name);
        let done = given.map_or(0, |init| init.checkpoint.step.get());
        let updates = stage.settings.n_updates.saturating_sub(done);
        let gates = updates.div_ceil(stage.settings.chunk_size.max(1));
        Some(Estimate {
            stage: cost.stage.to_string(),
            criteria: asked(stage),
            numbers: cost.elements,
            checkpoint_bytes: cost.checkpoint_bytes,
            updates,
            seconds_per_update: cost.update,
            gates,
            seconds: cost.update * updates as f64 + cost.gate * gates as f64,
        })
    };
    costs.iter().filter_map(estimate).collect()
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

/// The most this process had in memory, in bytes, where the system says it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kilobytes.checked_mul(1024)
}
