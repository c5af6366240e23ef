//! A rank that is not 0: started by rank 0 (`tinygate worker`), or by a launcher with rank 0's own command line.
//!
//! It prints nothing but errors. Invariant: it ends when rank 0 does.

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

use super::ranks::job;
use super::signals;
use crate::exit::Exit;

/// How long a rank waits for rank 0 before it knows the config.
const JOINING: Duration = Duration::from_secs(600);

/// The hidden command by which rank 0 starts its others.
pub fn perform() -> anyhow::Result<Exit> {
    let leader = std::env::var(LEADER_VARIABLE).ok();
    let Some(leader) = leader.and_then(|pid| Pid::from_raw(pid.parse().ok()?)) else {
        bail!(
            "`tinygate worker` is how a run starts its other ranks, and no run started this one\n\
             hint: `tinygate run` with `nproc_per_node` above 1 starts as many as it needs"
        );
    };
    end_with(leader)?;
    let Some(job) = job()? else {
        bail!("bug: a rank without a job\nhint: report it");
    };
    // Ctrl-C in a terminal reaches every rank: all stop at the same update, by rank 0's word.
    let stop = signals::note().context("cannot listen to signals")?;
    let joined = Joined::join(&job, host_name(), None, false, JOINING, None)?;
    follow(joined, &job, stop)
}

/// A rank of a launcher's job. `own`: the config of its command line, if that names one, and whether it must be rank 0's.
/// `set`: what its command line changes otherwise.
pub fn join(
    job: &Job,
    own: Option<(&Config, bool)>,
    set: &[String],
    quiet: bool,
) -> anyhow::Result<Exit> {
    let stop = signals::listen(quiet).context("cannot listen to signals")?;
    let (own, compared) = own.map_or((None, false), |(own, compared)| (Some(own), compared));
    let timeout = match own {
        Some(config) => Duration::from_secs(config.rank_timeout_seconds.into()),
        None => timeout(set).unwrap_or(JOINING),
    };
    let by = Some(Arc::clone(&stop));
    let joined = Joined::join(job, host_name(), own, compared, timeout, by)?;
    follow(joined, job, stop)
}

/// The `distributed.timeout_seconds` of a command line without a config. Rank 0 refuses what is no number.
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
        bail!("rank 0 went away before this rank began\nhint: start the run again");
    }
    // Rank 0 never writes to this pipe; it closes when rank 0 ends, however that happens.
    std::thread::Builder::new()
        .name("tinygate-leader".to_owned())
        .spawn(|| {
            let mut byte = [0];
            while matches!(std::io::stdin().read(&mut byte), Ok(count) if 0 < count) {}
            // At once: libtorch may be in the middle of anything.
            let _ = kill_process(getpid(), Signal::KILL);
        })
        .context("cannot watch rank 0")?;
    Ok(())
}
