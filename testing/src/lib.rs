//! A trainer that trains nothing: it reports what a script says.
//!
//! It stands at the other end of the controller's channels and answers each
//! command with the facts the real one would answer it with, in the same order.
//! Tests of the loop, of replay and of crashes run whole runs with it in
//! milliseconds. It reads no clock and no file, draws its noise by counter, and
//! does not sleep.
//!
//! Invariant: what it reports of an update follows from the script's seed, the
//! command and the update alone, so that a chunk that is trained again after a
//! crash is the same chunk.

mod curve;
pub mod disk;
pub mod fuzz;
mod life;
pub mod rehearsal;
mod rng;
mod run;
pub mod said;
mod script;
mod trainer;

pub use curve::Curve;
pub use life::{Life, Lived, Quiet, Ticks, host, live, lived, lived_by};
pub use rng::Rng;
pub use run::{created, first, process, short_policy};
pub use script::{ChunkPlan, Disturbance, Failure, Files, HeldOut, Picture, Script, Trouble};
pub use trainer::{Answer, ScriptedJudge, ScriptedTrainer};
