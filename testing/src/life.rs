//! One process's life: a controller over a log, with a scripted trainer beside it.

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

/// How a life ended, and what was known then.
#[derive(Debug)]
pub struct Life {
    pub ending: Result<Ending, ControlError>,
    pub state: RunState,
}

/// A clock that goes on by a second whenever it is read.
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

/// What a controller drives a scripted run with.
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
/// A log that cannot be read or appended to before the run goes on.
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
        // The channels end with this, and the trainer's thread with them.
        let ends = channels;
        controller.run(process(pid), host(&ends, &stop), observer)
    });
    Ok(Life {
        ending,
        state: controller.state().clone(),
    })
}

/// Every event of a run that goes on from `before` until it ends by itself.
///
/// # Errors
/// What [`live`] and the run say.
pub fn lived(before: &[Record], facts: Vec<Event>, script: Script) -> Result<Lived, ControlError> {
    lived_by(KNOWN, before, facts, script)
}

/// [`lived`], where other rules are known than this build's.
///
/// # Errors
/// As there.
pub fn lived_by(
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
    // Nothing is kept in it but the links to passed stages' checkpoints.
    let directory = tempfile::tempdir().map_err(no_directory)?;
    let controller = Controller::open_with_rules(known, &log, directory.path(), || clock.read())?;
    let life = live_on(controller, facts, ScriptedTrainer::new(script), &mut Quiet)?;
    Ok(Lived {
        ending: life.ending?,
        state: life.state,
        records: log.records(),
    })
}

/// A run at its end.
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

/// Looks at nothing.
#[derive(Clone, Copy, Debug)]
pub struct Quiet;

impl Observer for Quiet {
    fn recorded(&mut self, _record: &Record, _state: &RunState) {}
    fn progressed(&mut self, _progress: &Progress) {}
}
