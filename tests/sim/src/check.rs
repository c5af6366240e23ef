//! Runs a case twice and checks that both runs give the same log.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::tally::Tally;
use crate::world::{Case, Simulated, simulate};

/// Start of the violation if two runs differ.
const DIFFERS: &str = "two runs of the seed differ";

/// Runs a case twice. A panic is a violation, and so is any difference between
/// the runs: in the events, the journal's bytes, the story or what was counted.
pub fn check(case: &Case) -> Simulated {
    let mut once = run(case);
    let again = run(case);
    if let Some(difference) = difference(&once, &again) {
        once.violation = Some(format!("{DIFFERS}: {difference}"));
    }
    once
}

fn run(case: &Case) -> Simulated {
    catch_unwind(AssertUnwindSafe(|| simulate(case))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Simulated {
            tally: Tally::default(),
            violation: Some(format!("panic: {}", text.unwrap_or_default())),
            story: Vec::new(),
            records: Vec::new(),
            journal: Vec::new(),
        }
    })
}

/// The first difference between two runs; differing events come first.
fn difference(once: &Simulated, again: &Simulated) -> Option<String> {
    if let Some((at, one, other)) = first(&once.records, &again.records) {
        return Some(format!("event {at} is {one:?}, then {other:?}"));
    }
    if let Some((at, ..)) = first(&once.journal, &again.journal) {
        return Some(format!("the journal's bytes differ from offset {at} on"));
    }
    if let Some((at, one, other)) = first(&once.story, &again.story) {
        return Some(format!("line {at} of the story is {one:?}, then {other:?}"));
    }
    if once.violation != again.violation {
        let (one, other) = (&once.violation, &again.violation);
        return Some(format!("the violation is {one:?}, then {other:?}"));
    }
    (once.tally != again.tally).then(|| "the tallies differ".to_owned())
}

type Pair<'a, T> = (usize, Option<&'a T>, Option<&'a T>);

fn first<'a, T: PartialEq>(once: &'a [T], again: &'a [T]) -> Option<Pair<'a, T>> {
    (0..once.len().max(again.len()))
        .map(|at| (at, once.get(at), again.get(at)))
        .find(|(_, one, other)| one != other)
}

/// What a violation is about, without its numbers, paths and details.
pub(crate) fn kind_of(violation: &str) -> String {
    let detailed = violation.strip_prefix("panic: ").unwrap_or(violation);
    let about = detailed.split(": ").next().unwrap_or(detailed);
    let about = about.split(" (at event").next().unwrap_or(about);
    let mut kind = String::new();
    for (place, part) in about.split('`').enumerate() {
        if place % 2 == 1 {
            kind.push_str("`..`");
            continue;
        }
        for letter in part.chars() {
            let digit = letter.is_ascii_digit();
            if !digit {
                kind.push(letter);
            } else if !kind.ends_with('#') {
                kind.push('#');
            }
        }
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_between_two_runs_are_found() {
        let once = simulate(&Case::new(0));
        let row = |change: fn(&mut Simulated), found: &str| {
            let mut again = once.clone();
            change(&mut again);
            let difference = difference(&once, &again).unwrap_or_default();
            assert!(
                difference.starts_with(found),
                "{difference:?}, not {found:?}"
            );
        };
        assert_eq!(difference(&once, &once.clone()), None);
        row(|run| run.records[2].time_ms += 1, "event 2 is Some(Record");
        row(|run| run.records.truncate(1), "event 1 is Some(Record");
        row(
            |run| run.journal[9] ^= 1,
            "the journal's bytes differ from offset 9 on",
        );
        row(|run| run.story.clear(), "line 0 of the story is");
        row(
            |run| run.violation = Some("x".to_owned()),
            "the violation is None",
        );
        row(|run| run.tally.commands += 1, "the tallies differ");
    }

    #[test]
    fn the_kind_of_a_violation_does_not_depend_on_its_numbers() {
        let row = |violation, kind| assert_eq!(kind_of(violation), kind, "{violation}");
        row(
            "a command is sent with 3 of 15 events durable (at event 15)",
            "a command is sent with # of # events durable",
        );
        row(
            "`a/b_20` is resumed from and is not there (at event 7)",
            "`..` is resumed from and is not there",
        );
        row(
            "decision 4 is not that of the run without faults: None, not None",
            "decision # is not that of the run without faults",
        );
        row("panic: index 7: too large", "index #");
    }
}
