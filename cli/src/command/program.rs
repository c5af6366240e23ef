//! Runs that a program trains: from a prepared or resumed run to its end. Needs no libtorch.

use std::sync::Arc;

use anyhow::Context;
use tinygate::config::Config;
use tinygate::controller::Host;
use tinygate::data::still::brightest;
use tinygate::run::{Group, Prepared, Resumable, Run, this_process};
use tinygate::trainer::{Patience, StopRequest};
use tinygate_external::{ProgramSetup, ProgramTrainer, RecordJudge};

use super::{ending, signals};
use crate::exit::Exit;
use crate::output::{self, Console, advised};
use crate::session::Session;

/// Creates a run and lets its program train it.
pub fn start(prepared: Prepared, session: &Session) -> anyhow::Result<Exit> {
    let stop = signals::listen(session.output.quiet).context("cannot listen to signals")?;
    let draft = prepared.draft();
    let config = draft.config().clone();
    if let Some(frames) = draft.frames() {
        let dataset = &draft.created().dataset;
        session.output.say_all(&output::dataset::lines(dataset));
        let warnings = output::dataset::warnings(dataset, brightest(frames));
        session.output.say_all(&warnings);
    }
    let mut run = prepared.create(&Group::alone())?;
    let console = Console::new(session.output.json, session.output.quiet);
    let exit = drive(&config, &mut run, &stop, console)?;
    run.close()?;
    Ok(exit)
}

/// Lets its program train a run whose log is open.
pub fn resume(resumed: Resumable, session: &Session, mut console: Console) -> anyhow::Result<Exit> {
    let stop = signals::listen(session.output.quiet).context("cannot listen to signals")?;
    let config = resumed.config().clone();
    let mut run = resumed.begin(&Group::alone(), &mut console, &mut |notice| {
        session.output.notice(&notice);
    })?;
    drive(&config, &mut run, &stop, console)
}

fn drive(
    config: &Config,
    run: &mut Run,
    stop: &Arc<StopRequest>,
    mut console: Console,
) -> anyhow::Result<Exit> {
    let setup = ProgramSetup {
        run: run.dir().to_owned(),
        command: config.trainer.command.clone(),
        directory: config.trainer.directory.clone(),
        config: config.to_json(),
    };
    let trainer = ProgramTrainer::new(setup).context("cannot prepare the trainer")?;
    let judge = RecordJudge::new(run.dir());
    // Ranks limit how long they wait for each other.
    let patience = Patience::new(config.no_progress_seconds)
        .with_floor(2 * u64::from(config.rank_timeout_seconds));
    let host = Host {
        trainer: &trainer,
        judge: &judge,
        patience,
        stop,
    };
    let ended = run.drive(this_process(), host, &mut console);
    trainer.finish();
    console.end_line();
    let ending = ended?;
    console.say_all(&console.summary().lines());
    ending::exit(run, ending, &console)
}

/// A launcher would start one controller per rank.
#[cfg(feature = "train")]
pub fn refuse_launcher(session: &Session) -> anyhow::Result<()> {
    match &session.job {
        None => Ok(()),
        Some(_) => Err(advised(
            "a launcher started this process, but the program of `trainer.command` has its own ranks",
            "start `tinygate` without a launcher, and put the launcher into `trainer.command`",
        )),
    }
}

#[cfg(not(feature = "train"))]
pub fn refuse_launcher(_: &Session) -> anyhow::Result<()> {
    Ok(())
}

/// Measuring a program is not implemented.
pub fn no_dry_run() -> anyhow::Error {
    advised(
        "`--dry-run` is not available yet with `trainer.kind = \"command\"`",
        "`tinygate config check` checks the config; start the run to measure it",
    )
}
