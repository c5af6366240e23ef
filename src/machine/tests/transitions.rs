//! The transition tables match the code.
//!
//! Runs are driven into each phase to get sample states, and every kind of event is applied
//! to each. A pair in a table must lead to its phases, and to each of them from some sample;
//! any other pair must leave the phase unchanged.

use std::collections::{BTreeMap, BTreeSet};

use super::build::*;
use crate::run::{RunPhaseKind, TRANSITIONS as RUN_TRANSITIONS};
use crate::stage::{PhaseKind, TRANSITIONS};
use crate::*;
use tinygate_events::*;

const PHASES: [PhaseKind; 12] = [
    PhaseKind::Pending,
    PhaseKind::Measuring,
    PhaseKind::Recording,
    PhaseKind::Training,
    PhaseKind::Rewinding,
    PhaseKind::Gating,
    PhaseKind::Failed,
    PhaseKind::Ending,
    PhaseKind::Stopping,
    PhaseKind::Stopped,
    PhaseKind::Reopening,
    PhaseKind::Passed,
];

const RUN_PHASES: [RunPhaseKind; 6] = [
    RunPhaseKind::Empty,
    RunPhaseKind::Running,
    RunPhaseKind::Finishing,
    RunPhaseKind::Stopping,
    RunPhaseKind::Finished,
    RunPhaseKind::Stopped,
];

/// Logs that together contain every kind of event.
fn logs() -> Vec<Vec<Event>> {
    let mut policy = policy(ModelKind::ALL.map(stage_policy).to_vec());
    policy.keep_last = 0;
    let mut passing = Run::start(policy.clone());
    passing.report(Event::StoreRepaired(StoreRepaired {
        copy: "sled".to_owned(),
        detail: String::new(),
        quarantine: None,
        restored: 0,
    }));
    passing.report(Event::FallbackGranted(FallbackGranted {
        ranks_wanted: 2,
        ranks_available: 1,
        accumulation_factor: 2,
        granted_by: "config".to_owned(),
    }));
    passing.report(Event::RunInterrupted(RunInterrupted {
        reason: InterruptReason::Signal {
            name: "SIGINT".to_owned(),
        },
    }));
    passing.report(process());
    passing.fail(10, exited());
    passing.finish(|train| match (train.stage.as_str(), train.chunk.get()) {
        ("latent_actions", 1 | 2) => Outcome {
            action_entropy: 0.0,
            ..good()
        },
        _ => high(0.009 / train.to.get() as f64),
    });
    let mut stopping = Run::start(policy.clone());
    stopping.finish(|_| high(0.5));
    stopping.allow(1);
    stopping.fail(10, exited());
    stopping.finish(|_| high(0.5));
    let mut failing = Run::start(policy.clone());
    failing.finish(|_| Outcome {
        failure: Some((10, exited())),
        ..good()
    });
    failing.allow(1);
    vec![
        given_up(policy.clone()),
        passing.log,
        stopping.log,
        failing.log,
        lost_start(policy),
        counters(),
    ]
}

/// After a crash, the checkpoint from which the chunk started turns out to be damaged.
fn lost_start(policy: Policy) -> Vec<Event> {
    let mut run = Run::start(policy);
    run.gate(&high(0.5));
    let train = run.training();
    let start = train.resume.clone().unwrap().checkpoint;
    run.append(process());
    run.report(judged(&train.stage, &start, false));
    for _ in 0..3 {
        run.append(process());
    }
    run.settle();
    run.log
}

/// A person gives up the checkpoint from which a chunk started, and asks to free disk space.
fn given_up(policy: Policy) -> Vec<Event> {
    let mut run = Run::start(policy);
    run.gate(&high(0.5));
    let train = run.training();
    run.append(Event::CheckpointGivenUp(CheckpointGivenUp {
        stage: train.stage.clone(),
        checkpoint: train.resume.unwrap().checkpoint,
        who: "somebody".to_owned(),
        why: "its files are gone".to_owned(),
    }));
    run.report(Event::PruneRequested(PruneRequested {
        keep_last: 0,
        who: "somebody".to_owned(),
    }));
    run.report(process());
    run.finish(|_| high(0.5));
    run.log
}

/// The target is the largest step.
fn counters() -> Vec<Event> {
    let mut created = created(policy_of(ModelKind::VideoTokenizer));
    created.init_from = vec![InitFrom {
        stage: StageName::new("video_tokenizer"),
        checkpoint: checkpoint("given", u64::MAX),
        files: Vec::new(),
        fresh_optimizer: false,
    }];
    Run::create(created).log
}

/// Every state that folding the logs goes through.
fn states(logs: &[Vec<Event>]) -> Vec<RunState> {
    let fold = |log: &Vec<Event>| {
        let mut state = RunState::empty();
        let mut states = vec![state.clone()];
        for event in log {
            apply(&mut state, event);
            states.push(state.clone());
        }
        states
    };
    logs.iter().flat_map(fold).collect()
}

/// At most `most` items of each kind, including the first and the last.
fn some<K: Ord, T>(all: Vec<T>, kind: impl Fn(&T) -> K, most: usize) -> Vec<T> {
    let mut taken: BTreeMap<K, usize> = BTreeMap::new();
    let mut kept = Vec::new();
    for one in all.into_iter().rev() {
        let count = taken.entry(kind(&one)).or_default();
        *count += 1;
        if *count <= most {
            kept.push(one);
        }
    }
    kept
}

fn samples() -> (Vec<RunState>, Vec<Event>) {
    let logs = logs();
    let place = |state: &RunState| {
        let stages: Vec<(PhaseKind, bool)> = state
            .stages
            .iter()
            .map(|stage| (stage.phase.kind(), stage.chunk.is_some()))
            .collect();
        (state.phase.kind(), stages)
    };
    let states = some(states(&logs), place, 4);
    let mut events = some(logs.concat(), Event::kind, 40);
    events.push(change(None, SettingKey::MaxRetries, count(100)));
    events.push(change(None, SettingKey::LogInterval, count(3)));
    events.push(Event::RunCreated(Box::new(created(policy(Vec::new())))));
    (states, events)
}

/// Transitions seen between kinds of phases, by the kind of event.
type Seen<K> = BTreeMap<(K, &'static str), BTreeSet<K>>;

#[track_caller]
fn check<K: Ord + Copy + std::fmt::Debug>(
    phases: &[K],
    table: &[(K, &'static str, &[K])],
    seen: &Seen<K>,
) {
    for phase in phases {
        for kind in Event::KINDS {
            let row = table.iter().find(|row| row.0 == *phase && row.1 == kind);
            let found = seen.get(&(*phase, kind));
            let found = found.unwrap_or_else(|| panic!("no sample of {kind} in {phase:?}"));
            // A late event, or one for another stage, leaves the phase unchanged.
            let targets = row.map_or(&[][..], |(_, _, targets)| targets);
            let want: BTreeSet<K> = targets.iter().chain([phase]).copied().collect();
            assert!(
                found.is_subset(&want),
                "{kind} in {phase:?} leads to {found:?}, not {want:?}"
            );
            let unseen = |target: &&K| !found.contains(target) && *target != phase;
            let unseen: Vec<&K> = want.iter().filter(unseen).collect();
            assert!(
                unseen.is_empty(),
                "{kind} in {phase:?} never leads to {unseen:?}"
            );
        }
    }
    let known = |row: &&(K, &str, &[K])| Event::KINDS.contains(&row.1);
    assert_eq!(table.iter().filter(known).count(), table.len());
}

#[test]
fn the_table_of_stages_matches_the_code() {
    let (states, events) = samples();
    let mut seen: Seen<PhaseKind> = BTreeMap::new();
    for state in &states {
        for event in &events {
            let after = evolve(state.clone(), event);
            for (stage, then) in state.stages.iter().zip(&after.stages) {
                let (from, to) = (stage.phase.kind(), then.phase.kind());
                assert!(
                    from != to || is_listed(from, event) || stage.phase == then.phase,
                    "{} changes {from:?} inside",
                    event.kind()
                );
                seen.entry((from, event.kind())).or_default().insert(to);
            }
        }
    }
    check(&PHASES, TRANSITIONS, &seen);
}

fn is_listed(from: PhaseKind, event: &Event) -> bool {
    TRANSITIONS
        .iter()
        .any(|row| row.0 == from && row.1 == event.kind())
}

#[test]
fn the_table_of_runs_matches_the_code() {
    let (states, events) = samples();
    let mut seen: Seen<RunPhaseKind> = BTreeMap::new();
    for state in &states {
        for event in &events {
            let after = evolve(state.clone(), event);
            let (from, to) = (state.phase.kind(), after.phase.kind());
            seen.entry((from, event.kind())).or_default().insert(to);
        }
    }
    check(&RUN_PHASES, RUN_TRANSITIONS, &seen);
}

#[test]
fn the_tests_cover_every_phase() {
    // A new variant makes these matches fail to compile.
    let place = |phase| match phase {
        PhaseKind::Pending => 0,
        PhaseKind::Measuring => 1,
        PhaseKind::Recording => 2,
        PhaseKind::Training => 3,
        PhaseKind::Rewinding => 4,
        PhaseKind::Gating => 5,
        PhaseKind::Failed => 6,
        PhaseKind::Ending => 7,
        PhaseKind::Stopping => 8,
        PhaseKind::Stopped => 9,
        PhaseKind::Reopening => 10,
        PhaseKind::Passed => 11,
    };
    let run_place = |phase| match phase {
        RunPhaseKind::Empty => 0,
        RunPhaseKind::Running => 1,
        RunPhaseKind::Finishing => 2,
        RunPhaseKind::Stopping => 3,
        RunPhaseKind::Finished => 4,
        RunPhaseKind::Stopped => 5,
    };
    assert!(
        PHASES
            .iter()
            .enumerate()
            .all(|(at, phase)| place(*phase) == at)
    );
    assert!(
        RUN_PHASES
            .iter()
            .enumerate()
            .all(|(at, phase)| run_place(*phase) == at)
    );
}

#[test]
fn events_occur_only_in_the_phases_of_the_table() {
    let logs = logs();
    let kinds: BTreeSet<&str> = logs.concat().iter().map(Event::kind).collect();
    let sampled: BTreeSet<&str> = kinds.into_iter().chain(["setting_changed"]).collect();
    assert_eq!(sampled, Event::KINDS.into_iter().collect());
}
