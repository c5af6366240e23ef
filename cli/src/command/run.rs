//! `run`: starts a run in a new directory.

use std::path::{Path, PathBuf};

use anyhow::bail;
use tinygate::config::{Config, TrainerKind};
use tinygate::events::{Parent, StageName};
use tinygate::run::{
    self, AnyModel, Draft, GivenCheckpoint, Models, NewRun, NewRunError, Notice, Prepared, Resume,
    TinyWorlds,
};

use super::shared::overrides;
#[cfg(feature = "train")]
use super::{drive, dry_run, job, worker};
use super::{program, resume, user};
use crate::args::RunArgs;
use crate::exit::Exit;
use crate::output::advised;
use crate::session::{Output, Session};

#[cfg(feature = "train")]
pub fn perform(args: &RunArgs) -> anyhow::Result<Exit> {
    let session = Session {
        output: output(args),
        job: job::of_environment()?,
        allow_fallback: args.allow_single_gpu_fallback,
    };
    if session.is_follower() {
        return follow(args, &session);
    }
    let existing = args.dir.as_ref().filter(|dir| run::exists(dir));
    if let Some(dir) = existing.filter(|_| args.or_resume) {
        return resume_existing(args, dir, &session);
    }
    let ready = prepare(args).and_then(|ready| {
        let config = ready.draft().config();
        if is_program(config) {
            program::refuse_launcher(&session)?;
            return Ok((ready, 1));
        }
        let ranks = run::builtin::ranks_of_new_run(config, session.job.as_ref())?;
        Ok((ready, ranks))
    });
    let (ready, ranks) = match ready {
        Ok(ready) => ready,
        Err(error) => {
            job::turn_away(&session, Some(&error));
            return Err(error);
        }
    };
    let program = is_program(ready.draft().config());
    match (ready, program) {
        (Ready::Run(prepared), true) if !args.dry_run => program::start(prepared, &session),
        (Ready::Run(prepared), false) if !args.dry_run => drive::start(prepared, ranks, &session),
        (Ready::Run(_) | Ready::Measured(_), true) => Err(program::no_dry_run()),
        (ready @ (Ready::Run(_) | Ready::Measured(_)), false) => {
            dry_run::perform(ready.draft(), ranks, &session)
        }
    }
}

#[cfg(not(feature = "train"))]
pub fn perform(args: &RunArgs) -> anyhow::Result<Exit> {
    let session = Session {
        output: output(args),
    };
    let existing = args.dir.as_ref().filter(|dir| run::exists(dir));
    if let Some(dir) = existing.filter(|_| args.or_resume) {
        return resume_existing(args, dir, &session);
    }
    let ready = prepare(args)?;
    match (is_program(ready.draft().config()), ready) {
        (false, _) => Err(super::shared::no_trainer()),
        (true, Ready::Run(prepared)) if !args.dry_run => program::start(prepared, &session),
        (true, Ready::Run(_) | Ready::Measured(_)) => Err(program::no_dry_run()),
    }
}

/// A request without faults.
enum Ready {
    Run(Prepared),
    /// Only measured, since it has no directory.
    Measured(Draft),
}

impl Ready {
    fn draft(&self) -> &Draft {
        match self {
            Ready::Run(prepared) => prepared.draft(),
            Ready::Measured(draft) => draft,
        }
    }
}

fn is_program(config: &Config) -> bool {
    config.trainer.kind == TrainerKind::Command
}

const fn output(args: &RunArgs) -> Output {
    Output {
        json: args.json,
        quiet: args.quiet,
    }
}

fn prepare(args: &RunArgs) -> anyhow::Result<Ready> {
    let mut tell = |notice| output(args).notice(&notice);
    let (config, parent) = config(args, &mut tell)?;
    let given = args.init_from.iter();
    let request = NewRun {
        init_from: given.map(|text| given_checkpoint(text, &config)).collect(),
        config,
        parent,
        stage: args.stage.as_deref().map(StageName::new),
        fresh_optimizer: args.fresh_optimizer,
        allow_other_settings: args.allow_other_settings,
    };
    let models: &dyn Models = if is_program(&request.config) {
        &AnyModel
    } else {
        &TinyWorlds
    };
    let ready = match &args.dir {
        Some(dir) => request.prepare(dir, models, &mut tell).map(Ready::Run),
        None => request.draft(models, &mut tell).map(Ready::Measured),
    };
    ready.map_err(with_option)
}

/// The error after the option that it is about.
fn with_option(error: NewRunError) -> anyhow::Error {
    let option = match &error {
        NewRunError::UnknownStage { stage, .. } => format!("`--stage {stage}`"),
        NewRunError::Given(_) => "`--init-from`".to_owned(),
        NewRunError::FreshOptimizerUnused => "`--fresh-optimizer`".to_owned(),
        NewRunError::Clock { .. }
        | NewRunError::Start { .. }
        | NewRunError::DirectoryIsFile { .. }
        | NewRunError::NotFound { .. }
        | NewRunError::UnknownModel(_)
        | NewRunError::UpstreamMissing { .. }
        | NewRunError::Setup(_)
        | NewRunError::Control(_) => return error.into(),
    };
    anyhow::Error::new(error).context(option)
}

/// The config of the command line, and the run it was taken from.
fn config(
    args: &RunArgs,
    tell: &mut dyn FnMut(Notice),
) -> anyhow::Result<(Config, Option<Parent>)> {
    let changes = overrides(&args.set)?;
    let given = match &args.config {
        Some(path) => Some(Config::load(path, &changes)?.config),
        None => None,
    };
    match (&args.next_cycle_of, given) {
        (Some(run), given) => {
            let (config, parent) = run::next_cycle(run, given.as_ref(), &changes, tell)?;
            Ok((config, Some(parent)))
        }
        (None, Some(config)) => Ok((config, None)),
        (None, None) => bail!(advised("no config is given", "name a TOML file")),
    }
}

/// `[STAGE=]CHECKPOINT`. A path may have an equals sign in it.
fn given_checkpoint(text: &str, config: &Config) -> GivenCheckpoint {
    match text.split_once('=') {
        Some((stage, path))
            if config.stage(&StageName::new(stage)).is_some() || !Path::new(text).exists() =>
        {
            GivenCheckpoint {
                stage: Some(StageName::new(stage)),
                path: PathBuf::from(path),
            }
        }
        Some(_) | None => GivenCheckpoint {
            stage: None,
            path: PathBuf::from(text),
        },
    }
}

/// Takes part in the run as a rank that is not 0.
#[cfg(feature = "train")]
fn follow(args: &RunArgs, session: &Session) -> anyhow::Result<Exit> {
    // A run that is resumed has the config of its log; the one given here may be another, or missing.
    let config = match config(args, &mut |_| {}) {
        Ok((config, _)) => Some(config),
        Err(_) if args.or_resume => None,
        Err(error) => return Err(error),
    };
    if config.as_ref().is_some_and(is_program) {
        program::refuse_launcher(session)?;
    }
    let own = config.as_ref().map(|config| (config, !args.or_resume));
    worker::join(session, own, &args.set)
}

/// Resumes the run in the directory, as `--or-resume` asks.
fn resume_existing(args: &RunArgs, dir: &Path, session: &Session) -> anyhow::Result<Exit> {
    session
        .output
        .say("resuming the run in the directory, by the config of its log");
    say_differences(args, dir, session.output);
    let request = overrides(&args.set).map(|changes| Resume {
        changes,
        repeated: true,
        ..Resume::new(dir, &user::name(), resume::WHY)
    });
    resume::carry_out(request.map_err(Into::into), session)
}

/// Says where the given config differs from the one in the log. A config that cannot be read is not
/// needed, since the log has its own.
fn say_differences(args: &RunArgs, dir: &Path, output: Output) {
    let Some(path) = &args.config else {
        return;
    };
    let changes = overrides(&args.set).unwrap_or_default();
    match Config::load(path, &changes) {
        Ok(given) => {
            for difference in run::differences(dir, &given.config, &changes) {
                output.notice(&Notice::LogConfigUsed {
                    run: dir.to_owned(),
                    difference,
                });
            }
        }
        Err(error) => {
            let first = error.to_string();
            let first = first.lines().next().unwrap_or_default();
            output.say(&format!(
                "warning: the config is not used, and cannot be read: {first}"
            ));
        }
    }
}
