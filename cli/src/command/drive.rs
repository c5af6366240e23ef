//! From a prepared run to its end: log, trainer, controller, screen.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tinygate::config::Config;
use tinygate::controller::{Controller, Ending, Host};
use tinygate::data::Frames;
use tinygate::events::{Event, HeldOutBatches, ProcessStarted};
use tinygate::machine::RunState;
use tinygate::store::{Store, host_name};
use tinygate::train::actor::{self, ActorSetup};
use tinygate::trainer::{Channels, FileJudge, NoProgress, Patience, StopRequest};

use super::prepare::{LIBTORCH_VERSION, Prepared};
use super::ranks::Gathered;
use super::resume::Continued;
use super::{hardware, now_ms, rate_change, signals, way_on};
use crate::exit::Exit;
use crate::output::{self, Console};

/// Begins a run: its log, its first events, then training.
pub fn begin(
    dir: &Path,
    prepared: Prepared,
    gathered: Gathered,
    json: bool,
    quiet: bool,
) -> anyhow::Result<Exit> {
    let fallback = gathered.fallback.clone();
    let held_out = prepared.created.held_out_batches;
    let warnings = prepared.warnings();
    let process = Process::start(
        dir,
        &prepared.config,
        prepared.frames,
        held_out,
        gathered,
        quiet,
    )?;
    if process.stop.requested().is_some() {
        return Ok(Exit::Interrupted);
    }
    let store = Store::create(dir, &prepared.created.run)
        .with_context(|| format!("cannot start a run in `{}`", dir.display()))?;
    if !quiet {
        let read = output::dataset::lines(&prepared.created.dataset);
        read.iter()
            .chain(&warnings)
            .for_each(|line| output::say(line));
    }
    let mut controller = Controller::open(&store, dir, now_ms)?;
    controller.record_fact(Event::RunCreated(Box::new(prepared.created)))?;
    if let Some(granted) = fallback {
        controller.record_fact(Event::FallbackGranted(granted))?;
    }
    let exit = process.drive(dir, controller, Console::new(json, quiet))?;
    store.close()?;
    Ok(exit)
}

/// Continues a run whose log is open. The caller closes the log.
pub fn resume(
    dir: &Path,
    mut controller: Controller<'_>,
    continued: Continued,
    gathered: Gathered,
    mut console: Console,
    quiet: bool,
) -> anyhow::Result<Exit> {
    let fallback = gathered.fallback.clone();
    let created = controller.state().created.as_ref();
    let held_out = created.map_or(HeldOutBatches::Largest, |created| created.held_out_batches);
    let process = Process::start(
        dir,
        &continued.config,
        continued.frames,
        held_out,
        gathered,
        quiet,
    )?;
    if process.stop.requested().is_some() {
        return Ok(Exit::Interrupted);
    }
    for event in continued.given_up {
        controller.record_fact(event)?;
    }
    controller.catch_up(&mut console)?;
    if let Some(granted) = fallback {
        controller.record_fact(Event::FallbackGranted(granted))?;
    }
    let told = rate_change::describe(controller.state(), &continued.changes);
    if let Some(line) = told.filter(|_| !quiet) {
        output::say(&line);
    }
    controller.record_changes(continued.changes)?;
    process.drive(dir, controller, console)
}

/// The trainer of this process, ready and idle.
struct Process {
    started: ProcessStarted,
    stop: Arc<StopRequest>,
    trainer: Channels,
    patience: Patience,
    thread: std::thread::JoinHandle<()>,
}

impl Process {
    fn start(
        dir: &Path,
        config: &Config,
        frames: Arc<Frames>,
        held_out: HeldOutBatches,
        gathered: Gathered,
        quiet: bool,
    ) -> anyhow::Result<Process> {
        let started = gathered.process_started();
        let Gathered {
            ranks,
            device,
            threads,
            warning,
            ..
        } = gathered;
        if let Some(warning) = warning.filter(|_| !quiet) {
            output::say(&warning);
        }
        let stop = signals::listen(quiet).context("cannot listen to signals")?;
        let (trainer, thread) = actor::spawn(ActorSetup {
            directory: dir.to_owned(),
            config: config.clone(),
            frames,
            device,
            threads,
            stop: Arc::clone(&stop),
            ranks,
            held_out,
        })?;
        Ok(Process {
            started,
            stop,
            trainer,
            // Ranks wait for each other, and say themselves when that takes too long.
            patience: Patience::new(config.no_progress_seconds)
                .with_floor(2 * u64::from(config.rank_timeout_seconds)),
            thread,
        })
    }

    fn drive(
        self,
        dir: &Path,
        mut controller: Controller<'_>,
        mut console: Console,
    ) -> anyhow::Result<Exit> {
        let judge = FileJudge::new(dir);
        let host = Host {
            trainer: &self.trainer,
            judge: &judge,
            patience: self.patience,
            stop: &self.stop,
        };
        let ended = controller.run(self.started, host, &mut console);
        console.end_line();
        // Without its channels the trainer ends at the next update; libtorch must not
        // be at work when the process goes down.
        drop(self.trainer);
        // A trainer that hangs is never joined.
        let hangs = matches!(ended, Ok(Ending::NoProgress(_)));
        let trained = if hangs { Ok(()) } else { self.thread.join() };
        let ending = ended?;
        if trained.is_err() {
            tracing::warn!("the training thread ended in a panic");
        }
        let summary = console.summary();
        console.say_all(&summary.lines());
        exit(dir, ending, &console, summary.state())
    }
}

fn exit(dir: &Path, ending: Ending, console: &Console, state: &RunState) -> anyhow::Result<Exit> {
    let resume = format!("`tinygate resume {}`", dir.display());
    match ending {
        Ending::Finished => Ok(Exit::Done),
        Ending::Stopped => {
            let stage = state.stage();
            let stage = stage.context("bug: a stage stopped, and the log names none\nhint: `tinygate replay` checks the log")?;
            console.say(&way_on(dir, stage));
            Ok(Exit::Refused)
        }
        Ending::Interrupted { .. } => {
            console.say(&format!("go on with {resume}"));
            Ok(Exit::Interrupted)
        }
        Ending::NoProgress(NoProgress {
            silence_seconds,
            limit_seconds,
        }) => {
            console.say(&format!(
                "the trainer made no progress for {silence_seconds} s, {limit_seconds} s are allowed"
            ));
            console.say(&format!("continue with {resume}"));
            Ok(Exit::NoProgress)
        }
        Ending::Environment { detail } => {
            anyhow::bail!("{detail}\nhint: nothing is lost; mend it and go on with {resume}")
        }
    }
}

impl Gathered {
    /// This process and its ranks, as the log knows them.
    pub fn process_started(&self) -> ProcessStarted {
        // Ranks on other machines are of the same kind: they compute the same bits, which is checked.
        let device = |rank: u32| {
            let place = (rank % self.local_size.max(1)) as usize;
            if self.device.is_cuda() && 1 < self.ranks.size() {
                tch::Device::Cuda(place)
            } else {
                self.device
            }
        };
        let devices: Vec<tch::Device> = (0..self.ranks.size()).map(device).collect();
        ProcessStarted {
            host: host_name(),
            pid: std::process::id(),
            tinygate_version: env!("CARGO_PKG_VERSION").to_owned(),
            libtorch_version: LIBTORCH_VERSION.to_owned(),
            devices: devices.iter().copied().map(hardware::device).collect(),
            threads: u32::from(self.threads),
            cards: devices.into_iter().map(hardware::card).collect(),
        }
    }
}
