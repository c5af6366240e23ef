//! Forms the group of a run's ranks, or says why it cannot and what would help.
//!
//! Nothing of the run is written before they are connected. Fewer ranks than asked for are never taken silently: only a
//! grant of the user, which is recorded, lets a run continue with fewer.

use anyhow::{Context, bail};
use tinygate::config::Config;
use tinygate::data::Frames;
use tinygate::events::FallbackGranted;
use tinygate::train;
use tinygate::train::ranks::{self, Job, Launch, Leader, Plan, Ranks, Terms};

use crate::output;

/// The ranks of a run, ready to train, and what this process contributes.
pub struct Gathered {
    pub ranks: Ranks,
    pub device: tch::Device,
    pub threads: u16,
    /// Ranks on this machine.
    pub local_size: u32,
    pub fallback: Option<FallbackGranted>,
    /// What the user who starts the run should know.
    pub warning: Option<String>,
}

/// Whether a run may continue with fewer devices than ranks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    No,
    /// By whom.
    Yes(&'static str),
    /// It was granted before, and cannot be granted twice.
    OnRecord,
}

impl Grant {
    pub fn of(config: &Config, command_line: bool) -> Grant {
        match (command_line, config.allow_single_gpu_fallback) {
            (true, _) => Grant::Yes("command line"),
            (false, true) => Grant::Yes("config"),
            (false, false) => Grant::No,
        }
    }
}

/// The job that a launcher put this process into.
pub fn job() -> anyhow::Result<Option<Job>> {
    let job = Job::of(|name| std::env::var(name).ok())?;
    #[cfg(target_os = "linux")]
    if job.is_some() && std::env::var_os("TORCHELASTIC_RUN_ID").is_some() {
        // `torchrun` ends its ranks when it ends, unless it is killed. Then they stop as at a signal, with a checkpoint.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
            .context("cannot bind this rank to its launcher")?;
    }
    Ok(job)
}

/// Turns away the other ranks of a launcher's job, before rank 0 exits without having trained.
pub fn turn_away(job: &Job, why: Option<&anyhow::Error>) {
    let why = why.map(|error| format!("it cannot begin: {}", first_line(&error.to_string())));
    if let Err(error) = ranks::turn_away(job, why) {
        // They exit by themselves when they have waited long enough.
        tracing::debug!("the other ranks were not told: {error}");
    }
}

/// How many ranks a new run has: a launcher's, else as many as the config says.
pub fn wanted(config: &Config, job: Option<&Job>) -> anyhow::Result<u32> {
    match (job, config.use_ddp) {
        (Some(job), true) => Ok(job.size),
        (Some(job), false) => bail!(
            "a launcher started {} ranks (WORLD_SIZE), and the config says `distributed.use_ddp = false`\n\
             hint: leave that key out, or start one process without a launcher",
            job.size
        ),
        (None, true) => Ok(config.nproc_per_node),
        (None, false) => Ok(1),
    }
}

/// Forms a group of `wanted` ranks. With a grant fewer will do where there are not so many devices, or where the ranks
/// cannot form a group.
pub fn gather(
    config: &Config,
    frames: &Frames,
    wanted: u32,
    job: Option<Job>,
    grant: Grant,
) -> anyhow::Result<Gathered> {
    if let Some(job) = &job
        && let Err(error) = fits(config, job, wanted)
    {
        turn_away(job, Some(&error));
        return Err(error);
    }
    let (size, why) = match (&job, train::devices(config.device)) {
        (None, Some(devices)) if devices < wanted => (
            (1..=devices.max(1))
                .rev()
                .find(|size| wanted.is_multiple_of(*size)),
            format!(
                "there are {devices} devices for `device = \"{}\"`",
                config.device
            ),
        ),
        (None | Some(_), Some(_) | None) => (Some(wanted), String::new()),
    };
    let size = size.unwrap_or(1);
    let mut fallback = None;
    if size < wanted {
        fallback = Some(fewer(wanted, size, grant, &why)?);
    }
    let warning = oversubscribed(config, size, job.as_ref(), cores());
    let plan = match (job, size) {
        (Some(job), _) => Plan::Several(Launch::External(job)),
        (None, 1) => Plan::Alone,
        (None, size) => Plan::Several(Launch::Local {
            size,
            program: std::env::current_exe()
                .context("cannot find this program to start ranks with")?,
        }),
    };
    let launched = matches!(plan, Plan::Several(Launch::External(_)));
    match form(config, frames, plan) {
        Ok(gathered) => Ok(Gathered {
            fallback,
            warning,
            ..gathered
        }),
        Err(error) if size == 1 || launched || !matches!(grant, Grant::Yes(_)) => Err(error),
        Err(error) => {
            let why = format!("{error:#}");
            let granted = fewer(wanted, 1, grant, &why)?;
            output::say(&format!(
                "warning: continuing with one rank: {}",
                first_line(&why)
            ));
            let gathered = form(config, frames, Plan::Alone)?;
            Ok(Gathered {
                fallback: Some(granted),
                ..gathered
            })
        }
    }
}

/// Whether this rank of a job can take part in a run of `wanted` ranks.
fn fits(config: &Config, job: &Job, wanted: u32) -> anyhow::Result<()> {
    if job.size != wanted {
        bail!(
            "the run has {wanted} ranks, and the launcher started {} (WORLD_SIZE)\n\
             hint: start as many ranks as the run has: with others it would see other windows",
            job.size
        );
    }
    train::device(config.device, job.local_rank)?;
    Ok(())
}

fn form(config: &Config, frames: &Frames, plan: Plan) -> anyhow::Result<Gathered> {
    let device = train::device(config.device, plan.local_rank())?;
    let local_size = plan.local_size();
    let threads = threads(config, local_size);
    let ranks = match plan {
        Plan::Alone => Ranks::Alone,
        Plan::Several(launch) => {
            let terms = Terms {
                config: config.clone(),
                dataset: frames.hash().to_hex().to_string(),
                device,
                threads,
                timeout: std::time::Duration::from_secs(config.rank_timeout_seconds.into()),
            };
            Ranks::Leader(Box::new(Leader::form(launch, terms)?))
        }
    };
    Ok(Gathered {
        ranks,
        device,
        threads,
        local_size,
        fallback: None,
        warning: None,
    })
}

/// As configured, or all cores shared out among the ranks of this machine.
fn threads(config: &Config, local_size: u32) -> u16 {
    let wanted = config.threads.map_or_else(
        || cores() / local_size.max(1) as usize,
        |threads| threads as usize,
    );
    u16::try_from(wanted.max(1)).unwrap_or(u16::MAX)
}

/// Cores that this process may use, by its affinity and its control group.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// What to say where the ranks of this machine have more threads than there are cores.
fn oversubscribed(config: &Config, size: u32, job: Option<&Job>, cores: usize) -> Option<String> {
    let local_size = job.map_or(size, |job| job.local_size).max(1);
    let each = config.threads.unwrap_or(1);
    let all = u64::from(each) * u64::from(local_size);
    if all <= cores as u64 {
        return None;
    }
    let all = if local_size == 1 {
        plural(u64::from(each), "thread")
    } else {
        let ranks = plural(u64::from(local_size), "rank");
        format!("{ranks} with {} each", plural(u64::from(each), "thread"))
    };
    let most = (cores / local_size as usize).max(1);
    let hint = if config
        .threads
        .is_some_and(|threads| most < threads as usize)
    {
        format!("set `threads = {most}` or leave it out")
    } else {
        format!("ask for {cores} or fewer ranks on this machine")
    };
    let cores = plural(cores as u64, "core");
    Some(format!(
        "warning: {all}, and this process may use {cores}: training will be slower than with as many threads as cores\n\
         hint: {hint}"
    ))
}

fn plural(count: u64, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}

fn fewer(wanted: u32, size: u32, grant: Grant, why: &str) -> anyhow::Result<FallbackGranted> {
    let granted_by = match grant {
        Grant::Yes(by) => by,
        Grant::No => bail!(
            "the run wants DDP over {wanted} ranks, and {why}\n\
             hint: `allow_single_gpu_fallback = true` or `--allow-single-gpu-fallback` lets `run` and `resume` continue with {size} \
             and more accumulation; a new run asks for fewer ranks with `nproc_per_node`"
        ),
        Grant::OnRecord => bail!(
            "the run has {wanted} ranks since its fallback was granted, and {why}\n\
             hint: a run falls back once; bring {wanted} devices, or start a new run from its checkpoint with `--init-from`"
        ),
    };
    Ok(FallbackGranted {
        ranks_wanted: wanted,
        ranks_available: size,
        accumulation_factor: wanted / size.max(1),
        granted_by: granted_by.to_owned(),
    })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[track_caller]
    fn check(name: &str, threads: &str, ranks: u32, cores: usize, want: Option<&str>) {
        let text = format!("threads = {threads}\n[data]\npath = \"frames.h5\"\n");
        let loaded = Config::parse(&text, "test", Path::new("/"), &[]).unwrap();
        let found = oversubscribed(&loaded.config, ranks, None, cores);
        assert_eq!(found.as_deref(), want, "{name}");
    }

    #[test]
    fn more_threads_than_cores_are_said() {
        check("as many", "2", 1, 2, None);
        check("all cores", "\"auto\"", 1, 1, None);
        check("shared out", "\"auto\"", 2, 2, None);
        check(
            "too many",
            "500",
            1,
            1,
            Some(
                "warning: 500 threads, and this process may use 1 core: training will be slower than with as many \
                 threads as cores\nhint: set `threads = 1` or leave it out",
            ),
        );
        check(
            "too many of all ranks",
            "2",
            4,
            4,
            Some(
                "warning: 4 ranks with 2 threads each, and this process may use 4 cores: training will be slower than \
                 with as many threads as cores\nhint: set `threads = 1` or leave it out",
            ),
        );
        check(
            "more ranks than cores",
            "\"auto\"",
            3,
            2,
            Some(
                "warning: 3 ranks with 1 thread each, and this process may use 2 cores: training will be slower than \
                 with as many threads as cores\nhint: ask for 2 or fewer ranks on this machine",
            ),
        );
    }
}
