//! `run`: a new run in a new directory.

#[cfg(feature = "train")]
use crate::args::ResumeArgs;
use crate::args::RunArgs;
use crate::exit::Exit;
#[cfg(feature = "train")]
use crate::output;

use super::prepare;

#[cfg(feature = "train")]
pub fn perform(args: &RunArgs) -> anyhow::Result<Exit> {
    use super::{drive, dry_run, ranks, worker};
    let job = ranks::job()?;
    if let Some(job) = job.as_ref().filter(|job| 0 < job.rank) {
        // A run that is resumed has the config of its log; the one named here may be another, or gone.
        let config = match prepare::config(args) {
            Ok((config, _)) => Some(config),
            Err(_) if args.or_resume => None,
            Err(error) => return Err(error),
        };
        let own = config.as_ref().map(|config| (config, !args.or_resume));
        return worker::join(job, own, &args.set, args.quiet);
    }
    if let Some(dir) = args
        .dir
        .as_ref()
        .filter(|dir| args.or_resume && prepare::has_log(dir))
    {
        if !args.quiet {
            output::say("resuming the run in the directory, by the config of its log");
            prepare::say_differences_to_log(args, dir);
        }
        return super::resume::perform(&ResumeArgs {
            dir: dir.clone(),
            retries: None,
            set: args.set.clone(),
            give_up: false,
            json: args.json,
            quiet: args.quiet,
            allow_single_gpu_fallback: args.allow_single_gpu_fallback,
            requeued: true,
        });
    }
    let ready = prepare::prepare(args).and_then(|prepared| {
        let wanted = ranks::wanted(&prepared.config, job.as_ref())?;
        Ok((prepared, wanted))
    });
    let (mut prepared, wanted) = match ready {
        Ok(ready) => ready,
        Err(error) => {
            if let Some(job) = &job {
                ranks::turn_away(job, Some(&error));
            }
            return Err(error);
        }
    };
    let grant = ranks::Grant::of(&prepared.config, args.allow_single_gpu_fallback);
    let gathered = ranks::gather(&prepared.config, &prepared.frames, wanted, job, grant)?;
    prepared.created.world_size = gathered.ranks.size();
    match &args.dir {
        Some(dir) if !args.dry_run => drive::begin(dir, prepared, gathered, args.json, args.quiet),
        Some(_) | None => {
            if !args.quiet {
                prepared
                    .warnings()
                    .iter()
                    .for_each(|line| output::say(line));
            }
            dry_run::perform(&prepared, gathered, args.json, args.quiet)
        }
    }
}

#[cfg(not(feature = "train"))]
pub fn perform(args: &RunArgs) -> anyhow::Result<Exit> {
    prepare::prepare(args)?;
    Err(super::no_trainer())
}
