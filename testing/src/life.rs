//! The life of one process: a controller with a log and a scripted trainer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tinygate::controller::{ControlError, Controller, Ending, Host, Observer};
use tinygate::events::{Event, Record, Seq};
use tinygate::machine::rules::KNOWN;
use tinygate::machine::{KnownRules, RunState};
use tinygate::store::{AppendError, EventLog, MemoryLog};
use tinygate::trainer::{Channels, Patience, Progress, StopRequest, Trainer};

use crate::run::process;
use crate::script::Script;
use crate::trainer::{ScriptedJudge, ScriptedTrainer};

/// How a process ended, and the state at that time.
#[derive(Debug)]
pub struct Life {
    pub ending: Result<Ending, ControlError>,
    pub state: RunState,
}

/// A clock that advances by a second at each reading.
#[derive(Debug)]
pub struct Ticks(AtomicU64);

impl Ticks {
    pub const fn from(milliseconds: u64) -> Ticks {
        Ticks(AtomicU64::new(milliseconds))
    }

    pub fn read(&self) -> u64 {
        self.0.fetch_add(1000, Ordering::Relaxed)
    }
}

/// A host for a scripted run.
pub fn host<'a>(trainer: &'a dyn Trainer, stop: &'a StopRequest) -> Host<'a> {
    Host {
        trainer,
        judge: &ScriptedJudge,
        patience: Patience::new(None),
        stop,
    }
}

/// Opens a controller over `log`, records `facts`, and runs until the run ends or the process must.
///
/// # Errors
/// The log cannot be read or appended to before the run starts.
pub fn live(
    log: &dyn EventLog,
    directory: &Path,
    clock: &Ticks,
    facts: Vec<Event>,
    trainer: ScriptedTrainer,
    observer: &mut dyn Observer,
) -> Result<Life, ControlError> {
    let controller = Controller::open(log, directory, || clock.read())?;
    live_on(controller, facts, trainer, observer)
}

fn live_on(
    mut controller: Controller<'_>,
    facts: Vec<Event>,
    trainer: ScriptedTrainer,
    observer: &mut dyn Observer,
) -> Result<Life, ControlError> {
    for fact in facts {
        if let Event::SettingChanged(change) = fact {
            controller.record_changes([change])?;
        } else if let Event::PruneRequested(asked) = fact {
            controller.prune(asked, observer)?;
        } else {
            controller.record_fact(fact)?;
        }
    }
    let pid = 1000 + controller.state().process.starts;
    let stop = Arc::new(StopRequest::default());
    let (channels, commanded, reporting) = Channels::new(Arc::clone(&stop));
    let ending = std::thread::scope(|scope| {
        scope.spawn(move || trainer.serve(&commanded, &reporting));
        // Dropping this closes the channels, which ends the trainer's thread.
        let ends = channels;
        controller.run(process(pid), host(&ends, &stop), observer)
    });
    Ok(Life {
        ending,
        state: controller.state().clone(),
    })
}

/// Continues a run from `before` until it ends, and returns all its events.
///
/// # Errors
/// Those of [`live`] and of the run.
pub fn lived(before: &[Record], facts: Vec<Event>, script: Script) -> Result<Lived, ControlError> {
    lived_with_rules(KNOWN, before, facts, script)
}

/// As [`lived`], with other rules than those of this build.
///
/// # Errors
/// As [`lived`].
pub fn lived_with_rules(
    known: KnownRules,
    before: &[Record],
    facts: Vec<Event>,
    script: Script,
) -> Result<Lived, ControlError> {
    let events = before
        .iter()
        .map(|record| (record.time_ms, record.event.clone()));
    let log = MemoryLog::with(events);
    let last = before.last().map_or(0, |record| record.time_ms);
    let clock = Ticks::from(last.saturating_add(1000));
    // It only contains the links to passed stages' checkpoints.
    let directory = tempfile::tempdir().map_err(no_directory)?;
    let controller = Controller::open_with_rules(known, &log, directory.path(), || clock.read())?;
    let life = live_on(controller, facts, ScriptedTrainer::new(script), &mut Quiet)?;
    Ok(Lived {
        ending: life.ending?,
        state: life.state,
        records: log.records(),
    })
}

/// A run that has ended.
#[derive(Clone, Debug)]
pub struct Lived {
    pub records: Vec<Record>,
    pub state: RunState,
    pub ending: Ending,
}

fn no_directory(source: std::io::Error) -> ControlError {
    ControlError::Append(AppendError::Io {
        head: Seq::FIRST,
        source,
    })
}

/// An observer that does nothing.
#[derive(Clone, Copy, Debug)]
pub struct Quiet;

impl Observer for Quiet {
    fn recorded(&mut self, _record: &Record, _state: &RunState) {}
    fn progressed(&mut self, _progress: &Progress) {}
}
