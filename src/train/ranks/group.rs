//! The connected group of all ranks, as seen by rank 0.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::error::{RanksError, list};
use super::exchange::Exchange;
use super::local::{Worker, all_ended};
use super::mailbox::Mailbox;
use super::message::{Cause, GivenUp, Instruction};

/// How long others may take to report why they gave up, and to exit when they are told to.
pub(super) const PARTING: Duration = Duration::from_secs(5);
/// How often rank 0 looks for notes and for workers that exited.
const POLL: Duration = Duration::from_millis(100);

/// All ranks, between the handshake and the last instruction.
pub(super) struct RankGroup {
    mailbox: Mailbox,
    exchange: Exchange,
    /// The ranks that this process started.
    workers: Vec<Worker>,
    instructions: u64,
}

/// A rank that failed while the others waited for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub how: LostHow,
    /// Which rank, and how it exited.
    pub status: String,
    /// The end of its standard error, or what else is known.
    pub stderr: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostHow {
    OutOfMemory,
    Exited,
    TimedOut { seconds: u64 },
}

impl RankGroup {
    pub fn new(mailbox: Mailbox, exchange: Exchange, workers: Vec<Worker>) -> RankGroup {
        RankGroup {
            mailbox,
            exchange,
            workers,
            instructions: 0,
        }
    }

    pub fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Tells all other ranks what to do next.
    pub fn instruct(&mut self, instruction: &Instruction) -> Result<(), RanksError> {
        self.mailbox.instruct(self.instructions, instruction)?;
        self.instructions += 1;
        Ok(())
    }

    /// Tells all ranks that there is nothing left to do, and waits a while for them to exit.
    pub fn end(&mut self) {
        if self.instruct(&Instruction::End).is_err() {
            return;
        }
        let until = Instant::now() + PARTING;
        self.mailbox.await_goodbyes(self.exchange.size(), until);
        all_ended(
            &mut self.workers,
            until.saturating_duration_since(Instant::now()),
        );
    }

    /// Finds the rank that failed: one that reported its own failure, else one whose process exited without a note, else
    /// one that is silent while all others gave up. If all others gave up, it is this one, for which they waited too long.
    pub fn find_lost(&mut self, how: LostHow, error: &tinygate_c10d::Error) -> Lost {
        let until = Instant::now() + PARTING;
        loop {
            // In this order: a rank leaves its note before it exits.
            let ended: Vec<(u32, ExitStatus)> = self
                .workers
                .iter_mut()
                .filter_map(|worker| Some((worker.rank, worker.ended(Duration::ZERO)?)))
                .collect();
            let notes: Vec<(u32, GivenUp)> = (1..self.exchange.size())
                .filter_map(|rank| Some((rank, self.mailbox.gave_up(rank, POLL)?)))
                .collect();
            let noted = |rank: u32| notes.iter().any(|(noted, _)| *noted == rank);
            let own = |(_, note): &&(u32, GivenUp)| note.cause != Cause::OtherRank;
            if let Some((rank, note)) = notes.iter().find(own) {
                return self.lost_rank(*rank, note_how(note), &note.text);
            }
            if let Some((rank, _)) = ended.iter().find(|(rank, _)| !noted(*rank)) {
                return self.lost_rank(*rank, LostHow::Exited, &error.text);
            }
            let silent: Vec<u32> = (1..self.exchange.size())
                .filter(|rank| !noted(*rank))
                .collect();
            let Some(first) = silent.first() else {
                let said = notes.first().map_or("", |(_, note)| note.text.as_str());
                return Lost {
                    how: LostHow::Exited,
                    status: "rank 0 kept the others waiting".to_owned(),
                    stderr: format!("{said}; `distributed.timeout_seconds` is how long they wait"),
                };
            };
            if until <= Instant::now() {
                return match silent.as_slice() {
                    [one] => self.lost_rank(*one, how, &error.text),
                    _ => Lost {
                        how,
                        status: format!("one of the ranks {}", list(&silent)),
                        stderr: error.text.clone(),
                    },
                };
            }
            // A worker that exits next ends the wait; for a launcher's rank its note does.
            let first = *first;
            match self.workers.iter_mut().find(|worker| worker.rank == first) {
                Some(worker) => drop(worker.ended(POLL)),
                None => self.mailbox.await_gave_up(first, POLL),
            }
        }
    }

    /// How `rank` ended. `said` is what is known besides its standard error.
    fn lost_rank(&mut self, rank: u32, how: LostHow, said: &str) -> Lost {
        let worker = self.workers.iter_mut().find(|worker| worker.rank == rank);
        let Some(worker) = worker else {
            return Lost {
                how,
                status: format!("rank {rank}"),
                stderr: said.to_owned(),
            };
        };
        let hangs = matches!(how, LostHow::TimedOut { .. });
        let status = worker.ended(if hangs { Duration::ZERO } else { PARTING });
        let name = worker.name();
        let stderr = worker.stderr();
        Lost {
            how,
            status: status.map_or_else(|| name.clone(), |status| format!("{status}, {name}")),
            stderr: if stderr.contains(said) {
                stderr
            } else {
                format!("{said}\n{stderr}").trim_end().to_owned()
            },
        }
    }
}

fn note_how(note: &GivenUp) -> LostHow {
    match note.cause {
        Cause::OutOfMemory => LostHow::OutOfMemory,
        Cause::Own | Cause::OtherRank => LostHow::Exited,
    }
}
