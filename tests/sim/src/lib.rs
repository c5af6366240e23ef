//! Simulates whole runs with faults. A seed determines everything.
//!
//! A seed gives a policy, a script for the trainer, and the faults of each process
//! of the run. The machine, the controller, the store with its recovery, and the
//! auditor are the real ones. The disk, the trainer and the clock are simulated, in
//! one thread.
//!
//! The package depends on all the others and none depends on it. `make test` runs
//! 1000 seeds; `make sim SEEDS=10000` runs as many as you like.
//!
//! # Faults
//!
//! *The disk* ([`tinygate_testing::disk`]) keeps synced bytes apart from unsynced
//! writes. A power cut loses any of the unsynced writes, keeps others, and tears
//! some at any byte or sector, in any order; a kill loses none of them and syncs
//! none. Reads, writes, truncations, renames and syncs fail, are short, are
//! interrupted, or find the disk full. Between two processes bits flip in one copy
//! of the log, or the copy is truncated, does not open, or is missing.
//!
//! sled does not run on a simulated disk. A map behind the same trait
//! ([`tinygate::store::disk::Mirror`]) replaces it, with the same faults: each
//! unsynced value may be lost by itself, which is more than sled loses. Tests with
//! real files cover damage to sled's own files.
//!
//! *The process* dies at any operation of the disk, before, within or after it;
//! between an append and the command that follows from it; between a command and
//! its result; just after any kind of event; during recovery; and twice in a row.
//! It stalls for seconds, its clock is set back, and a person stops it or changes
//! settings.
//!
//! *The trainer* ([`tinygate_testing::ScriptedTrainer`]) reports losses that fall,
//! stay, rise, spike, or are not a number; collapsing entropy; lost structure;
//! missing metrics and pictures; checkpoints that are missing, empty, truncated,
//! corrupt, late, or damaged after they were accepted. It runs out of memory, exits
//! and hangs; its reports arrive twice, late, or never.
//!
//! # Limits of the faults
//!
//! Damage hits one copy at a time, and in the journal only what sled's copy holds
//! durably: newer events have one copy. The next damage comes only after the log
//! was opened and repaired. sled can be read while the journal is damaged. Within
//! these limits every invariant below holds.
//!
//! A run is *exact* when none of its faults may change its course: crashes, disk
//! faults, late verdicts, duplicate reports, results cut off by a crash. It must end
//! as the same run does without faults. Other runs lose single reports, meet damaged
//! checkpoints, signals, changed settings and chunks interrupted too often; all
//! invariants but that comparison apply to them.
//!
//! # Invariants
//!
//! After every event: it is at the log's head; a decision is the one that is due;
//! there is one gate per chunk and attempt, and chunks and attempts rise; failures,
//! chunk failures and extensions are within the budget; settings are within their
//! bounds; no checkpoint is deleted that is still needed; in an exact run a gate has
//! seen the loss of each of its updates once.
//!
//! With every command: all events before it would survive a power cut, chained, and
//! the command follows from them; it resumes from a checkpoint that exists.
//! Observers only receive durable events.
//!
//! After every opening: no acknowledged event is lost, no event appears that was not
//! appended, replay agrees with every decision, and folding a prefix and then the
//! rest gives the same state as folding the whole.
//!
//! At the end: once no more faults are planned, the run ends within a few processes;
//! both copies are whole and equal; an exact run has the same decisions and the same
//! state, including the hashes of the weights, as the run without faults.
//!
//! Every fault and every transition of the machine is counted. A suite that misses
//! one of them fails: see [`Tally::never`].
//!
//! # Determinism
//!
//! [`check`] runs each seed twice. Both runs must give the same events, the same
//! bytes in the journal, the same story and the same tally. A difference is a
//! violation, reported with the first event that differs.
//!
//! # Shrinking
//!
//! [`shrink`] reduces the faults of a failing seed. It removes halves, quarters and
//! single faults, and lowers the numbers in the rest, as long as the seed fails in
//! the same way. In the end no single fault can be removed. The result is printed as
//! a command: `make sim SEED=7 KEEP=3,9@4` runs seed 7 with only its faults 3 and 9,
//! and with 4 as the number (an operation, a count, a time) in fault 9.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a simulation looks at few of the things that can happen, each where it matters"
)]

mod check;
mod fault;
mod keep;
mod ledger;
mod plan;
mod planted;
mod process;
mod shrink;
mod sweep;
mod tally;
mod world;

pub use check::check;
pub use fault::Fault;
pub use keep::Keep;
pub use planted::Planted;
pub use shrink::{Smallest, shrink};
pub use sweep::{Swept, sweep};
pub use tally::{FAULTS, IMPOSSIBLE, Tally};
pub use world::{Case, Simulated, simulate};
