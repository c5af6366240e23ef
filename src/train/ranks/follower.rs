//! The side of every other rank: joins rank 0 and follows its instructions.

use std::sync::Arc;
use std::time::Duration;

use tch::Device;
use tinygate_c10d::{Cancel, ErrorKind, Store};

use super::connection::connect;
use super::error::RendezvousError;
use super::exchange::Exchange;
use super::handshake::{Answer, Hello};
use super::job::{Job, Master};
use super::mailbox::{MailError, Mailbox};
use super::message::{Cause, GivenUp, Instruction};
use crate::advice::{Advice, Hint};
use crate::config::Config;
use crate::train::error::with_hints;
use crate::train::libtorch::DeviceError;
use crate::trainer::StopRequest;

/// How long one wait for an instruction takes.
const POLL: Duration = Duration::from_secs(2);
/// After a signal, how many waits without an instruction end this rank; rank 0 should have got the signal too.
const POLLS_AFTER_SIGNAL: u32 = 5;

/// Why a rank cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error("no rank 0 answers at {master}: {source}")]
    NoLeader {
        master: Master,
        source: tinygate_c10d::Error,
    },
    #[error("rank 0 did not answer at {master} within {seconds} s")]
    Silent { master: Master, seconds: u64 },
    #[error("rank 0 refuses this rank: {text}")]
    Refused { text: String },
    #[error("stopped by {signal} while waiting for rank 0")]
    Stopped { signal: String },
    #[error("{text}")]
    Data { text: String },
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("the connection to rank 0 is lost: {0}")]
    LeaderLost(#[source] tinygate_c10d::Error),
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
    #[error("a message from rank 0 cannot be read: {0}")]
    Message(#[from] serde_json::Error),
    #[error("{text}")]
    Training { text: String },
}

impl Advice for FollowError {
    fn hints(&self) -> Vec<Hint> {
        let hint = match self {
            FollowError::NoLeader { .. } => Hint::text(
                "MASTER_ADDR and MASTER_PORT must lead to the machine of rank 0, and rank 0 must have been started",
            ),
            FollowError::Silent { .. } => Hint::text(
                "look at the output of rank 0; a large data set may take longer to load than \
                 `distributed.timeout_seconds`",
            ),
            FollowError::Refused { .. } => Hint::text(
                "look at the output of rank 0; every rank needs the same program and the same config",
            ),
            FollowError::Stopped { .. } => Hint::ResumeEveryRank,
            FollowError::Data { .. } => {
                let same = "every rank needs the run's own data where its config names it";
                return vec![Hint::text(same), Hint::DataElsewhere];
            }
            FollowError::Device(error) => return error.hints(),
            FollowError::LeaderLost(_) => Hint::text("look at the last output of rank 0"),
            FollowError::Rendezvous(error) => return error.hints(),
            FollowError::Message(_) => Hint::text("start every rank with the same program"),
            FollowError::Training { .. } => {
                Hint::text("rank 0 records the failure, and retries or reports why not")
            }
        };
        vec![hint]
    }
}

/// A rank that rank 0 accepted, and that knows the run's config.
pub struct Joined {
    mailbox: Mailbox,
    job: Job,
    /// Ends waits for the other ranks early; `None` if only rank 0 may end this rank.
    stop: Option<Arc<StopRequest>>,
    pub config: Config,
    /// BLAKE3 of the frames that rank 0 has, in hex.
    pub dataset: String,
    /// CPU threads of rank 0.
    pub threads: u16,
}

/// A rank that trains with the others.
pub struct Follower {
    mailbox: Mailbox,
    rank: u32,
    instructions: u64,
}

impl Joined {
    /// Introduces this rank to rank 0. `own` is the config that it was started with, which sets its device, threads and
    /// data; if `compared`, the rest must be as in rank 0's config. Returns `None` if there is nothing left to train. A
    /// request to `stop` ends every wait until the ranks are connected.
    ///
    /// # Errors
    /// Rank 0 cannot be reached, or refuses this rank.
    pub fn join(
        job: &Job,
        host: String,
        own: Option<&Config>,
        compared: bool,
        timeout: Duration,
        stop: Option<Arc<StopRequest>>,
    ) -> Result<Option<Joined>, FollowError> {
        let master = &job.master;
        let cancel = stop
            .clone()
            .map(|stop| -> Cancel { Arc::new(move || stop.requested().is_some()) });
        let store = Store::connect(&master.host, master.port, timeout, cancel.as_ref())
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
        let mailbox = Mailbox::new(store);
        let failed = |error| failed(stop.as_deref(), error);
        let hello = Hello::of(host, own.filter(|_| compared));
        mailbox.say_hello(job.rank, &hello).map_err(failed)?;
        let answer = mailbox.answer(timeout).map_err(failed)?;
        let answer = answer.ok_or_else(|| FollowError::Silent {
            master: master.clone(),
            seconds: timeout.as_secs(),
        })?;
        match answer {
            Answer::Refused(text) => {
                mailbox.say_goodbye(job.rank);
                Err(FollowError::Refused { text })
            }
            Answer::Config {
                config,
                dataset,
                threads,
            } => {
                let config = Config::from_json(&config).map_err(|error| FollowError::Refused {
                    text: error.to_string(),
                })?;
                Ok(Some(Joined {
                    mailbox,
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
            Answer::NothingToDo => {
                mailbox.say_goodbye(job.rank);
                Ok(None)
            }
        }
    }

    /// Tells rank 0 why this rank cannot take part. Returns that, or why rank 0 could not be told.
    pub fn decline(self, why: FollowError) -> FollowError {
        let text = if let FollowError::Device(error) = &why {
            with_hints(error)
        } else {
            why.to_string()
        };
        match self.mailbox.say_ready(self.job.rank, &Err(text)) {
            Ok(()) => why,
            Err(error) => failed(self.stop.as_deref(), error),
        }
    }

    /// Tells rank 0 that this rank can take part, and connects it to all others.
    pub fn ready(self, device: Device) -> Result<(Follower, Exchange), FollowError> {
        let Joined {
            mut mailbox,
            job,
            config,
            stop,
            ..
        } = self;
        mailbox
            .say_ready(job.rank, &Ok(()))
            .map_err(|error| failed(stop.as_deref(), error))?;
        let timeout = Duration::from_secs(config.rank_timeout_seconds.into());
        let exchange = connect(mailbox.store(), &job, device, timeout).map_err(|error| {
            if let RendezvousError::Group { source, .. } = &error
                && let Some(stopped) = stopped(stop.as_deref(), source)
            {
                return stopped;
            }
            FollowError::Rendezvous(error)
        })?;
        // From now on all ranks stop together.
        mailbox.disable_cancel();
        let follower = Follower {
            mailbox,
            rank: job.rank,
            instructions: 0,
        };
        Ok((follower, exchange))
    }
}

impl Follower {
    /// Waits for the next instruction, without a time limit.
    pub fn next(&mut self, stop: &StopRequest) -> Result<Instruction, FollowError> {
        let mut polls = 0;
        loop {
            let next = self.mailbox.instruction(self.instructions, POLL);
            if let Some(instruction) = next.map_err(|error| failed(None, error))? {
                self.instructions += 1;
                if instruction == Instruction::End {
                    self.mailbox.say_goodbye(self.rank);
                }
                return Ok(instruction);
            }
            if let Some(signal) = stop.requested() {
                polls += 1;
                if POLLS_AFTER_SIGNAL <= polls {
                    return Err(FollowError::Stopped { signal });
                }
            }
        }
    }

    /// Leaves a note for rank 0 of why this rank cannot continue.
    pub fn give_up(&self, cause: Cause, text: &str) {
        let note = GivenUp {
            cause,
            text: text.to_owned(),
        };
        // If rank 0 is gone, nothing reads it.
        let _ = self.mailbox.say_gave_up(self.rank, &note);
    }
}

/// The signal that ended a wait.
fn stopped(stop: Option<&StopRequest>, error: &tinygate_c10d::Error) -> Option<FollowError> {
    let signal = stop
        .filter(|_| error.kind == ErrorKind::Cancelled)?
        .requested()?;
    Some(FollowError::Stopped { signal })
}

fn failed(stop: Option<&StopRequest>, error: MailError) -> FollowError {
    match error {
        MailError::Store(source) => {
            stopped(stop, &source).unwrap_or(FollowError::LeaderLost(source))
        }
        MailError::Json(error) => FollowError::Message(error),
    }
}

/// Whether another rank caused an error of a collective.
pub fn cause_of(kind: ErrorKind) -> Cause {
    match kind {
        ErrorKind::TimedOut | ErrorKind::Network | ErrorKind::Store => Cause::OtherRank,
        ErrorKind::Other | ErrorKind::Cancelled => Cause::Own,
    }
}
