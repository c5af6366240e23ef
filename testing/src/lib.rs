//! A scripted trainer, and other helpers for tests.
//!
//! The trainer is connected to the controller by channels. It trains nothing, but answers
//! each command with the facts that the real trainer would report, in the same order. Tests of
//! the controller, replay and crashes use it to do whole runs in milliseconds. It reads no
//! clock and no file, draws its noise by counter, and does not sleep.
//!
//! Invariant: the reports about an update depend only on the script's seed, the command and
//! the update, so a chunk that is trained again after a crash is the same chunk.

mod curve;
pub mod disk;
pub mod fuzz;
pub mod hints;
mod life;
mod program;
pub mod rehearsal;
mod rng;
mod run;
mod script;
mod trainer;

pub use curve::Curve;
pub use life::{Life, Lived, Quiet, Ticks, host, live, lived, lived_with_rules};
pub use program::{GOOD, ProgramFolder, is_running};
pub use rng::Rng;
pub use run::{created, first, process, short_policy};
pub use script::{ChunkPlan, Disturbance, Failure, Files, HeldOut, Picture, Script, Trouble};
pub use trainer::{Answer, ScriptedJudge, ScriptedTrainer};
