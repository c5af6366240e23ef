//! A trainer that is a program: tinygate starts it and exchanges JSON lines with it over a Unix socket.
//!
//! [`ProgramTrainer`] is the [`Trainer`](tinygate::trainer::Trainer) of a run with
//! `trainer.kind = "command"`. The program learns the path of the socket and a one-time token from its
//! environment ([`SOCKET`], [`TOKEN`]), and proves with the token that it is the one that was started.
//! The messages are those of [`tinygate::trainer::wire`].
//!
//! Nothing that the program says is trusted. Reports that contradict each other end it ([`order`]),
//! and the host hashes the files of a checkpoint itself ([`checkpoint`]). A program that exits or sends
//! nonsense is ended with every process that it started ([`processes`]); its chunk fails, and the next
//! attempt starts it again.

#![cfg(unix)]

mod checkpoint;
mod leftover;
mod link;
mod order;
mod processes;
mod program;

pub use checkpoint::RecordJudge;
pub use program::{ProgramSetup, ProgramTrainer};

/// The environment variable with the path of the socket.
pub const SOCKET: &str = "TINYGATE_SOCKET";
/// The environment variable with the token that the first message must contain.
pub const TOKEN: &str = "TINYGATE_TOKEN";
/// The program's output, in the run directory. Each start appends to it.
pub const LOG_FILE: &str = "trainer.log";
