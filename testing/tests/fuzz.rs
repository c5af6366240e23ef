//! Runs the fuzz targets without libFuzzer on every seed, every regression, and the same
//! mutations of both each time.
//!
//! `TINYGATE_FUZZ_SECONDS` adds other mutations for this long per target.
//! `TINYGATE_FUZZ_SEEDS=write` regenerates the seeds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test panics at anything unexpected, and prints what it found"
)]

#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/seeds.rs"]
mod seeds;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use mutate::Mutator;
use tinygate_testing::fuzz::{TARGETS, Target};

/// Mutations of each input if no time is set.
const ROUNDS: u64 = 12;
/// Largest mutated input in bytes.
const LARGEST: usize = 16 << 10;

fn folder(of: &str, target: &str) -> PathBuf {
    let fuzz = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz"));
    fuzz.join(of).join(target)
}

/// The files of a folder in order; empty if there is no folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return BTreeMap::new();
    };
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

/// Runs one input. If it fails, saves it and prints the path.
fn run(target: &Target, name: &str, bytes: &[u8]) {
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    if result.is_err() {
        let found = std::env::temp_dir().join(format!("tinygate-{}-finding", target.name));
        fs::write(&found, bytes).unwrap();
        panic!(
            "{}: {name}: the input is in `{}`; add it to `fuzz/regressions/{}` with the fix",
            target.name,
            found.display(),
            target.name
        );
    }
}

fn check(name: &str) {
    quiet();
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seeds = files(&folder("corpus", target.name));
    assert!(!seeds.is_empty(), "{} has no seeds", target.name);
    let found = files(&folder("regressions", target.name));
    for (name, bytes) in seeds.iter().chain(&found) {
        run(target, name, bytes);
    }
    let inputs: Vec<&Vec<u8>> = seeds.values().chain(found.values()).collect();
    let seconds = std::env::var("TINYGATE_FUZZ_SECONDS").ok();
    let limit = seconds.map(|seconds| Duration::from_secs(seconds.parse().unwrap()));
    let begun = Instant::now();
    let mut runs = 0u64;
    for round in 0..u64::MAX {
        let on = match limit {
            Some(limit) => begun.elapsed() < limit,
            None => round < ROUNDS,
        };
        if !on {
            break;
        }
        for (at, bytes) in inputs.iter().enumerate() {
            let mut mutator = Mutator::new(round, at as u64);
            let other = inputs[mutator.below(inputs.len())];
            let mut mutated = bytes.to_vec();
            mutator.change(&mut mutated, other);
            mutated.truncate(LARGEST);
            run(target, &format!("input {at}, round {round}"), &mutated);
            runs += 1;
        }
    }
    println!(
        "{}: {} seeds, {} regressions, {runs} mutations",
        target.name,
        seeds.len(),
        found.len()
    );
}

/// Hides panics of third-party parsers, which readers catch.
fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let ours = info.location().is_none_or(|place| {
                ["src/", "testing/", "replay/"]
                    .iter()
                    .any(|folder| place.file().starts_with(folder))
            });
            if ours {
                previous(info);
            }
        }));
    });
}

#[test]
fn journals() {
    check("journal");
}

#[test]
fn frames_and_fragments() {
    check("frames");
}

#[test]
fn each_stored_kind() {
    check("stored");
}

#[test]
fn events_policies_and_configs_in_json() {
    check("json");
}

#[test]
fn pickles() {
    check("pickle");
}

#[test]
fn files_of_frames() {
    check("datasets");
}

#[test]
fn configs_and_overrides() {
    check("config");
}

#[test]
fn every_target_has_a_test_and_a_program() {
    let this = include_str!("fuzz.rs");
    for target in TARGETS {
        let call = format!("check(\"{}\")", target.name);
        assert!(this.contains(&call), "{}", target.name);
        let program = folder("fuzz_targets", "").join(format!("{}.rs", target.name));
        assert!(program.is_file(), "{}", program.display());
    }
}

#[test]
fn the_stored_seeds_are_up_to_date() {
    let write = std::env::var("TINYGATE_FUZZ_SEEDS").is_ok_and(|value| value == "write");
    for (name, seeds) in seeds::all() {
        let folder = folder("corpus", name);
        if write {
            // The folder may not exist yet.
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).unwrap();
            for (seed, bytes) in &seeds {
                fs::write(folder.join(seed), bytes).unwrap();
            }
        }
        let size: usize = seeds.values().map(Vec::len).sum();
        assert!(
            size < 96 << 10,
            "{name}: the seeds are too large, {size} bytes"
        );
        let there: Vec<String> = files(&folder).into_keys().collect();
        let made: Vec<String> = seeds.into_keys().collect();
        assert_eq!(there, made, "{name}");
    }
}
