//! The simulation finds bugs that were put in on purpose: a suite that cannot
//! fail shows nothing.

#![allow(clippy::panic, reason = "helpers of tests fail as tests do")]

use tinygate_sim::{Planted, simulate};

/// Some seed finds it soon, by the invariant that it breaks.
#[track_caller]
fn check(planted: Planted, broken: &[&str]) {
    let found = (0..300).find_map(|seed| {
        let violation = simulate(seed, Some(planted)).violation?;
        Some((seed, violation))
    });
    let Some((seed, violation)) = found else {
        panic!("{planted:?} is not noticed");
    };
    assert!(
        broken.iter().any(|broken| violation.contains(broken)),
        "{planted:?}, seed {seed}: {violation}"
    );
    assert_eq!(simulate(seed, None).violation, None, "seed {seed} without");
}

#[test]
fn a_disk_that_loses_what_it_said_was_synced() {
    check(
        Planted::SyncLies,
        &["events durable", "the durable log cannot be read"],
    );
}

#[test]
fn a_command_before_its_decision_is_durable() {
    check(Planted::SyncSkipped, &["events durable"]);
}

#[test]
fn a_decision_appended_twice() {
    check(Planted::DecisionTwice, &["was not due"]);
}

#[test]
fn a_decision_that_is_not_the_machines() {
    check(Planted::DecisionEdited, &["was not due"]);
}

#[test]
fn training_that_begins_with_other_weights() {
    check(Planted::WrongStart, &["another state"]);
}

#[test]
fn a_result_that_never_comes() {
    check(Planted::ResultDropped, &["a report that is not due"]);
}
