//! Ranks that train one model together (DDP), on this machine or several.
//!
//! Rank 0, the leader, is the process that has the log: it alone appends, decides, writes checkpoints and pictures, and
//! tells the followers what to train. It starts them itself, or a launcher starts all ranks (`torchrun`, Slurm,
//! Kubernetes). Messages go through PyTorch's TCPStore; weights and gradients through its Gloo or NCCL group.
//!
//! [`Exchange`] has what the ranks compute, [`Job`] who they are, `rendezvous` how they find each other, [`Leader`] and
//! [`Follower`] what each side does. Invariant: a lost rank costs a chunk, and no other rank waits for it longer than the
//! config says.

mod connection;
mod error;
mod exchange;
mod follower;
mod group;
mod handshake;
pub mod job;
mod leader;
mod local;
mod mailbox;
mod message;
mod plan;
mod rendezvous;

pub use error::{RanksError, RendezvousError};
pub use exchange::Exchange;
pub use follower::{FollowError, Follower, Joined, cause_of};
pub use group::{Lost, LostHow};
pub use job::{Job, JobError, Master};
pub use leader::Leader;
pub use local::{LEADER_VARIABLE, WORKER_COMMAND};
pub use message::{Cause, Instruction, Task};
pub use plan::{Launch, Plan};
pub use rendezvous::{Terms, turn_away};

use super::StageTrainer;

/// The ranks of a run, as seen by rank 0.
pub enum Ranks {
    Alone,
    Leader(Box<Leader>),
}

impl Ranks {
    pub fn size(&self) -> u32 {
        match self {
            Ranks::Alone => 1,
            Ranks::Leader(leader) => leader.size(),
        }
    }

    /// Tells the others to train a chunk, and shares the weights of rank 0 with them.
    pub fn begin(&mut self, task: &Task, trainer: &mut StageTrainer) -> Result<(), RanksError> {
        match self {
            Ranks::Alone => Ok(()),
            Ranks::Leader(leader) => leader.begin(task, trainer),
        }
    }

    /// The exchange with the other ranks; `None` if this rank is the only one.
    pub fn exchange(&self) -> Result<Option<&Exchange>, RanksError> {
        match self {
            Ranks::Alone => Ok(None),
            Ranks::Leader(leader) => leader.exchange().map(Some),
        }
    }

    /// All ranks finished a chunk, and wait for the next.
    pub fn rest(&mut self) {
        match self {
            Ranks::Alone => {}
            Ranks::Leader(leader) => leader.rest(),
        }
    }

    /// Disconnects all other ranks after `error`, and finds the one that caused it, if any.
    pub fn disconnect(&mut self, error: Option<&RanksError>) -> Option<Lost> {
        match self {
            Ranks::Alone => None,
            Ranks::Leader(leader) => leader.disconnect(error),
        }
    }
}
