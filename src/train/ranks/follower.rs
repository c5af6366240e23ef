//! The side of every other rank: joins rank 0, and does what it says until it says that there is nothing left.

use std::sync::Arc;
use std::time::Duration;

use tch::Device;
use tinygate_c10d::{Cut, ErrorKind, Store};

use super::crew::listen_at;
use super::exchange::Exchange;
use super::job::{Job, Master};
use super::message::{Cause, GivenUp, Hello, Instruction, Welcome};
use super::{
    FormError, WELCOME_KEY, bye_key, gave_up_key, group, hello_key, instruction_key, ready_key,
    versions,
};
use crate::config::Config;
use crate::controller::StopRequest;

/// How long one look at the store for an instruction takes; then it looks again.
const LOOK: Duration = Duration::from_secs(2);
/// Looks after a signal in which rank 0, which should have had it too, has nothing to say.
const LOOKS_AFTER_SIGNAL: u32 = 5;

/// Why a rank does not go on. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error(
        "no rank 0 answers at {master}: {source}\n\nhint: MASTER_ADDR and MASTER_PORT must lead to the machine of rank 0, \
         and rank 0 must have been started"
    )]
    NoLeader {
        master: Master,
        source: tinygate_c10d::Error,
    },
    #[error(
        "rank 0 answered nothing at {master} within {seconds} s\n\nhint: look at what rank 0 says; a large data set may \
         take longer to load than `distributed.timeout_seconds`"
    )]
    Silent { master: Master, seconds: u64 },
    #[error(
        "rank 0 refuses this rank: {text}\n\nhint: look at what rank 0 says; every rank needs the same program and the same config"
    )]
    Refused { text: String },
    #[error(
        "stopped by {signal} while waiting for rank 0\n\nhint: resume the run with `tinygate resume` on every rank"
    )]
    Stopped { signal: String },
    #[error(
        "{text}\n\nhint: every rank needs the run's own data where its config names it; `--set data.path=...` names another place"
    )]
    Data { text: String },
    #[error("rank 0 went away: {0}\n\nhint: look at what rank 0 said last")]
    LeaderLost(#[source] tinygate_c10d::Error),
    #[error(transparent)]
    Form(#[from] FormError),
    #[error(
        "a message of rank 0 cannot be read: {0}\n\nhint: start every rank with the same program"
    )]
    Message(#[from] serde_json::Error),
    #[error("{text}\n\nhint: rank 0 has it on record, and goes on or says why not")]
    Training { text: String },
}

/// A rank that is in touch with rank 0, and knows the run's config.
pub struct Joined {
    store: Store,
    job: Job,
    /// By it this rank gives up waiting for the others, if anything but rank 0 may end it.
    stop: Option<Arc<StopRequest>>,
    pub config: Config,
    /// BLAKE3 of the frames that rank 0 has, in hex.
    pub dataset: String,
    /// CPU threads of rank 0.
    pub threads: u16,
}

/// A rank that trains with the others.
pub struct Follower {
    store: Store,
    rank: u32,
    instructions: u64,
}

impl Joined {
    /// Introduces this rank to rank 0. `own` is the config it was started with, which must be rank 0's if they are
    /// `compared`; this rank's device, threads and data are taken from it in any case. `None`: there is nothing left to
    /// do. A request to `stop` ends every wait until the ranks are together.
    ///
    /// # Errors
    /// No rank 0, or one that refuses this one.
    pub fn join(
        job: &Job,
        host: String,
        own: Option<&Config>,
        compared: bool,
        timeout: Duration,
        stop: Option<Arc<StopRequest>>,
    ) -> Result<Option<Joined>, FollowError> {
        let master = &job.master;
        let cut = stop
            .clone()
            .map(|stop| -> Cut { Arc::new(move || stop.requested().is_some()) });
        let store = Store::connect(&master.host, master.port, timeout, cut.as_ref())
            .and_then(|store| match &master.served {
                Some(prefix) => store.prefixed(prefix),
                None => Ok(store),
            })
            .map_err(|source| {
                stopped(stop.as_deref(), &source).unwrap_or_else(|| FollowError::NoLeader {
                    master: master.clone(),
                    source,
                })
            })?;
        let lost = |source| leader_lost(stop.as_deref(), source);
        let hello = Hello {
            versions: versions(),
            host,
            pid: std::process::id(),
            config: own.filter(|_| compared).map(Config::entries),
        };
        store
            .set(&hello_key(job.rank), &serde_json::to_vec(&hello)?)
            .map_err(lost)?;
        let answer = store.get(WELCOME_KEY, timeout).map_err(lost)?;
        let answer = answer.ok_or_else(|| FollowError::Silent {
            master: master.clone(),
            seconds: timeout.as_secs(),
        })?;
        match serde_json::from_slice(&answer)? {
            Welcome::Refused(text) => {
                say_bye(&store, job.rank);
                Err(FollowError::Refused { text })
            }
            Welcome::Config {
                config,
                dataset,
                threads,
            } => {
                let config = Config::from_json(&config).map_err(|error| FollowError::Refused {
                    text: error.to_string(),
                })?;
                Ok(Some(Joined {
                    store,
                    job: job.clone(),
                    stop,
                    config: match own {
                        Some(own) => config.with_process_of(own),
                        None => config,
                    },
                    dataset,
                    threads,
                }))
            }
            Welcome::NothingToDo => {
                say_bye(&store, job.rank);
                Ok(None)
            }
        }
    }

    /// Says that this rank can take part, or why not, and connects to all others.
    pub fn ready(
        self,
        ready: Result<(), String>,
        device: Device,
    ) -> Result<(Follower, Exchange), FollowError> {
        let Joined {
            mut store,
            job,
            config,
            stop,
            ..
        } = self;
        store
            .set(&ready_key(job.rank), &serde_json::to_vec(&ready)?)
            .map_err(|source| leader_lost(stop.as_deref(), source))?;
        if let Err(text) = ready {
            return Err(FollowError::Data { text });
        }
        let timeout = Duration::from_secs(config.rank_timeout_seconds.into());
        let listen = listen_at(&job)?;
        let own = (job.rank, job.size);
        let (group, device) = group(&store, own, &listen, device, timeout).map_err(|source| {
            stopped(stop.as_deref(), &source).unwrap_or_else(|| {
                FormError::Group {
                    place: "the ranks could not connect to each other",
                    source,
                }
                .into()
            })
        })?;
        // From here on all ranks stop together.
        store.uncut();
        let exchange = Exchange::new(group, job.rank, job.size, device);
        let follower = Follower {
            store,
            rank: job.rank,
            instructions: 0,
        };
        Ok((follower, exchange))
    }
}

impl Follower {
    /// Waits for what to do next, however long rank 0 has nothing to do for this rank.
    pub fn next(&mut self, stop: &StopRequest) -> Result<Instruction, FollowError> {
        let key = instruction_key(self.instructions);
        let mut looks = 0;
        loop {
            if let Some(text) = self
                .store
                .get(&key, LOOK)
                .map_err(FollowError::LeaderLost)?
            {
                self.instructions += 1;
                let instruction = serde_json::from_slice(&text)?;
                if instruction == Instruction::End {
                    say_bye(&self.store, self.rank);
                }
                return Ok(instruction);
            }
            if let Some(signal) = stop.requested() {
                looks += 1;
                if LOOKS_AFTER_SIGNAL <= looks {
                    return Err(FollowError::Stopped { signal });
                }
            }
        }
    }

    /// Leaves word for rank 0 of why this rank cannot go on.
    pub fn give_up(&self, cause: Cause, text: &str) {
        let note = GivenUp {
            cause,
            text: text.to_owned(),
        };
        if let Ok(note) = serde_json::to_vec(&note) {
            // Without rank 0 nobody is left to read it.
            let _ = self.store.set(&gave_up_key(self.rank), &note);
        }
    }
}

/// The signal for which a wait was given up.
fn stopped(stop: Option<&StopRequest>, error: &tinygate_c10d::Error) -> Option<FollowError> {
    let signal = stop.filter(|_| error.kind == ErrorKind::Cut)?.requested()?;
    Some(FollowError::Stopped { signal })
}

fn leader_lost(stop: Option<&StopRequest>, source: tinygate_c10d::Error) -> FollowError {
    stopped(stop, &source).unwrap_or(FollowError::LeaderLost(source))
}

/// Tells rank 0 that its last word was read. It may be gone by then.
fn say_bye(store: &Store, rank: u32) {
    let _ = store.set(&bye_key(rank), b"");
}

/// Whether an error of a collective is another rank's doing.
pub fn cause_of(kind: ErrorKind) -> Cause {
    match kind {
        ErrorKind::TimedOut | ErrorKind::Network | ErrorKind::Store => Cause::OtherRank,
        ErrorKind::Other | ErrorKind::Cut => Cause::Own,
    }
}
