//! The simulation finds bugs that are added on purpose, which shows that it can fail.

#![allow(clippy::panic, reason = "helpers of tests fail as tests do")]

use tinygate_sim::{Case, Keep, Planted, Smallest, check, shrink};

/// The first seed that finds a bug, by the violation that it should cause.
#[track_caller]
fn found(planted: Planted, broken: &[&str]) -> Case {
    let failing = (0..300).find_map(|seed| {
        let case = Case::new(seed).planted(planted);
        let violation = check(&case).violation?;
        Some((case, violation))
    });
    let Some((case, violation)) = failing else {
        panic!("{planted:?} is not detected");
    };
    let seed = case.seed;
    assert!(
        broken.iter().any(|broken| violation.contains(broken)),
        "{planted:?}, seed {seed}: {violation}"
    );
    let without = check(&Case::new(seed)).violation;
    assert_eq!(without, None, "seed {seed} without");
    case
}

/// Shrinks a case. The smallest list of faults, also as printed, still violates `broken`, and violates
/// nothing without any one of them.
#[track_caller]
fn smallest(case: &Case, broken: &str) -> Smallest {
    let Some(smallest) = shrink(case) else {
        panic!("{case:?} does not fail");
    };
    let printed = smallest.to_string();
    let again = shrink(case).map(|smallest| smallest.to_string());
    assert_eq!(again.as_ref(), Some(&printed));
    assert!(smallest.minimal, "{smallest}");
    assert!(smallest.violation.contains(broken), "{smallest}");
    let keep = printed.rsplit_once("KEEP=").map(|(_, keep)| keep.parse());
    let Some(Ok(keep)): Option<Result<Keep, String>> = keep else {
        panic!("{printed}");
    };
    let again = check(&case.keep(keep.clone())).violation;
    assert_eq!(again.as_ref(), Some(&smallest.violation), "{smallest}");
    for fault in keep.faults() {
        let fewer = check(&case.keep(keep.without(&[fault]))).violation;
        let fewer = fewer.unwrap_or_default();
        assert!(
            !fewer.contains(broken),
            "without {fault}: {fewer}\n{smallest}"
        );
    }
    smallest
}

#[test]
fn a_disk_that_lies_about_fsync() {
    found(
        Planted::SyncLies,
        &["events durable", "the durable log cannot be read"],
    );
}

#[test]
fn a_command_before_its_decision_is_durable() {
    found(Planted::SyncSkipped, &["events durable"]);
}

#[test]
fn a_decision_appended_twice() {
    found(Planted::DecisionTwice, &["was not due"]);
}

#[test]
fn a_decision_that_the_machine_did_not_make() {
    found(Planted::DecisionEdited, &["was not due"]);
}

#[test]
fn training_that_starts_with_the_wrong_weights() {
    found(Planted::WrongStart, &["another state"]);
}

#[test]
fn a_result_that_is_never_reported() {
    found(Planted::ResultDropped, &["a report that is not due"]);
}

#[test]
fn a_result_that_is_not_reported_once_the_clock_was_set_back() {
    let broken = "a report that is not due";
    let case = found(Planted::ResultDroppedAfterSetBack, &[broken]);
    let smallest = smallest(&case, broken);
    // One process has to end early, and the clock has to be set back after it.
    assert_eq!(smallest.faults.len(), 2, "{smallest}");
    assert!(
        smallest.of > 10,
        "there was something to shrink: {smallest}"
    );
    let set_back = "the clock is set back by 1 ms";
    assert!(smallest.to_string().contains(set_back), "{smallest}");
}

/// A local minimum may have more faults than the smallest possible list: in one seed a process
/// ends early only because its stage stops after three bad chunks.
#[test]
fn every_seed_of_a_bug_is_shrunk_until_no_fault_can_be_removed() {
    let broken = "a report that is not due";
    let failing: Vec<Smallest> = (0..40)
        .map(|seed| Case::new(seed).planted(Planted::ResultDroppedAfterSetBack))
        .filter(|case| check(case).violation.is_some())
        .map(|case| smallest(&case, broken))
        .collect();
    assert!(failing.len() > 3, "{failing:?}");
    for smallest in failing {
        assert!((2..=5).contains(&smallest.faults.len()), "{smallest}");
    }
}

#[test]
fn a_bug_that_needs_no_fault_is_shrunk_to_none() {
    let case = found(Planted::DecisionEdited, &["was not due"]);
    let smallest = smallest(&case, "was not due");
    assert_eq!(smallest.keep, Keep::default(), "{smallest}");
}

#[test]
fn a_log_that_differs_when_the_seed_is_run_again() {
    let differs = "two runs of the seed differ: event 0 is";
    found(Planted::Unrepeatable, &[differs]);
}
