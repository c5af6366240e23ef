//! Decides what happens in a run, with two pure functions on plain data.
//!
//! [`Machine::apply`] folds an event into the state and cannot fail. [`Machine::decide`]
//! reads the state and returns what to do next. Neither uses a clock, a file, a random
//! number, a tensor or the environment: all such values arrive in events. Their arithmetic
//! is limited to `+ - * /`, square root and comparisons.
//!
//! Invariant: for the same rules, the same events in the same order give the same
//! decisions, byte for byte, on every computer. [`rules`] has the versions of the rules; a
//! log's first event says which of them applies.
//!
//! The transition tables are at the top of [`run`] and [`stage`].

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod chunk;
mod command;
mod edition;
mod findings;
pub mod gate;
mod gate_inputs;
pub mod ladder;
pub mod lineage;
mod machine;
pub mod rules;
pub mod run;
pub mod stage;
pub mod statistics;
#[cfg(test)]
mod tests;

pub use chunk::{ChunkState, Previous};
pub use command::{
    Command, Decision, Idle, JudgeCheckpoint, MeasureStage, ResumePoint, TrainChunk, UpstreamModel,
};
pub use edition::Edition;
pub use findings::vacuous_limits;
pub use lineage::{Checkpoint, CheckpointGate, Judgement, Lineage};
pub use machine::Machine;
pub use rules::{KnownRules, RULES, Rules};
pub use run::{ProcessState, RunPhase, RunState};
pub use stage::{Phase, StageState};
