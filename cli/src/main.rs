//! The program: arguments in, an exit code out.
//!
//! Everything that can go wrong arrives here as one chain of causes and leaves as
//! one line and a hint on stderr. What the commands do stands in [`command`], one
//! file each; how things look on a screen in [`output`].
//!
//! Invariant: stdout carries data only, and a reader that goes away is no error.

#![cfg_attr(
    not(feature = "train"),
    expect(
        dead_code,
        reason = "without a trainer a run's screen has nothing to show"
    )
)]

mod args;
mod command;
mod exit;
mod output;
mod session;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;

fn main() -> ExitCode {
    output::warnings_to_stderr();
    let exit = match command::perform(Cli::parse().command) {
        Ok(exit) => exit,
        Err(error) => {
            let exit = exit::of_error(&error);
            if exit != exit::Exit::Done {
                output::error(&error);
            }
            exit
        }
    };
    if exit == exit::Exit::NoProgress {
        // A thread still computes: what runs at a normal exit would free what it uses.
        let _ = std::io::stdout().flush();
        signal_hook::low_level::exit(i32::from(exit.code()));
    }
    ExitCode::from(exit.code())
}
