//! How fast events are appended to the log and read from it.
//!
//! `cargo bench --no-default-features --bench log [-- EVENTS]`

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints figures or panics"
)]

use std::time::{Duration, Instant};

use tinygate::events::{
    Attempt, CheckpointDeleted, CheckpointRef, ChunkNumber, Column, Event, MetricsLogged, Scalar,
    Seq, StageName, Step, Steps,
};
use tinygate::store::{Durability, EventLog, LogFile, Store};

fn small(at: u64) -> Event {
    let checkpoint = CheckpointRef {
        path: "checkpoints/dynamics/5000".to_owned(),
        step: Step::new(at),
    };
    Event::CheckpointDeleted(CheckpointDeleted {
        stage: StageName::new("dynamics"),
        checkpoint,
    })
}

fn metrics(at: u64) -> Event {
    let column = |name: &str| Column {
        name: name.to_owned(),
        steps: Steps::Stride {
            first: at,
            stride: 1,
        },
        values: (0..100)
            .map(|step| Scalar::new((at + step) as f64))
            .collect(),
    };
    Event::MetricsLogged(MetricsLogged {
        stage: StageName::new("dynamics"),
        chunk: ChunkNumber::FIRST,
        attempt: Attempt::FIRST,
        columns: ["train/loss", "learning_rate", "grad_norm"]
            .map(column)
            .to_vec(),
    })
}

fn report(name: &str, events: u64, bytes: u64, took: Duration) {
    let seconds = took.as_secs_f64();
    println!(
        "{name:<46} {:>12.0} events/s {:>8.1} MB/s",
        events as f64 / seconds,
        bytes as f64 / seconds / 1e6
    );
}

fn main() {
    let events = std::env::args()
        .skip(1)
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(1_000_000u64);
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (kind, make, count) in [
        ("small", small as fn(u64) -> Event, events),
        ("300 metric samples", metrics, events / 50),
    ] {
        for batch in [1u64, 64] {
            bench(folder.path(), kind, make, count, batch);
        }
    }
    durable(folder.path(), events / 500);
}

fn bench(folder: &std::path::Path, kind: &str, make: fn(u64) -> Event, count: u64, batch: u64) {
    let run = folder.join(format!("{kind}-{batch}"));
    let store = Store::create(&run, "bench").expect("a new log");
    let made: Vec<(u64, Event)> = (0..count).map(|at| (at, make(at))).collect();
    let begun = Instant::now();
    let mut head = 0;
    for chunk in made.chunks(batch as usize) {
        head = store
            .append(Seq::new(head), chunk, Durability::Lazy)
            .expect("an append")
            .get();
    }
    store.sync().expect("a sync");
    let took = begun.elapsed();
    store.close().expect("a close");
    let bytes = std::fs::metadata(run.join("log/journal.tgj"))
        .expect("a journal")
        .len();
    report(
        &format!("{kind}: lazy append, {batch} at a time"),
        count,
        bytes,
        took,
    );
    if batch == 1 {
        return;
    }

    let begun = Instant::now();
    let mut seen = 0u64;
    let mut records = LogFile::open(&run).expect("the log").records();
    let visited = records.visit_stored(|_, stored| {
        seen += u64::from(stored.form.kind != 0);
        Ok(())
    });
    visited.expect("a sound log");
    report(
        &format!("{kind}: scan, chain checked"),
        seen,
        bytes,
        begun.elapsed(),
    );

    let begun = Instant::now();
    let last = LogFile::open(&run)
        .expect("the log")
        .records()
        .map(|record| record.expect("a record").time_ms)
        .max();
    report(
        &format!("{kind}: scan, live events"),
        last.map_or(0, |last| last + 1),
        bytes,
        begun.elapsed(),
    );

    let begun = Instant::now();
    drop(Store::open(&run).expect("the log"));
    report(
        &format!("{kind}: open, both copies checked"),
        count,
        2 * bytes,
        begun.elapsed(),
    );

    // As on resume: both copies are verified, and every event is decoded once.
    let begun = Instant::now();
    let (store, _) = Store::open(&run).expect("the log");
    let records = store.read(Seq::FIRST).expect("the log");
    let last = records
        .map(|record| record.expect("a record").time_ms)
        .max();
    let in_two_passes = begun.elapsed();
    drop(store);
    let begun = Instant::now();
    let mut seen = None;
    let opened = Store::open_and_read(&run, |record| {
        seen = seen.max(Some(record.expect("a record").time_ms));
    });
    drop(opened.expect("the log"));
    let took = begun.elapsed();
    assert_eq!(seen, last, "the same events");
    report(
        &format!("{kind}: open, live events in the same pass"),
        count,
        2 * bytes,
        took,
    );
    println!(
        "{kind}: takes {:.2} of the time of two passes",
        took.as_secs_f64() / in_two_passes.as_secs_f64()
    );
}

fn durable(folder: &std::path::Path, count: u64) {
    let store = Store::create(&folder.join("durable"), "bench").expect("a new log");
    let mut took: Vec<Duration> = Vec::new();
    for at in 0..count {
        let begun = Instant::now();
        store
            .append(Seq::new(at), &[(at, small(at))], Durability::Durable)
            .expect("an append");
        took.push(begun.elapsed());
    }
    took.sort();
    let at = |share: usize| took[(took.len() - 1) * share / 100].as_secs_f64() * 1e3;
    println!(
        "durable append of one decision: p50 {:.2} ms, p99 {:.2} ms",
        at(50),
        at(99)
    );
}
