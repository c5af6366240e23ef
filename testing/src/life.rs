//! One process's life: a controller over a log, with a scripted trainer beside it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use tinygate::controller::{ControlError, Controller, Ending, Observer, Progress, Trainer};
use tinygate::events::{Event, Record};
use tinygate::machine::RunState;
use tinygate::store::EventLog;

use crate::run::process;
use crate::trainer::ScriptedTrainer;

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
    let mut controller = Controller::open(log, directory, || clock.read())?;
    for fact in facts {
        controller.record_fact(fact)?;
    }
    let pid = 1000 + controller.state().process.starts;
    let (commands, commanded) = crossbeam_channel::unbounded();
    let (reporting, reports) = crossbeam_channel::unbounded();
    let ending = std::thread::scope(|scope| {
        scope.spawn(move || trainer.serve(&commanded, &reporting));
        // The channels end with this, and the trainer's thread with them.
        let ends = Trainer { commands, reports };
        controller.run(process(pid), &ends, observer)
    });
    Ok(Life {
        ending,
        state: controller.state().clone(),
    })
}

/// Looks at nothing.
#[derive(Clone, Copy, Debug)]
pub struct Quiet;

impl Observer for Quiet {
    fn recorded(&mut self, _record: &Record, _state: &RunState) {}
    fn progressed(&mut self, _progress: &Progress) {}
}
