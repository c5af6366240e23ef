//! A run that is killed at any moment makes the same decisions, and folds to the same state, as one
//! that is never killed.

use std::collections::BTreeSet;

use super::build::*;
use crate::*;
use tinygate_events::*;

/// Fails, restarts, runs out of memory, loses a worker, and finally passes.
fn eventful(train: &TrainChunk) -> Outcome {
    let late = high(0.009 / train.to.get() as f64);
    match (train.stage.as_str(), train.chunk.get(), train.attempt.get()) {
        ("video_tokenizer", 1, 1) => Outcome {
            gate_accepted: false,
            ..high(0.5)
        },
        ("video_tokenizer", 2, 1) => Outcome {
            failure: Some((70, out_of_memory())),
            ..good()
        },
        ("video_tokenizer", 3, 1) => Outcome {
            last: Some(f64::NAN),
            ..good()
        },
        ("latent_actions", 1 | 2, 1) => Outcome {
            action_entropy: 0.0,
            ..good()
        },
        ("latent_actions", 3, 1) => Outcome {
            failure: Some((10, exited())),
            ..good()
        },
        ("dynamics", 2 | 3, 1) => Outcome {
            structure_lost: true,
            middle_accepted: false,
            ..late
        },
        _ => late,
    }
}

/// Never passes, and stops at the sixth failure.
fn hopeless(train: &TrainChunk) -> Outcome {
    Outcome {
        middle_accepted: train.chunk.get() != 2,
        ..high(0.5)
    }
}

fn policy() -> Policy {
    let mut policy = super::build::policy(ModelKind::ALL.map(stage_policy).to_vec());
    policy.keep_last = 2;
    policy
}

fn run(outcome: fn(&TrainChunk) -> Outcome) -> Run {
    let mut run = Run::start(policy());
    run.finish(outcome);
    run
}

/// Decisions, except those caused by a resume.
fn decisions(log: &[Event]) -> Vec<&Event> {
    let decisions = log.iter().filter(|event| event.is_decision());
    decisions
        .filter(|event| !matches!(event, Event::SamplesSuperseded(_)))
        .collect()
}

/// Replays the first `length` events, starts `times` new processes, and continues to the end.
fn killed(log: &[Event], length: usize, times: u32, outcome: fn(&TrainChunk) -> Outcome) -> Run {
    let mut run = Run {
        state: RunState::empty(),
        log: Vec::new(),
    };
    for event in &log[..length] {
        run.append(event.clone());
    }
    for _ in 0..times {
        run.append(process());
    }
    run.finish(outcome);
    run
}

#[track_caller]
fn check_kills(outcome: fn(&TrainChunk) -> Outcome) {
    let whole = run(outcome);
    let mut rewound = 0;
    for length in 1..=whole.log.len() {
        for times in [1, 2] {
            let killed = killed(&whole.log, length, times, outcome);
            let kind = whole.log[length - 1].kind();
            let place = format!("killed {times} times after {length}, {kind}");
            assert!(decisions(&killed.log) == decisions(&whole.log), "{place}");
            let (state, want) = (
                killed.state.without_process(),
                whole.state.without_process(),
            );
            assert!(state == want, "{place}");
            rewound += u32::from(killed.kinds().contains(&"samples_superseded"));
        }
    }
    assert!(0 < rewound, "no kill happened during a chunk");
}

#[test]
fn a_run_that_finishes_survives_kills_anywhere() {
    let whole = run(eventful);
    assert_eq!(whole.state.phase, RunPhase::Finished);
    let seen = whole.kinds();
    let eventful_kinds = [
        "patch_applied",
        "patch_deferred",
        "failure_decided",
        "checkpoint_deleted",
        "chunk_failed",
    ];
    for kind in eventful_kinds {
        assert!(seen.contains(&kind), "the run has no {kind}");
    }
    check_kills(eventful);
}

#[test]
fn a_run_that_stops_survives_kills_anywhere() {
    assert_eq!(run(hopeless).state.phase, RunPhase::Stopped(0));
    check_kills(hopeless);
}

#[test]
fn a_run_survives_a_kill_in_every_chunk() {
    let whole = run(eventful);
    let mut run = Run::start(policy());
    let mut killed = BTreeSet::new();
    while let Some(command) = run.command() {
        let first = match &command {
            Command::TrainChunk(train) => {
                killed.insert((train.stage.clone(), train.chunk, train.attempt))
            }
            Command::MeasureStage(_) | Command::JudgeCheckpoint(_) => false,
        };
        if !first {
            run.obey(&command, eventful);
            continue;
        }
        // After its first checkpoint, if it writes one.
        for fact in facts(&command, eventful).into_iter().take(2) {
            run.report(fact);
        }
        run.report(process());
    }
    assert!(10 < killed.len(), "{killed:?}");
    assert!(decisions(&run.log) == decisions(&whole.log));
    assert!(run.state.without_process() == whole.state.without_process());
}

#[test]
fn every_decision_is_recomputed_from_the_log_before_it() {
    for whole in [run(eventful), run(hopeless)] {
        let mut state = RunState::empty();
        let mut recomputed = 0;
        for event in &whole.log {
            if event.is_decision() {
                let want = Decision::Record(Box::new(event.clone()));
                assert_eq!(decide(&state), want);
                recomputed += 1;
            }
            apply(&mut state, event);
        }
        assert!(state == whole.state);
        assert!(20 < recomputed, "{recomputed} decisions");
    }
}
