//! The program: arguments in, an exit code out.
//!
//! An error arrives here as a chain of causes and is printed on stderr as one line and a hint. The
//! commands are in [`command`], one file each; how things look on a screen is in [`output`].
//!
//! Invariant: stdout has data only, and a reader that closes it is not an error.

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
        // A thread still computes, and a normal exit would free what it uses.
        let _ = std::io::stdout().flush();
        signal_hook::low_level::exit(i32::from(exit.code()));
    }
    ExitCode::from(exit.code())
}
