//! A run whose log this process holds open.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::NewRunError;
use super::process::{Group, now_ms};
use crate::controller::{ControlError, Controller, Ending, Fold, Host, Observer};
use crate::events::{Event, HeldOutBatches, ProcessStarted, RunCreated};
use crate::machine::RunState;
use crate::store::{AppendError, EventLog, Repair, Store};

/// Can be driven, and has the run's lock until it is closed or dropped.
pub struct Run {
    dir: PathBuf,
    // Before the store, so that it is dropped first.
    controller: Controller<'static>,
    store: Arc<Store>,
}

impl Run {
    pub(super) fn create(
        dir: &Path,
        created: RunCreated,
        group: &Group,
    ) -> Result<Run, NewRunError> {
        let store = Store::create(dir, &created.run).map_err(|source| NewRunError::Start {
            dir: dir.to_owned(),
            source,
        })?;
        let mut run = Run::over(dir, store, Fold::new())?;
        run.controller
            .record_fact(Event::RunCreated(Box::new(created)))?;
        run.record_fallback(group)?;
        Ok(run)
    }

    /// `fold` has taken every event of the log.
    pub(super) fn resume(
        dir: &Path,
        store: Store,
        repairs: Vec<Repair>,
        fold: Fold,
    ) -> Result<Run, ControlError> {
        let mut run = Run::over(dir, store, fold)?;
        run.controller
            .record_repairs(repairs.into_iter().map(Into::into))?;
        Ok(run)
    }

    fn over(dir: &Path, store: Store, fold: Fold) -> Result<Run, ControlError> {
        let store = Arc::new(store);
        let log: Arc<dyn EventLog> = Arc::<Store>::clone(&store);
        Ok(Run {
            dir: dir.to_owned(),
            controller: Controller::resume_shared(fold, log, dir, now_ms)?,
            store,
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn state(&self) -> &RunState {
        self.controller.state()
    }

    /// Which windows are held out for a measurement.
    pub fn held_out_batches(&self) -> HeldOutBatches {
        let created = self.state().created.as_ref();
        created.map_or(HeldOutBatches::Largest, |created| created.held_out_batches)
    }

    /// Records the decisions that the last process did not get to, up to the next chunk.
    ///
    /// # Errors
    /// A disk that fails, or a log that no run makes.
    pub fn catch_up(&mut self, observer: &mut dyn Observer) -> Result<(), ControlError> {
        self.controller.catch_up(observer)
    }

    /// Runs until the run ends or this process must. `started` is recorded first.
    ///
    /// # Errors
    /// A disk that fails, a trainer that is lost or reports what it must not.
    pub fn drive(
        &mut self,
        started: ProcessStarted,
        host: Host<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Ending, ControlError> {
        self.controller.run(started, host, observer)
    }

    /// Writes everything and brings both copies of the log to the same event.
    ///
    /// # Errors
    /// A disk that fails.
    pub fn close(self) -> Result<(), AppendError> {
        let Run {
            controller, store, ..
        } = self;
        drop(controller);
        // Nothing else shares it, so this is the last.
        Arc::into_inner(store).map_or(Ok(()), |store| store.close().map(drop))
    }

    pub(super) fn controller(&mut self) -> &mut Controller<'static> {
        &mut self.controller
    }

    pub(super) fn record_fallback(&mut self, group: &Group) -> Result<(), ControlError> {
        match &group.fallback {
            Some(granted) => self
                .controller
                .record_fact(Event::FallbackGranted(granted.clone())),
            None => Ok(()),
        }
    }
}
