//! Errors between ranks.

use std::io;

use tch::TchError;

use super::job::Master;
use crate::advice::{Advice, Hint};
use crate::train::error::{TrainError, says_out_of_memory};

/// Why ranks could not form a group.
#[derive(Debug, thiserror::Error)]
pub enum RendezvousError {
    #[error("rank 0 cannot listen at {master}: {source}")]
    Listen { master: Master, source: io::Error },
    #[error("rank {rank} cannot be started: {source}")]
    Start { rank: u32, source: io::Error },
    #[error("rank {rank} exited before it began to train ({status}): {stderr}")]
    Ended {
        rank: u32,
        status: String,
        stderr: String,
    },
    #[error(
        "{} of {size} ranks connected to {master} within {seconds} s; missing: {}",
        size - missing.len() as u32, list(.missing)
    )]
    Missing {
        size: u32,
        missing: Vec<u32>,
        master: Master,
        seconds: u64,
    },
    #[error(
        "rank {} connected, but was not ready within {seconds} s", list(.missing)
    )]
    NotReady { missing: Vec<u32>, seconds: u64 },
    /// A rank with another program or another config.
    #[error("rank {rank} on `{host}`: {text}")]
    Differs {
        rank: u32,
        host: String,
        text: String,
    },
    #[error("rank {rank} cannot take part: {text}")]
    Refused { rank: u32, text: String },
    #[error("{what}: {source}")]
    Group {
        what: &'static str,
        source: tinygate_c10d::Error,
    },
    #[error("bug: a message between ranks: {0}")]
    Message(#[from] serde_json::Error),
}

impl Advice for RendezvousError {
    fn hints(&self) -> Vec<Hint> {
        let hint = match self {
            RendezvousError::Listen { .. } => Hint::text(
                "MASTER_ADDR is an address of the machine of rank 0, and MASTER_PORT one of its free ports; another job \
                 may use it",
            ),
            RendezvousError::Missing { .. } => Hint::text(
                "start every rank with the same MASTER_ADDR and MASTER_PORT, which must lead to rank 0; \
                 `distributed.timeout_seconds` is how long it waits",
            ),
            RendezvousError::NotReady { .. } => Hint::text(
                "look at its output; a large data set may take longer to load than `distributed.timeout_seconds`",
            ),
            RendezvousError::Differs { .. } => {
                Hint::text("start every rank with the same program and the same config")
            }
            RendezvousError::Start { .. }
            | RendezvousError::Ended { .. }
            | RendezvousError::Refused { .. }
            | RendezvousError::Group { .. } => Hint::SingleRankFallback,
            RendezvousError::Message(_) => return Vec::new(),
        };
        vec![hint]
    }
}

pub(super) fn list(ranks: &[u32]) -> String {
    let names: Vec<String> = ranks.iter().map(u32::to_string).collect();
    names.join(", ")
}

/// Why ranks cannot train together.
#[derive(Debug, thiserror::Error)]
pub enum RanksError {
    /// Another rank did not answer, or its connection closed.
    #[error("{0}")]
    Collective(#[source] tinygate_c10d::Error),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
    /// These ranks took other steps, on another kind of machine or with faulty memory.
    #[error("after update {step} the weights of {} differ from those of rank 0", names(.ranks))]
    Differ { ranks: Vec<u32>, step: u64 },
    /// Only a launcher can start its ranks again.
    #[error("the ranks of this job disconnected, and only their launcher can start them again")]
    Disconnected,
}

impl From<tinygate_c10d::Error> for RanksError {
    /// A collective copies what it sums, so memory can run out in it as well.
    fn from(error: tinygate_c10d::Error) -> Self {
        if says_out_of_memory(&error.text) {
            let message = error.text;
            RanksError::Train(TrainError::OutOfMemory { message })
        } else {
            RanksError::Collective(error)
        }
    }
}

impl From<TchError> for RanksError {
    fn from(error: TchError) -> Self {
        RanksError::Train(error.into())
    }
}

fn names(ranks: &[u32]) -> String {
    let names: Vec<String> = ranks.iter().map(|rank| format!("rank {rank}")).collect();
    names.join(", ")
}
