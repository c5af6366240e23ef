//! Rank 0: forms the group of ranks, tells them what to train, and disconnects them after a failure.
//!
//! ```text
//! no group ──form──▶ group ──begin──▶ busy ──rest──▶ group
//!     ▲                                │
//!     └───────────disconnect───────────┘      on drop: all ranks are told to exit
//! ```
//!
//! After a failure this process starts its ranks again for the next chunk; only a launcher can restart its own.

use tinygate_c10d::ErrorKind;

use super::error::{RanksError, RendezvousError};
use super::exchange::Exchange;
use super::group::{Lost, LostHow, RankGroup};
use super::message::{Instruction, Task};
use super::plan::Launch;
use super::rendezvous::{Rendezvous, Terms};
use crate::train::StageTrainer;

/// Rank 0, and the others once they are needed.
pub struct Leader {
    launch: Launch,
    terms: Terms,
    group: Option<RankGroup>,
    /// In the middle of a chunk, where the others wait for this rank.
    busy: bool,
}

impl Leader {
    /// Forms the group of all ranks.
    ///
    /// # Errors
    /// Ranks that are missing or cannot take part.
    pub fn form(launch: Launch, terms: Terms) -> Result<Leader, RendezvousError> {
        let group = Rendezvous::open(&launch, &terms)?.meet()?;
        Ok(Leader {
            launch,
            terms,
            group: Some(group),
            busy: false,
        })
    }

    pub fn size(&self) -> u32 {
        self.launch.size()
    }

    pub(super) fn exchange(&self) -> Result<&Exchange, RanksError> {
        let group = self.group.as_ref().ok_or(RanksError::Disconnected)?;
        Ok(group.exchange())
    }

    /// Tells the others to train a chunk, and shares this rank's weights with them.
    pub(super) fn begin(
        &mut self,
        task: &Task,
        trainer: &mut StageTrainer,
    ) -> Result<(), RanksError> {
        let group = match self.group.take() {
            Some(group) => group,
            None if self.launch.is_external() => return Err(RanksError::Disconnected),
            None => Rendezvous::open(&self.launch, &self.terms)?.meet()?,
        };
        let group = self.group.insert(group);
        self.busy = true;
        group.instruct(&Instruction::Train(Box::new(task.clone())))?;
        group.exchange().share(trainer)
    }

    /// The others finished their chunk, and wait for the next.
    pub(super) fn rest(&mut self) {
        self.busy = false;
    }

    /// Disconnects the others if they are in the middle of a chunk, which ends those that this process started. Returns
    /// the rank that caused `error`, if one did.
    pub(super) fn disconnect(&mut self, error: Option<&RanksError>) -> Option<Lost> {
        if !std::mem::take(&mut self.busy) {
            return None;
        }
        let mut group = self.group.take()?;
        if self.launch.is_external() {
            // A rank may wait for an instruction and not for a sum; it must not wait forever.
            let _ = group.instruct(&Instruction::End);
        }
        let error = match error {
            Some(RanksError::Collective(error)) => error,
            Some(
                RanksError::Train(_)
                | RanksError::Rendezvous(_)
                | RanksError::Differ { .. }
                | RanksError::Disconnected,
            )
            | None => return None,
        };
        let how = match error.kind {
            ErrorKind::TimedOut => LostHow::TimedOut {
                seconds: self.terms.timeout.as_secs(),
            },
            ErrorKind::Network | ErrorKind::Store => LostHow::Exited,
            // This rank's own failure.
            ErrorKind::Other | ErrorKind::Cancelled => return None,
        };
        Some(group.find_lost(how, error))
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if let Some(mut group) = self.group.take() {
            group.end();
        }
    }
}
