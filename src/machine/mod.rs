//! Decides what happens in a run. Two pure functions over plain data.
//!
//! [`evolve`] folds an event into the state; it is total and cannot fail.
//! [`decide`] reads the state and says what comes next. Neither touches a clock,
//! a file, a random number, a tensor or the environment: every such value
//! reaches them inside an event. On numbers they use only `+ - * /`, square root
//! and comparisons.
//!
//! Invariant: for given rules, the same events in the same order give the same
//! decisions, byte for byte, on every machine.
//!
//! The transition tables stand at the top of [`run`] and [`stage`].

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod chunk;
mod command;
pub mod gate;
pub mod ladder;
pub mod presets;
pub mod run;
pub mod stage;
pub mod statistics;
#[cfg(test)]
mod tests;

pub use chunk::{ChunkState, Previous};
pub use command::{
    Command, Decision, Idle, JudgeCheckpoint, MeasureStage, ResumePoint, TrainChunk, UpstreamModel,
};
pub use run::{ProcessState, RunPhase, RunState, apply, decide, evolve};
pub use stage::{Checkpoint, Judgement, Phase, StageState};

/// Version of the decision rules new runs are decided by. A change of [`decide`] or
/// [`evolve`] that alters any decision gets the next number, and the old rules stay
/// behind theirs: a decision is a function of the folded state. Rules 1 freeze with
/// the first release.
pub const RULES: u32 = 1;
