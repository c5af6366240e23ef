//! The thread that owns libtorch: commands in, reports out, over channels.
//!
//! A command says which chunk to train from which checkpoint, and the actor reports
//! what happened. It decides nothing: whether a result is good, where to continue and
//! at which rate is decided before the next command. It reads a clock for throughput
//! and for flushing metrics, and writes two kinds of files: checkpoints and pictures.
//!
//! A session carries out commands. It has four independent parts: the data as batches,
//! the run's directory, the trainers of stages, and the other ranks.
//!
//! Invariant: what it trains is a function of the command, the config and the
//! data; a chunk that is interrupted anywhere and resumed from its newest
//! checkpoint gives the same weights and the same samples.

mod batches;
mod chunk;
mod directory;
mod failure;
pub mod fit;
mod measure;
mod metrics;
mod reports;
mod samples;
mod scores;
mod session;
mod stages;
mod weights;
pub mod worker;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use std::sync::Arc;

use crossbeam_channel::Receiver;

use crate::data::WindowError;
use crate::trainer::{Channels, TrainerCommand};
use failure::{Failure, Subject};
use reports::Reports;
use session::Session;

pub use session::ActorSetup;

/// Starts the actor. It ends when the channel of commands closes.
///
/// # Errors
/// Data too small for a window of the config, or a thread that cannot be started.
pub fn spawn(setup: ActorSetup) -> Result<(Channels, JoinHandle<()>), SpawnError> {
    let (channels, commands, reports) = Channels::new(Arc::clone(&setup.stop));
    let threads = setup.threads;
    let session = Session::new(setup)?;
    let thread = std::thread::Builder::new()
        .name("tinygate-train".to_owned())
        .spawn(move || {
            super::use_threads(threads);
            serve(session, &commands, &Reports::new(reports));
        })
        .map_err(SpawnError::Thread)?;
    Ok((channels, thread))
}

#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error(transparent)]
    Windows(#[from] WindowError),
    #[error("the training thread cannot be started: {0}")]
    Thread(#[source] std::io::Error),
}

fn serve(mut session: Session, commands: &Receiver<TrainerCommand>, reports: &Reports) {
    for command in commands {
        let subject = Subject::of(&command);
        // libtorch and the file formats return errors. A panic is a bug, which fails only the chunk.
        let done = catch_unwind(AssertUnwindSafe(|| session.perform(&command, reports)));
        let failure = match done {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => failure,
            Err(panic) => Failure::Panicked(panic_text(panic.as_ref())),
        };
        let failure = session.recover(failure);
        for report in failure.reports(&subject, session.step()) {
            if reports.send(report).is_err() {
                return;
            }
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests;
