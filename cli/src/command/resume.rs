//! `resume`: continues a run from its log.

use tinygate::config::TrainerKind;
use tinygate::run::{Opened, Resumable, Resume, ResumeError, Run};

use super::shared::overrides;
#[cfg(feature = "train")]
use super::{drive, job, worker};
use super::{program, user};
use crate::args::ResumeArgs;
use crate::exit::Exit;
use crate::output::{Console, Summary};
use crate::session::{Output, Session};

/// Why a setting changes, in the log.
pub const WHY: &str = "command line";

pub fn perform(args: &ResumeArgs) -> anyhow::Result<Exit> {
    let session = Session {
        output: Output {
            json: args.json,
            quiet: args.quiet,
        },
        #[cfg(feature = "train")]
        job: job::of_environment()?,
        #[cfg(feature = "train")]
        allow_fallback: args.allow_single_gpu_fallback,
    };
    #[cfg(feature = "train")]
    if session.is_follower() {
        return worker::join(&session, None, &args.set);
    }
    let request = overrides(&args.set).map(|changes| Resume {
        retries: args.retries,
        changes,
        give_up: args.give_up,
        ..Resume::new(&args.dir, &user::name(), WHY)
    });
    carry_out(request.map_err(Into::into), &session)
}

/// Resumes a run as rank 0. Where it does not train, it sends the other ranks away.
pub fn carry_out(request: anyhow::Result<Resume>, session: &Session) -> anyhow::Result<Exit> {
    let opened = request.and_then(|request| open(&request, session));
    let done = match opened {
        Ok((Opened::Unfinished(resumed), console)) => {
            match (
                resumed.config().trainer.kind,
                program::refuse_launcher(session),
            ) {
                (TrainerKind::BuiltIn, _) => return train(*resumed, session, console),
                (TrainerKind::Command, Ok(())) => {
                    return program::resume(*resumed, session, console);
                }
                (TrainerKind::Command, Err(error)) => Err(error),
            }
        }
        Ok((Opened::Finished(run), console)) => finish(*run, session, console),
        Err(error) => Err(error),
    };
    #[cfg(feature = "train")]
    job::turn_away(session, done.as_ref().err());
    done
}

fn open(request: &Resume, session: &Session) -> anyhow::Result<(Opened, Console)> {
    let output = session.output;
    let mut summary = Summary::empty();
    let opened = request
        .open(&mut |record| summary.add(record), &mut |notice| {
            output.notice(&notice);
        })
        .map_err(with_option)?;
    let console = Console::continuing(output.json, output.quiet, summary);
    Ok((opened, console))
}

/// The error after the option that it is about.
fn with_option(error: ResumeError) -> anyhow::Error {
    let of_retries = matches!(
        error,
        ResumeError::RetriesOfFinishedRun | ResumeError::RetriesWithoutStop
    );
    let error = anyhow::Error::new(error);
    if of_retries {
        error.context("`--retries`")
    } else {
        error
    }
}

#[cfg(feature = "train")]
fn train(resumed: Resumable, session: &Session, console: Console) -> anyhow::Result<Exit> {
    drive::resume(resumed, session, console)
}

#[cfg(not(feature = "train"))]
fn train(_: Resumable, _: &Session, _: Console) -> anyhow::Result<Exit> {
    Err(super::shared::no_trainer())
}

fn finish(mut run: Run, session: &Session, mut console: Console) -> anyhow::Result<Exit> {
    run.catch_up(&mut console)?;
    let output = session.output;
    output.say("the run has finished; there is nothing to continue");
    output.say_all(&console.summary().lines());
    Ok(Exit::Done)
}
