//! The commands, one file each.

mod checkpoint;
mod completions;
mod config;
#[cfg(feature = "train")]
mod drive;
#[cfg(feature = "train")]
mod dry_run;
mod explain;
#[cfg(feature = "train")]
mod hardware;
mod log;
mod lost;
mod prepare;
mod prune;
#[cfg(feature = "train")]
mod ranks;
#[cfg(feature = "train")]
mod rate_change;
mod repair;
mod replay;
mod resume;
#[cfg(feature = "train")]
mod retrain;
mod run;
#[cfg(feature = "train")]
mod signals;
mod status;
mod transfer;
mod user;
mod walk;
#[cfg(feature = "train")]
mod worker;

use std::path::Path;

use anyhow::bail;
use tinygate::config::{ConfigError, Override};
use tinygate::events::{Record, StopReason};
use tinygate::machine::{Phase, StageState};
use tinygate::store::{LogFile, LogRecords, OpenError, Presence, ReadError, RunLock, presence};

use crate::args::{CheckpointCommand, Command, ConfigCommand};
use crate::exit::Exit;
use crate::output::Summary;

/// Does what the command line asks.
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

/// The events of a run directory or an exported file, read without a lock.
fn records(path: &Path) -> anyhow::Result<LogRecords> {
    expect_run(path)?;
    let log = LogFile::open(path).map_err(|error| {
        let place = format!("cannot read the log of `{}`", path.display());
        anyhow::Error::new(error).context(place)
    })?;
    Ok(log.records())
}

/// Refuses a directory without a run; a file is looked at by whoever reads it.
///
/// # Errors
/// Also where a process is about to write the first event.
fn expect_run(path: &Path) -> anyhow::Result<()> {
    if !path.is_dir() {
        return Ok(());
    }
    let remains = match presence(path)? {
        Presence::Log => return Ok(()),
        Presence::Remains => true,
        Presence::Nothing => false,
    };
    if let Some((pid, host)) = RunLock::holder(path) {
        bail!(
            "process {pid} on host `{host}` is starting a run in `{}`, which has no event yet\n\
             hint: try again in a moment",
            path.display()
        );
    }
    let place = format!("cannot read a run in `{}`", path.display());
    Err(anyhow::Error::new(OpenError::NotALog { remains }).context(place))
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

/// How to go on with a run that stopped for this reason.
fn way_on(dir: &Path, stage: &StageState) -> String {
    let resume = format!("`tinygate resume {} --retries N`", dir.display());
    let change = |key: &str, value: &str| {
        let (dir, stage) = (dir.display(), stage.name());
        format!("`tinygate resume {dir} --retries N --set {stage}.{key}={value}`")
    };
    let reason = match &stage.phase {
        Phase::Stopped { reason, .. } | Phase::Stopping { reason, .. } => Some(reason),
        Phase::Pending
        | Phase::Measuring
        | Phase::Recording { .. }
        | Phase::Training
        | Phase::Rewinding
        | Phase::Gating
        | Phase::Failed { .. }
        | Phase::Ending { .. }
        | Phase::Reopening { .. }
        | Phase::Passed { .. } => None,
    };
    match reason {
        Some(StopReason::RetriesExceeded { .. }) | None => {
            format!("{resume} allows N more failures")
        }
        Some(StopReason::NoRungApplies) => format!(
            "the ladder has nothing left to change: {} goes on with a rate of yours",
            change("learning_rate", "RATE")
        ),
        Some(StopReason::ExtensionsExceeded { .. }) => format!(
            "{resume} allows N more extensions of the target, {} sets it",
            change("n_updates", "UPDATES")
        ),
        Some(StopReason::ChunkFailuresExceeded { .. }) => {
            format!("mend what made the chunk fail, then {resume} tries it again")
        }
        Some(StopReason::OutOfMemoryAtFloor { .. }) => format!(
            "the smallest batch does not fit: free memory, then {resume} tries it again, or start a run with a \
             smaller model"
        ),
        Some(StopReason::CountersExhausted) => {
            "start a run from its best checkpoint with `tinygate run --init-from`".to_owned()
        }
    }
}

fn overrides(texts: &[String]) -> Result<Vec<Override>, ConfigError> {
    texts
        .iter()
        .map(|text| Override::parse("--set", text))
        .collect()
}

/// Milliseconds since 1970-01-01 UTC.
fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// What a build without the feature `train` answers to `run` and `resume`.
#[cfg(not(feature = "train"))]
fn no_trainer() -> anyhow::Error {
    anyhow::anyhow!(
        "this build has no trainer\nhint: build it with the feature `train` and libtorch; `make build` does both"
    )
}
