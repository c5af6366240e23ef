//! The commands, one file each.

mod checkpoint;
mod completions;
mod config;
#[cfg(feature = "train")]
mod drive;
#[cfg(feature = "train")]
mod dry_run;
mod ending;
mod explain;
#[cfg(feature = "train")]
mod job;
mod log;
mod program;
mod prune;
mod repair;
mod replay;
mod resume;
#[cfg(feature = "train")]
mod retrain;
mod run;
mod signals;
mod status;
mod transfer;
mod user;
mod walk;
#[cfg(feature = "train")]
mod worker;

use tinygate::config::{ConfigError, Override};
use tinygate::events::Record;
use tinygate::store::ReadError;

use crate::args::{CheckpointCommand, Command, ConfigCommand};
use crate::exit::Exit;
use crate::output::Summary;
#[cfg(not(feature = "train"))]
use crate::output::advised;

/// Runs the command of the command line.
pub fn perform(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(args) => run::perform(&args),
        Command::Resume(args) => resume::perform(&args),
        Command::Replay(args) => replay::perform(&args),
        Command::Status(args) => status::perform(&args),
        Command::Log(args) => log::perform(&args),
        Command::Explain(args) => explain::perform(&args),
        Command::Export(args) => transfer::export(&args),
        Command::Import(args) => transfer::import(&args),
        Command::Repair(args) => repair::perform(&args),
        Command::Prune(args) => prune::perform(&args),
        Command::Checkpoint(CheckpointCommand::Verify(args)) => checkpoint::verify(&args),
        Command::Checkpoint(CheckpointCommand::Show(args)) => checkpoint::show(&args),
        Command::Config(ConfigCommand::Init(args)) => config::init(&args),
        Command::Config(ConfigCommand::Check(args)) => config::check(&args),
        Command::Config(ConfigCommand::Show(args)) => config::show(&args),
        #[cfg(feature = "train")]
        Command::Worker => worker::perform(),
        Command::Completions(args) => completions::perform(&args),
    }
}

/// Folds the events up to `last`, or all of them.
///
/// # Errors
/// The first fault of the log before `last`.
fn fold(
    records: impl Iterator<Item = Result<Record, ReadError>>,
    last: Option<u64>,
) -> Result<Summary, ReadError> {
    let mut summary = Summary::empty();
    for record in records {
        let record = record?;
        if last.is_some_and(|last| last < record.seq.get()) {
            break;
        }
        summary.add(&record);
    }
    Ok(summary)
}

fn overrides(texts: &[String]) -> Result<Vec<Override>, ConfigError> {
    texts
        .iter()
        .map(|text| Override::parse("--set", text))
        .collect()
}

/// The answer of a build without the feature `train` to a run of the built-in trainer.
#[cfg(not(feature = "train"))]
fn no_trainer() -> anyhow::Error {
    advised(
        "this build has no trainer",
        "build it with the feature `train` and libtorch; `make build` does both",
    )
}
