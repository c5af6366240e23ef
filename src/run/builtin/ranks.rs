//! Forms the group of a run's ranks, or says why it cannot and what would help.
//!
//! Nothing of the run is written before they are connected. A run never continues with fewer ranks than it asks for
//! unless its user permits that, and then the log says so.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::hardware;
use crate::advice::{Advice, Hint};
use crate::config::Config;
use crate::data::Frames;
use crate::events::{FallbackGranted, ProcessStarted};
use crate::run::notice::{Notice, Tell};
use crate::run::process::{Group, this_process};
use crate::train::ranks::{self, Job, Launch, Leader, Plan, Ranks, RendezvousError, Terms};
use crate::train::{self, DeviceError, LIBTORCH_VERSION};

/// A group to be formed.
#[derive(Clone, Debug)]
pub struct GroupRequest {
    /// How many ranks train.
    pub ranks: u32,
    /// The launcher's job that this process is rank 0 of. `None`: this process starts the others.
    pub job: Option<Job>,
    /// The program that starts another rank by [`WORKER_COMMAND`](ranks::WORKER_COMMAND).
    pub program: PathBuf,
    pub permission: Permission,
}

/// Whether a run may continue with fewer devices than ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Denied,
    Granted {
        /// Who or what grants it, for the log.
        by: &'static str,
    },
    /// It was used before, and holds only once.
    Used,
}

/// The ranks of a run, ready to train, and what this process contributes.
pub struct Formed {
    pub(super) ranks: Ranks,
    pub(super) device: tch::Device,
    pub(super) threads: u16,
    /// Ranks on this machine.
    local_size: u32,
    fallback: Option<FallbackGranted>,
}

/// Why a group cannot be formed.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    #[error(
        "a launcher started {ranks} ranks (WORLD_SIZE), and the config says `distributed.use_ddp = false`"
    )]
    NotDistributed { ranks: u32 },
    #[error("the run has {wanted} ranks, and the launcher started {started} (WORLD_SIZE)")]
    OtherSize { wanted: u32, started: u32 },
    #[error("the run needs {wanted} ranks for DDP, and {why}")]
    Fewer {
        wanted: u32,
        available: u32,
        why: String,
    },
    #[error("the run has {wanted} ranks since its fallback was granted, and {why}")]
    FewerAgain { wanted: u32, why: String },
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
}

impl Advice for FormError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            FormError::NotDistributed { .. } => vec![Hint::text(
                "leave that key out, or start one process without a launcher",
            )],
            FormError::OtherSize { .. } => vec![Hint::text(
                "start as many ranks as the run has: others would see other windows",
            )],
            FormError::Fewer { available, .. } => vec![Hint::FewerRanks { ranks: *available }],
            FormError::FewerAgain { wanted, .. } => vec![
                Hint::text(format!("a run falls back once; provide {wanted} devices")),
                Hint::StartFromCheckpoint,
            ],
            FormError::Device(error) => error.hints(),
            FormError::Rendezvous(error) => error.hints(),
        }
    }
}

/// How many ranks a new run has: those of its launcher, else as many as the config says.
///
/// # Errors
/// A launcher for a run that is not distributed.
pub fn ranks_of_new_run(config: &Config, job: Option<&Job>) -> Result<u32, FormError> {
    match (job, config.use_ddp) {
        (Some(job), true) => Ok(job.size),
        (Some(job), false) => Err(FormError::NotDistributed { ranks: job.size }),
        (None, true) => Ok(config.nproc_per_node),
        (None, false) => Ok(1),
    }
}

/// Tells the other ranks of a launcher's job to exit, because this one has nothing to train or cannot (`why`).
pub fn turn_away(job: &Job, why: Option<&dyn fmt::Display>) {
    let why = why.map(|error| format!("it cannot begin: {}", first_line(&error.to_string())));
    if let Err(error) = ranks::turn_away(job, why) {
        // They exit by themselves after their time-out.
        tracing::debug!("the other ranks were not told: {error}");
    }
}

/// Forms the group. With permission it is smaller where there are fewer devices, or of one rank where the ranks cannot
/// connect.
///
/// # Errors
/// Devices or ranks that are missing, without permission to continue with fewer.
pub fn form_group(
    config: &Config,
    frames: &Frames,
    request: GroupRequest,
    tell: &mut Tell<'_>,
) -> Result<Formed, FormError> {
    let GroupRequest {
        ranks: wanted,
        job,
        program,
        permission,
    } = request;
    if let Some(job) = &job
        && let Err(error) = check_job(config, job, wanted)
    {
        turn_away(job, Some(&error));
        return Err(error);
    }
    let (size, why) = match (&job, train::devices(config.device)) {
        (None, Some(devices)) if devices < wanted => {
            let mut fewer = (1..=devices.max(1)).rev();
            let size = fewer.find(|size| wanted.is_multiple_of(*size));
            let device = config.device;
            let why = format!("there are {devices} devices for `device = \"{device}\"`");
            (size.unwrap_or(1), why)
        }
        (None | Some(_), Some(_) | None) => (wanted, String::new()),
    };
    let fallback = if size < wanted {
        Some(fewer(wanted, size, permission, &why)?)
    } else {
        None
    };
    if let Some(notice) = oversubscribed(config, size, job.as_ref(), cores()) {
        tell(notice);
    }
    let plan = match (job, size) {
        (Some(job), _) => Plan::Several(Launch::External(job)),
        (None, 1) => Plan::Alone,
        (None, size) => Plan::Several(Launch::Local { size, program }),
    };
    let launched = matches!(plan, Plan::Several(Launch::External(_)));
    let granted = matches!(permission, Permission::Granted { .. });
    match form(config, frames, plan) {
        Ok(formed) => Ok(Formed { fallback, ..formed }),
        Err(error) if size == 1 || launched || !granted => Err(error),
        Err(error) => {
            let why = error.to_string();
            let granted = fewer(wanted, 1, permission, &why)?;
            tell(Notice::FellBack {
                why: first_line(&why).to_owned(),
            });
            let formed = form(config, frames, Plan::Alone)?;
            Ok(Formed {
                fallback: Some(granted),
                ..formed
            })
        }
    }
}

/// Whether this rank of a job can take part in a run of `wanted` ranks.
fn check_job(config: &Config, job: &Job, wanted: u32) -> Result<(), FormError> {
    if job.size != wanted {
        return Err(FormError::OtherSize {
            wanted,
            started: job.size,
        });
    }
    train::device(config.device, job.local_rank)?;
    Ok(())
}

fn form(config: &Config, frames: &Frames, plan: Plan) -> Result<Formed, FormError> {
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
                timeout: Duration::from_secs(config.rank_timeout_seconds.into()),
            };
            Ranks::Leader(Box::new(Leader::form(launch, terms)?))
        }
    };
    Ok(Formed {
        ranks,
        device,
        threads,
        local_size,
        fallback: None,
    })
}

impl Formed {
    pub fn group(&self) -> Group {
        Group {
            size: self.ranks.size(),
            fallback: self.fallback.clone(),
        }
    }

    /// This process and its ranks, as the log records them.
    pub fn process(&self) -> ProcessStarted {
        // Ranks on other machines have devices of the same kind: they compute the same bits, which is checked.
        let device = |rank: u32| {
            let place = (rank % self.local_size.max(1)) as usize;
            if self.device.is_cuda() && 1 < self.ranks.size() {
                tch::Device::Cuda(place)
            } else {
                self.device
            }
        };
        let devices: Vec<tch::Device> = (0..self.ranks.size()).map(device).collect();
        ProcessStarted {
            libtorch_version: LIBTORCH_VERSION.to_owned(),
            devices: devices.iter().copied().map(hardware::device).collect(),
            threads: u32::from(self.threads),
            cards: devices.into_iter().map(hardware::card).collect(),
            ..this_process()
        }
    }
}

/// As configured, or all cores divided among the ranks of this machine.
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

fn oversubscribed(config: &Config, size: u32, job: Option<&Job>, cores: usize) -> Option<Notice> {
    let ranks = job.map_or(size, |job| job.local_size).max(1);
    let threads_each = config.threads.unwrap_or(1);
    if u64::from(threads_each) * u64::from(ranks) <= cores as u64 {
        return None;
    }
    let most = (cores / ranks as usize).max(1);
    let configured = config.threads.map(|threads| threads as usize);
    Some(Notice::Oversubscribed {
        ranks,
        threads_each,
        cores,
        threads_most: configured.filter(|threads| most < *threads).map(|_| most),
    })
}

fn fewer(
    wanted: u32,
    size: u32,
    permission: Permission,
    why: &str,
) -> Result<FallbackGranted, FormError> {
    match permission {
        Permission::Granted { by } => Ok(FallbackGranted {
            ranks_wanted: wanted,
            ranks_available: size,
            accumulation_factor: wanted / size.max(1),
            granted_by: by.to_owned(),
        }),
        Permission::Denied => Err(FormError::Fewer {
            wanted,
            available: size,
            why: why.to_owned(),
        }),
        Permission::Used => Err(FormError::FewerAgain {
            wanted,
            why: why.to_owned(),
        }),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[track_caller]
    fn check(
        name: &str,
        threads: &str,
        ranks: u32,
        cores: usize,
        want: Option<(u32, Option<usize>)>,
    ) {
        let text = format!("threads = {threads}\n[data]\npath = \"frames.h5\"\n");
        let loaded = Config::parse(&text, "test", Path::new("/"), &[]).unwrap();
        let want = want.map(|(threads_each, threads_most)| Notice::Oversubscribed {
            ranks,
            threads_each,
            cores,
            threads_most,
        });
        let found = oversubscribed(&loaded.config, ranks, None, cores);
        assert_eq!(found, want, "{name}");
    }

    #[test]
    fn more_threads_than_cores_are_noticed() {
        check("as many", "2", 1, 2, None);
        check("all cores", "\"auto\"", 1, 1, None);
        check("divided", "\"auto\"", 2, 2, None);
        check("too many", "500", 1, 1, Some((500, Some(1))));
        check("too many of all ranks", "2", 4, 4, Some((2, Some(1))));
        check("more ranks than cores", "\"auto\"", 3, 2, Some((1, None)));
    }
}
