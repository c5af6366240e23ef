//! Every damage to a small log, judged against what the log held before.
//!
//! The journal and the blocks in sled are damaged in memory, the files of a real
//! sled folder on the disk, each of those in a process of its own. A table says how
//! many cases came to which outcome; some outcomes must not occur at all, and then
//! the program fails and names the cases.
//!
//! `make test` takes a share of the cases on the disk, `make damage`
//! (`TINYGATE_DAMAGE=full`) all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at what it did not expect, and prints what it found"
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

/// How much of what takes processes and files.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Some seconds.
    Small,
    Full,
}

fn main() -> ExitCode {
    if let Some(folder) = std::env::var_os(files::CHILD) {
        return files::child(folder.as_ref());
    }
    // asked for by tools that look for tests
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
