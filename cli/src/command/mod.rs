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
mod shared;
mod signals;
mod status;
mod transfer;
mod user;
mod walk;
#[cfg(feature = "train")]
mod worker;

use crate::args::{CheckpointCommand, Command, ConfigCommand};
use crate::exit::Exit;

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
