//! Damages a small log in every way, and compares the result with the original.
//!
//! The journal and the blocks in sled are damaged in memory, the files of a real sled folder
//! on disk, each case in its own process. A table shows how many cases had which outcome. Some
//! outcomes must not occur; if they do, the program lists the cases and fails.
//!
//! `make test` runs a share of the cases on disk, `make damage` (`TINYGATE_DAMAGE=full`) all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test panics at anything unexpected, and prints what it found"
)]

mod files;
mod memory;
mod outcome;
#[path = "../store_support/mod.rs"]
mod store_support;
mod truth;

use std::process::ExitCode;
use std::time::Instant;

use outcome::Table;

/// How many of the cases that take processes and files.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Takes a few seconds.
    Small,
    Full,
}

fn main() -> ExitCode {
    if let Some(folder) = std::env::var_os(files::CHILD) {
        return files::child(folder.as_ref());
    }
    // Used by tools that list tests.
    if std::env::args().any(|arg| arg == "--list") {
        println!("damage: test");
        return ExitCode::SUCCESS;
    }
    let share = match std::env::var("TINYGATE_DAMAGE") {
        Ok(value) if value == "full" => Share::Full,
        _ => Share::Small,
    };
    let begun = Instant::now();
    let mut table = Table::default();
    memory::every_case(&mut table);
    files::every_case(&mut table, share);
    table.print();
    println!("{:.0} s", begun.elapsed().as_secs_f64());
    match table.verdict() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("damage: FAILED: {why}");
            ExitCode::FAILURE
        }
    }
}
