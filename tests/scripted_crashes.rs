//! A run that crashes after any event ends like one that never crashed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]

use tinygate::controller::Ending;
use tinygate::events::{Event, Record};
use tinygate::presets::ModelKind;
use tinygate_testing::{ChunkPlan, Curve, Failure, Lived, Script, first, lived, short_policy};

const VIDEO: &str = "video_tokenizer";
const LATENT: &str = "latent_actions";
const DYNAMICS: &str = "dynamics";

/// Resumes from a log that ends after `before`.
fn resume(before: &[Record], script: &Script) -> Lived {
    let mut done = lived(before, vec![], script.clone()).unwrap();
    done.state = done.state.without_process();
    done
}

/// Only a crash supersedes samples.
fn decisions(records: &[Record]) -> Vec<&Event> {
    records
        .iter()
        .map(|record| &record.event)
        .filter(|event| event.is_decision() && !matches!(event, Event::SamplesSuperseded(_)))
        .collect()
}

#[track_caller]
fn check(name: &str, script: &Script, want: &Ending) {
    let whole = resume(&first(short_policy()), script);
    assert_eq!(whole.ending, *want, "{name}");
    let mut superseded = 0;
    for kept in 1..whole.records.len() {
        let crashed = resume(&whole.records[..kept], script);
        let last = whole.records[kept - 1].event.kind();
        let place = format!("{name}: cut after event {} ({last})", kept - 1);
        assert_eq!(
            decisions(&crashed.records),
            decisions(&whole.records),
            "{place}"
        );
        assert!(crashed.state == whole.state, "{place}: another state");
        assert_eq!(crashed.ending, whole.ending, "{place}");
        superseded += count(&crashed.records);

        // Crash again a few events later.
        if !kept.is_multiple_of(3) {
            continue;
        }
        let again = crashed.records.len().min(kept + 1 + kept % 5);
        let twice = resume(&crashed.records[..again], script);
        assert_eq!(
            decisions(&twice.records),
            decisions(&whole.records),
            "{place}, then after event {again}"
        );
        assert!(
            twice.state == whole.state,
            "{place}, then after event {again}: another state"
        );
    }
    assert!(0 < superseded, "{name}: no cut fell into a chunk");
}

fn count(records: &[Record]) -> usize {
    records
        .iter()
        .filter(|record| matches!(record.event, Event::SamplesSuperseded(_)))
        .count()
}

#[test]
fn a_clean_run() {
    check("clean", &Script::new(3), &Ending::Finished);
}

#[test]
fn a_run_with_retunes_a_restart_and_failed_chunks() {
    let video = ChunkPlan::good(ModelKind::VideoTokenizer);
    let latent = ChunkPlan::good(ModelKind::LatentActions);
    let dynamics = ChunkPlan::good(ModelKind::Dynamics);
    let script = Script::new(4)
        .chunk(VIDEO, 1, video.clone().loss(Curve::flat(0.05).noisy(0.1)))
        .chunk(VIDEO, 2, video.clone().loss(Curve::line(0.04, 0.03)))
        .attempt(VIDEO, 3, 1, video.failing(6, Failure::WorkerExited))
        .chunk(LATENT, 1, latent.clone().collapsing())
        .chunk(
            LATENT,
            2,
            latent.loss(Curve::decay(0.3, 2.0).but(4, f64::NAN)),
        )
        .attempt(
            DYNAMICS,
            1,
            1,
            dynamics.clone().failing(15, Failure::OutOfMemory),
        )
        .chunk(DYNAMICS, 2, dynamics.picture(4, 4));
    check("eventful", &script, &Ending::Finished);
}

#[test]
fn a_run_that_stops() {
    let hopeless = ChunkPlan::good(ModelKind::VideoTokenizer).loss(Curve::flat(0.5));
    check(
        "stopped",
        &Script::new(5).stage(VIDEO, hopeless),
        &Ending::Stopped,
    );
}
