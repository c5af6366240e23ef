//! The job that a launcher put this process into.

use anyhow::Context;
use tinygate::run::builtin;
use tinygate::train::ranks::Job;

use crate::session::Session;

/// The job in the environment; `None` where no launcher started this process.
pub fn of_environment() -> anyhow::Result<Option<Job>> {
    let job = Job::of(|name| std::env::var(name).ok())?;
    #[cfg(target_os = "linux")]
    if job.is_some() && std::env::var_os("TORCHELASTIC_RUN_ID").is_some() {
        // `torchrun` ends its ranks when it ends, unless it is killed. Then they stop as at a signal, with a checkpoint.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
            .context("cannot bind this rank to its launcher")?;
    }
    Ok(job)
}

/// Tells the other ranks of the job, if there is one, that rank 0 exits without having trained.
pub fn turn_away(session: &Session, why: Option<&anyhow::Error>) {
    if let Some(job) = &session.job {
        builtin::turn_away(job, why.map(|error| error as &dyn std::fmt::Display));
    }
}
