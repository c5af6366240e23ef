//! From a prepared or resumed run to its end, on the screen.

use std::sync::Arc;

use anyhow::Context;
use tinygate::config::Config;
use tinygate::data::Frames;
use tinygate::data::still::brightest;
use tinygate::run::builtin::{
    BuiltinTrainer, Formed, GroupRequest, Permission, TrainerSetup, form_group,
};
use tinygate::run::{Prepared, Resumable, Run};

use super::{ending, signals};
use crate::exit::Exit;
use crate::output::{self, Console};
use crate::session::Session;

/// Creates a run and trains it.
pub fn start(prepared: Prepared, ranks: u32, session: &Session) -> anyhow::Result<Exit> {
    let draft = prepared.draft();
    let permission = session.permission(draft.config());
    let frames = with_frames(draft.frames())?;
    let formed = form(draft.config(), frames, ranks, permission, session)?;
    let stop = signals::listen(session.output.quiet).context("cannot listen to signals")?;
    let setup = TrainerSetup {
        directory: prepared.dir().to_owned(),
        config: draft.config().clone(),
        frames: Arc::clone(frames),
        held_out: draft.created().held_out_batches,
        stop: Arc::clone(&stop),
    };
    let trainer = BuiltinTrainer::start(setup, formed)?;
    if stop.requested().is_some() {
        return Ok(Exit::Interrupted);
    }
    let read = output::dataset::lines(&draft.created().dataset);
    let warnings = output::dataset::warnings(&draft.created().dataset, brightest(frames));
    let mut run = prepared.create(trainer.group())?;
    session.output.say_all(&read);
    session.output.say_all(&warnings);
    let console = Console::new(session.output.json, session.output.quiet);
    let exit = drive(trainer, &mut run, console)?;
    run.close()?;
    Ok(exit)
}

/// Trains a run whose log is open.
pub fn resume(resumed: Resumable, session: &Session, mut console: Console) -> anyhow::Result<Exit> {
    let permission = if resumed.fell_back() {
        Permission::Used
    } else {
        session.permission(resumed.config())
    };
    let config = resumed.config();
    let frames = with_frames(resumed.frames())?;
    let formed = form(config, frames, resumed.ranks(), permission, session)?;
    let stop = signals::listen(session.output.quiet).context("cannot listen to signals")?;
    let setup = TrainerSetup {
        directory: resumed.run().dir().to_owned(),
        config: config.clone(),
        frames: Arc::clone(frames),
        held_out: resumed.run().held_out_batches(),
        stop: Arc::clone(&stop),
    };
    let trainer = BuiltinTrainer::start(setup, formed)?;
    if stop.requested().is_some() {
        return Ok(Exit::Interrupted);
    }
    let mut run = resumed.begin(trainer.group(), &mut console, &mut |notice| {
        session.output.notice(&notice);
    })?;
    drive(trainer, &mut run, console)
}

/// The frames of a run, which the built-in trainer always needs.
pub fn with_frames(frames: Option<&Arc<Frames>>) -> anyhow::Result<&Arc<Frames>> {
    frames.context("the built-in trainer needs frames, but the config has no `data.path`")
}

/// Forms the group of ranks that train.
pub fn form(
    config: &Config,
    frames: &Frames,
    ranks: u32,
    permission: Permission,
    session: &Session,
) -> anyhow::Result<Formed> {
    let request = group_request(ranks, permission, session)?;
    let formed = form_group(config, frames, request, &mut |notice| {
        session.output.notice(&notice);
    })?;
    Ok(formed)
}

/// A group that this process leads.
pub fn group_request(
    ranks: u32,
    permission: Permission,
    session: &Session,
) -> anyhow::Result<GroupRequest> {
    Ok(GroupRequest {
        ranks,
        job: session.job.clone(),
        program: std::env::current_exe().context("cannot find this program to start ranks with")?,
        permission,
    })
}

fn drive(trainer: BuiltinTrainer, run: &mut Run, mut console: Console) -> anyhow::Result<Exit> {
    let ended = trainer.drive(run, &mut console);
    console.end_line();
    let ending = ended?;
    console.say_all(&console.summary().lines());
    ending::exit(run, ending, &console)
}
