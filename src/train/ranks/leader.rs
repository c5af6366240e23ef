//! Rank 0: forms the group of ranks, tells them what to train, and disconnects them after a failure.
//!
//! ```text
//! no group ──form──▶ group ──begin──▶ busy ──rest──▶ group
//!     ▲                                │
//!     └───────────disconnect───────────┘      dropped: every rank was told to exit, and did
//! ```
//!
//! Ranks that this process started are started anew for the next chunk; those of a launcher are the launcher's to start.

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
    /// Ranks that are missing, or that cannot take part.
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

    /// Disconnects the others if they are in the middle of a chunk, which ends those that this process started. Says
    /// which rank caused `error`, if one did.
    pub(super) fn disconnect(&mut self, error: Option<&RanksError>) -> Option<Lost> {
        if !std::mem::take(&mut self.busy) {
            return None;
        }
        let mut group = self.group.take()?;
        if self.launch.is_external() {
            // A rank that waits for an instruction instead of a sum must not wait for ever.
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
            // This rank's own.
            ErrorKind::Other | ErrorKind::Cut => return None,
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
