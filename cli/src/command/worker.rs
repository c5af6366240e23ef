//! A rank that is not 0: started by rank 0 (`tinygate worker`), or by a launcher with rank 0's command line.
//!
//! It prints nothing but errors. Invariant: it exits when rank 0 does.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, getpid, getppid, kill_process};
use tinygate::config::Config;
use tinygate::store::host_name;
use tinygate::train::actor;
use tinygate::train::ranks::{Job, Joined, LEADER_VARIABLE};
use tinygate::trainer::StopRequest;

use super::{job, signals};
use crate::exit::Exit;
use crate::output::advised;
use crate::session::Session;

/// How long a rank waits for rank 0 while it does not know the config.
const JOINING: Duration = Duration::from_secs(600);

/// The hidden command with which rank 0 starts the others.
pub fn perform() -> anyhow::Result<Exit> {
    let leader = std::env::var(LEADER_VARIABLE).ok();
    let Some(leader) = leader.and_then(|pid| Pid::from_raw(pid.parse().ok()?)) else {
        bail!(advised(
            "`tinygate worker` is how a run starts its other ranks, and no run started this one",
            "`tinygate run` with `nproc_per_node` above 1 starts as many as it needs",
        ));
    };
    end_with(leader)?;
    let Some(job) = job::of_environment()? else {
        bail!(advised("bug: a rank without a job", "report it"));
    };
    // Ctrl-C in a terminal reaches every rank, but rank 0 says at which update all of them stop.
    let stop = signals::note().context("cannot listen to signals")?;
    let joined = Joined::join(&job, host_name(), None, false, JOINING, None)?;
    follow(joined, &job, stop)
}

/// Joins a launcher's job. `own`: the config of the command line, if there is one, and whether it must be rank 0's.
/// `set`: the overrides of the command line.
pub fn join(
    session: &Session,
    own: Option<(&Config, bool)>,
    set: &[String],
) -> anyhow::Result<Exit> {
    let Some(job) = &session.job else {
        bail!(advised("bug: a rank without a job", "report it"));
    };
    let stop = signals::listen(session.output.quiet).context("cannot listen to signals")?;
    let (own, compared) = own.map_or((None, false), |(own, compared)| (Some(own), compared));
    let timeout = match own {
        Some(config) => Duration::from_secs(config.rank_timeout_seconds.into()),
        None => timeout(set).unwrap_or(JOINING),
    };
    let by = Some(Arc::clone(&stop));
    let joined = Joined::join(job, host_name(), own, compared, timeout, by)?;
    follow(joined, job, stop)
}

/// The `distributed.timeout_seconds` of a command line without a config. Rank 0 refuses an invalid one.
fn timeout(set: &[String]) -> Option<Duration> {
    let seconds = set.iter().rev().find_map(|text| {
        let (key, value) = text.split_once('=')?;
        (key.trim() == "distributed.timeout_seconds").then(|| value.trim().parse().ok())?
    });
    seconds.map(Duration::from_secs)
}

fn follow(joined: Option<Joined>, job: &Job, stop: Arc<StopRequest>) -> anyhow::Result<Exit> {
    if let Some(joined) = joined {
        actor::worker::follow(joined, job.local_rank, stop)?;
    }
    Ok(Exit::Done)
}

/// Makes this process end when rank 0 does.
fn end_with(leader: Pid) -> anyhow::Result<()> {
    // `PR_SET_PDEATHSIG` kills it even while it is stopped.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot bind this rank to rank 0")?;
    if getppid() != Some(leader) {
        bail!(advised(
            "rank 0 exited before this rank began",
            "start the run again"
        ));
    }
    // Rank 0 never writes to this pipe. It closes when rank 0 exits, for whatever reason.
    std::thread::Builder::new()
        .name("tinygate-leader".to_owned())
        .spawn(|| {
            let mut byte = [0];
            while matches!(std::io::stdin().read(&mut byte), Ok(count) if 0 < count) {}
            // Not a clean exit: libtorch may be in the middle of anything.
            let _ = kill_process(getpid(), Signal::KILL);
        })
        .context("cannot watch rank 0")?;
    Ok(())
}
