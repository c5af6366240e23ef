//! Ranks that train one model together (DDP), on this machine or several.
//!
//! Rank 0 is the process that has the log: it alone appends, decides, writes checkpoints and pictures, and tells the
//! others what to train. They are started by rank 0 itself, or all of them by a launcher (`torchrun`, Slurm,
//! Kubernetes). Instructions go through PyTorch's TCPStore; weights and gradients through its Gloo or NCCL group.
//!
//! What the ranks compute is in [`Exchange`]; who they are in [`Job`]; how they come together and part in [`Crew`] and
//! [`Follower`]. Invariant: a rank that is lost costs a chunk, and nobody waits for it longer than the config says.

mod crew;
mod exchange;
mod follower;
pub mod job;
mod local;
mod message;

use std::path::PathBuf;
use std::time::Duration;

use tch::{Device, TchError};
use tinygate_c10d::{Group, Listen, Store};

pub use crew::{Crew, FormError, Terms, turn_away};
pub use exchange::Exchange;
pub use follower::{FollowError, Follower, Joined, cause_of};
pub use job::{Job, JobError, Master};
pub use local::{LEADER_VARIABLE, WORKER_COMMAND};
pub use message::{Cause, Instruction, Task};

use super::error::says_out_of_memory;
use super::{StageTrainer, TrainError};

/// How the ranks of a run come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// This process is the only one.
    Alone,
    /// This process starts the others on this machine, with this program.
    Local { size: u32, program: PathBuf },
    /// A launcher started all of them; this one is rank 0.
    Joined(Job),
}

impl Plan {
    pub fn size(&self) -> u32 {
        match self {
            Plan::Alone => 1,
            Plan::Local { size, .. } => *size,
            Plan::Joined(job) => job.size,
        }
    }

    /// Ranks on this machine.
    pub fn local_size(&self) -> u32 {
        match self {
            Plan::Alone => 1,
            Plan::Local { size, .. } => *size,
            Plan::Joined(job) => job.local_size,
        }
    }

    /// This process's place among those on its machine.
    pub fn local_rank(&self) -> u32 {
        match self {
            Plan::Alone | Plan::Local { .. } => 0,
            Plan::Joined(job) => job.local_rank,
        }
    }
}

/// The ranks of a run, as rank 0 has them.
pub enum Ranks {
    Alone,
    Leader(Box<Crew>),
}

/// What went wrong among ranks.
#[derive(Debug, thiserror::Error)]
pub enum RanksError {
    /// Another rank did not answer, or went away.
    #[error("{0}")]
    Collective(#[source] tinygate_c10d::Error),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Form(#[from] FormError),
    /// They took other steps: not the same machine kind, or memory that errs.
    #[error("after update {step} the weights of {} are not those of rank 0", names(.ranks))]
    Differ { ranks: Vec<u32>, step: u64 },
    /// A launcher's ranks cannot be started again from here.
    #[error("the ranks of this job parted, and only their launcher can start them again")]
    Parted,
    #[error("bug: {0}")]
    Bug(&'static str),
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

/// What became of a rank that the others waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub how: LostHow,
    /// Which rank, and how it ended.
    pub status: String,
    /// The end of what it wrote to its standard error, or what else is known.
    pub stderr: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostHow {
    OutOfMemory,
    Exited,
    TimedOut { seconds: u64 },
}

impl Ranks {
    pub fn size(&self) -> u32 {
        match self {
            Ranks::Alone => 1,
            Ranks::Leader(crew) => crew.size(),
        }
    }

    /// Rank 0 tells the others to train a chunk, and shares its weights with them.
    pub fn begin(&mut self, task: &Task, trainer: &mut StageTrainer) -> Result<(), RanksError> {
        match self {
            Ranks::Alone => Ok(()),
            Ranks::Leader(crew) => crew.begin(task, trainer),
        }
    }

    /// What this rank computes with the others; `None` when it is the only one.
    pub fn exchange(&self) -> Result<Option<&Exchange>, RanksError> {
        match self {
            Ranks::Alone => Ok(None),
            Ranks::Leader(crew) => crew.exchange().map(Some),
        }
    }

    /// All ranks have come to the end of a chunk, and wait for the next.
    pub fn rest(&mut self) {
        match self {
            Ranks::Alone => {}
            Ranks::Leader(crew) => crew.rest(),
        }
    }

    /// Parts from all other ranks after `error`, and finds out which of them was to blame.
    pub fn part(&mut self, error: Option<&RanksError>) -> Option<Lost> {
        match self {
            Ranks::Alone => None,
            Ranks::Leader(crew) => crew.part(error),
        }
    }
}

/// The group of a rank's device, and where its tensors live; all ranks ask for theirs at once.
fn group(
    store: &Store,
    (rank, size): (u32, u32),
    listen: &Listen,
    device: Device,
    timeout: Duration,
) -> Result<(Group, Device), tinygate_c10d::Error> {
    let store = store.prefixed("group")?;
    if !matches!(device, Device::Cuda(_)) || !tinygate_c10d::has_nccl() {
        let group = Group::gloo(&store, rank, size, listen, timeout)?;
        return Ok((group, Device::Cpu));
    }
    let loopback = matches!(listen, Listen::Address(address) if address == "127.0.0.1");
    let group = Group::nccl(&store, rank, size, device, loopback, timeout)?;
    Ok((group, device))
}

/// The versions that must be the same on all ranks.
fn versions() -> [String; 2] {
    [
        env!("CARGO_PKG_VERSION").to_owned(),
        super::LIBTORCH_VERSION.to_owned(),
    ]
}

fn hello_key(rank: u32) -> String {
    format!("hello/{rank}")
}

fn ready_key(rank: u32) -> String {
    format!("ready/{rank}")
}

fn gave_up_key(rank: u32) -> String {
    format!("gave_up/{rank}")
}

fn bye_key(rank: u32) -> String {
    format!("bye/{rank}")
}

fn instruction_key(number: u64) -> String {
    format!("instruction/{number}")
}

const WELCOME_KEY: &str = "welcome";
