//! Decides what happens in a run. Two pure functions over plain data.
//!
//! [`Machine::apply`] folds an event into the state; it is total and cannot fail.
//! [`Machine::decide`] reads the state and says what comes next. Neither touches a
//! clock, a file, a random number, a tensor or the environment: every such value
//! reaches them inside an event. On numbers they use only `+ - * /`, square root
//! and comparisons.
//!
//! Invariant: for given rules, the same events in the same order give the same
//! decisions, byte for byte, on every computer. [`rules`] holds the versions of the
//! rules; a [`Machine`] folds and decides a log by those that its first event names.
//!
//! The transition tables stand at the top of [`run`] and [`stage`].

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
pub use rules::{Known, RULES, Rules};
pub use run::{ProcessState, RunPhase, RunState};
pub use stage::{Phase, StageState};
