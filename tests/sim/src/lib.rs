//! Whole runs on a machine that fails, from a seed: the simulation.
//!
//! One seed makes one run: a policy, a script for the trainer, and the faults of
//! each of the run's processes. The machine, the controller, the store with its
//! recovery, and the auditor are the real ones. The disk, the trainer and the
//! time are simulated, in one thread, so that a seed gives the same run always.
//!
//! It is a package of its own because it stands on all of the others, the auditor
//! included, and is needed by none. Its tests run 300 seeds with everybody's tests;
//! its program runs as many as one likes: `make sim SEEDS=10000`.
//!
//! # Faults
//!
//! *The disk* ([`tinygate_testing::disk`]) keeps what was synced apart from what
//! lies over it. A power cut loses any of the unsynced writes, keeps others, and
//! tears some at any byte or sector, whatever their order; a kill loses none of
//! them, and syncs none. Reads, writes, cuts, renames and syncs fail, are short,
//! are interrupted, or find the disk full. Between two processes bits flip in one
//! copy of the log, or the copy is cut short, does not open, or is gone.
//!
//! sled does not run on a simulated disk. Its place is taken by a map behind the
//! same trait ([`tinygate::store::disk::Mirror`]) and the same faults: unsynced
//! values are lost each by itself, which is more than sled does. What sled's own
//! files do when they are damaged is for tests with real files.
//!
//! *The process* goes away at any operation of the disk, before, within or after
//! it; between an append and the command that follows from it; between a command
//! and its result; just after any kind of event; in the middle of a recovery; and
//! again before it has done anything. It stalls for seconds, its clock is set back,
//! and a person stops it or changes settings.
//!
//! *The trainer* ([`tinygate_testing::ScriptedTrainer`]) reports losses that fall,
//! stay, rise, jump or are no number, collapsing entropy, lost structure, missing
//! metrics and pictures, checkpoints missing, empty, cut off, broken, late, or
//! damaged after they were accepted. It runs out of memory, exits, hangs and goes
//! away; what it says arrives twice, late, or not at all.
//!
//! # What is promised, and so asked for
//!
//! Damage hits one copy at a time, and in the journal only what sled's copy holds
//! durably: what is newer than that has one copy. Another damage comes only after
//! the log was opened and mended. sled does not fail to be read while the journal
//! is damaged. Within these bounds everything below holds.
//!
//! A run is *exact* when nothing in it may change its course: crashes, disk faults,
//! late verdicts, reports that come twice, results cut off by a crash. It must end
//! as the same run without any fault does. Other runs lose single reports, meet
//! rotten checkpoints, signals, changed settings and chunks interrupted too often:
//! all but that comparison is asked of them.
//!
//! # Invariants
//!
//! After every event: it is at the log's head; a decision is the one that is due;
//! one gate a chunk and attempt, chunks and attempts rise; failures, chunk failures
//! and extensions are within the budget; settings are within their bounds; nothing
//! is deleted that is resumed from or handed on; in an exact run a gate has seen
//! the loss of each of its updates once.
//!
//! With every command: all events before it are on the disk as it would be after
//! a power cut, chained, and the command is what follows from them; it resumes from
//! a checkpoint that is there. Nobody hears of an event that is not durable.
//!
//! After every opening: no acknowledged event is lost, none appears that was not
//! appended, replay agrees with every decision, and the fold of a prefix and then
//! of the rest is the fold of the whole.
//!
//! In the end: with faults no longer planned, the run ends within a few processes;
//! both copies are whole and equal; an exact run has the same decisions and the
//! same state, weights' hashes with it, as the run without faults.
//!
//! Every fault and every transition of the machine is counted. A suite that never
//! had one of them fails: see [`Tally::never`].

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a simulation looks at few of the things that can happen, each where it matters"
)]

mod desk;
mod ledger;
mod plan;
mod sweep;
mod tally;
mod world;

pub use sweep::{Swept, sweep};
pub use tally::{FAULTS, IMPOSSIBLE, Tally};
pub use world::{Planted, Simulated, simulate};
