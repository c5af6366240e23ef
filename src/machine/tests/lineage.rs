//! Properties of a stage's checkpoints that hold after any events.

use proptest::prelude::*;

use super::build::*;
use crate::lineage::{Checkpoint, CheckpointGate, Judgement, Lineage, Retention};
use tinygate_events::*;

const STEPS: u64 = 6;
const CHUNKS: u32 = 4;

#[derive(Clone, Debug)]
enum Change {
    Give(CheckpointRef),
    Write(ChunkNumber, CheckpointRef),
    Judge(CheckpointRef, bool),
    GiveUp(CheckpointRef),
    Delete(CheckpointRef),
    Gate(Step, CheckpointGate),
    Start(ChunkNumber, Option<CheckpointRef>),
    Rewind(ChunkNumber, Option<CheckpointRef>),
    Abandon(ChunkNumber),
}

impl Change {
    fn apply(&self, lineage: &mut Lineage) {
        match self {
            Change::Give(reference) => lineage.give(reference),
            Change::Write(chunk, reference) => lineage.write(&written_by(*chunk, reference)),
            Change::Judge(reference, accepted) => {
                lineage.judge(reference, (!accepted).then(rejection).as_ref());
            }
            Change::GiveUp(reference) => {
                lineage.give_up(&given_up(reference));
            }
            Change::Delete(reference) => lineage.delete(reference),
            Change::Gate(step, gate) => lineage.note_gate(*step, Some(*gate)),
            Change::Start(chunk, from) => lineage.start_chunk(*chunk, from.as_ref()),
            Change::Rewind(chunk, from) => lineage.rewind_chunk(*chunk, from.as_ref()),
            Change::Abandon(chunk) => lineage.abandon(&[*chunk]),
        }
    }
}

fn written_by(chunk: ChunkNumber, reference: &CheckpointRef) -> CheckpointWritten {
    CheckpointWritten {
        stage: StageName::new("stage"),
        chunk,
        attempt: Attempt::FIRST,
        checkpoint: reference.clone(),
        samples_seen: reference.step.get(),
        files: Vec::new(),
    }
}

fn given_up(reference: &CheckpointRef) -> CheckpointGivenUp {
    CheckpointGivenUp {
        stage: StageName::new("stage"),
        checkpoint: reference.clone(),
        who: "someone".to_owned(),
        why: "lost".to_owned(),
    }
}

/// Two names for each step.
fn reference() -> impl Strategy<Value = CheckpointRef> {
    (1..=STEPS, prop_oneof![3 => Just("a"), 1 => Just("b")])
        .prop_map(|(step, name)| checkpoint(name, step))
}

fn chunk() -> impl Strategy<Value = ChunkNumber> {
    (1..=CHUNKS).prop_map(ChunkNumber::new)
}

fn gate() -> impl Strategy<Value = CheckpointGate> {
    let loss = prop_oneof![
        4 => (0..4_u32).prop_map(|loss| Some(scalar(f64::from(loss)))),
        1 => Just(Some(scalar(f64::NAN))),
        1 => Just(None),
    ];
    (loss, any::<bool>(), any::<bool>()).prop_map(|(gate_loss, passed, in_use)| CheckpointGate {
        gate_loss,
        passed,
        in_use,
    })
}

fn change() -> impl Strategy<Value = Change> {
    let from = || proptest::option::weighted(0.8, reference());
    prop_oneof![
        1 => reference().prop_map(Change::Give),
        8 => (chunk(), reference()).prop_map(|(chunk, reference)| Change::Write(chunk, reference)),
        8 => (reference(), prop::bool::weighted(0.8))
            .prop_map(|(reference, accepted)| Change::Judge(reference, accepted)),
        1 => reference().prop_map(Change::GiveUp),
        1 => reference().prop_map(Change::Delete),
        4 => ((1..=STEPS).prop_map(Step::new), gate())
            .prop_map(|(step, gate)| Change::Gate(step, gate)),
        2 => (chunk(), from()).prop_map(|(chunk, from)| Change::Start(chunk, from)),
        1 => (chunk(), from()).prop_map(|(chunk, from)| Change::Rewind(chunk, from)),
        1 => chunk().prop_map(Change::Abandon),
    ]
}

/// Any lineage that events can make.
fn lineage() -> impl Strategy<Value = Lineage> {
    (any::<bool>(), prop::collection::vec(change(), 0..40)).prop_map(|(prefer_in_use, changes)| {
        let mut lineage = Lineage::new(prefer_in_use);
        for change in changes {
            change.apply(&mut lineage);
        }
        lineage
    })
}

fn references<'a>(checkpoints: impl Iterator<Item = &'a Checkpoint>) -> Vec<&'a CheckpointRef> {
    checkpoints
        .map(|checkpoint| &checkpoint.reference)
        .collect()
}

fn usable(lineage: &Lineage) -> Vec<CheckpointRef> {
    let usable = lineage.all().filter(|checkpoint| checkpoint.is_usable());
    references(usable).into_iter().cloned().collect()
}

fn finite_loss(checkpoint: &Checkpoint) -> Option<f64> {
    checkpoint.gate?.gate_loss?.finite()
}

fn is_in_use(checkpoint: &Checkpoint) -> bool {
    checkpoint.gate.is_some_and(|gate| gate.in_use)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_lineage_is_an_ordered_subset_of_the_checkpoints(lineage in lineage()) {
        let all = references(lineage.all());
        for (place, reference) in all.iter().enumerate() {
            prop_assert!(!all[..place].contains(reference), "{reference:?} occurs twice");
        }
        let place = |one: &CheckpointRef| all.iter().position(|reference| *reference == one);
        let places: Vec<usize> = references(lineage.present())
            .into_iter()
            .map(|reference| place(reference).unwrap())
            .collect();
        prop_assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
    }

    #[test]
    fn the_newest_accepted_is_the_last_usable_of_the_lineage(lineage in lineage()) {
        let usable: Vec<&Checkpoint> =
            lineage.present().filter(|checkpoint| checkpoint.is_usable()).collect();
        prop_assert_eq!(lineage.newest_accepted(), usable.last().copied());
        let step = usable.last().map_or(Step::FIRST, |newest| newest.reference.step);
        prop_assert_eq!(lineage.newest_step(), step);
    }

    #[test]
    fn the_best_has_the_lowest_finite_gate_loss_of_those_that_can_be_used(
        prefer_in_use in any::<bool>(),
        changes in prop::collection::vec(change(), 0..40),
    ) {
        let mut lineage = Lineage::new(prefer_in_use);
        for change in changes {
            change.apply(&mut lineage);
        }
        let mut candidates: Vec<&Checkpoint> = lineage
            .all()
            .filter(|checkpoint| checkpoint.is_usable() && finite_loss(checkpoint).is_some())
            .collect();
        if prefer_in_use && candidates.iter().any(|checkpoint| is_in_use(checkpoint)) {
            candidates.retain(|checkpoint| is_in_use(checkpoint));
        }
        let losses: Vec<f64> = candidates.iter().filter_map(|one| finite_loss(one)).collect();
        let lowest = losses.iter().copied().fold(f64::INFINITY, f64::min);
        let expected = losses.iter().position(|loss| *loss == lowest);
        prop_assert_eq!(lineage.best(), expected.map(|place| candidates[place]));
    }

    #[test]
    fn the_best_with_a_hypothetical_gate_is_the_best_once_it_is_recorded(
        lineage in lineage(),
        step in (1..=STEPS).prop_map(Step::new),
        gate in gate(),
    ) {
        let expected = lineage.best_present_with(step, gate).map(|best| best.reference.clone());
        let mut noted = lineage.clone();
        noted.note_gate(step, Some(gate));
        // Compare with a lineage without the checkpoints outside it.
        let present: Vec<CheckpointRef> =
            references(noted.present()).into_iter().cloned().collect();
        for left in references(lineage.all()).into_iter().filter(|one| !present.contains(one)) {
            noted.delete(left);
        }
        prop_assert_eq!(noted.best().map(|best| best.reference.clone()), expected);
    }

    #[test]
    fn retention_deletes_nothing_that_is_needed_and_terminates(
        lineage in lineage(),
        keep_last in 0..4_u32,
        needed in proptest::option::of(reference()),
        unjudged in any::<bool>(),
    ) {
        let mut lineage = lineage;
        let retention = Retention { keep_last, needed: needed.as_ref(), unjudged };
        let count = lineage.all().count();
        for _ in 0..count {
            let Some(goes) = lineage.expendable(retention) else {
                break;
            };
            prop_assert!(!goes.deleted, "it is already deleted");
            prop_assert!(!goes.resumed, "a chunk started from it");
            prop_assert!(goes.chunk.is_some(), "the user gave it");
            prop_assert!(goes.gate.is_none_or(|gate| !gate.passed), "it passed its gate");
            prop_assert!(unjudged || goes.judgement != Judgement::Pending, "it was not judged");
            prop_assert_ne!(Some(&goes.reference), needed.as_ref());
            let best = lineage.best().map(|best| best.reference.clone());
            prop_assert_ne!(Some(&goes.reference), best.as_ref());
            let goes = goes.reference.clone();
            lineage.delete(&goes);
            prop_assert_eq!(lineage.best().map(|best| best.reference.clone()), best);
        }
        prop_assert_eq!(lineage.expendable(retention), None);
    }

    #[test]
    fn a_chunk_that_starts_cuts_the_lineage_back_to_its_start(
        lineage in lineage(),
        place in any::<prop::sample::Index>(),
        chunk in chunk(),
    ) {
        let before: Vec<CheckpointRef> =
            references(lineage.present()).into_iter().cloned().collect();
        let mut fresh = lineage.clone();
        fresh.start_chunk(chunk, None);
        prop_assert_eq!(fresh.present().count(), 0);
        prop_assert_eq!(fresh.all().count(), lineage.all().count(), "all are kept");
        if before.is_empty() {
            return Ok(());
        }
        let start = place.index(before.len());
        let mut cut = lineage.clone();
        cut.start_chunk(chunk, Some(&before[start]));
        let kept: Vec<&CheckpointRef> = before[..=start].iter().collect();
        prop_assert_eq!(references(cut.present()), kept);
        prop_assert_eq!(cut.all().count(), lineage.all().count(), "all are kept");
        prop_assert!(cut.find(&before[start]).unwrap().resumed);
    }

    #[test]
    fn rewinding_forgets_no_checkpoint_that_can_be_used(lineage in lineage(), chunk in chunk()) {
        let mut rewound = lineage.clone();
        rewound.rewind_chunk(chunk, lineage.newest_reference().as_ref());
        prop_assert_eq!(usable(&rewound), usable(&lineage));
        let all = references(lineage.all());
        let left = references(rewound.all());
        prop_assert!(all.starts_with(&left), "{left:?} of {all:?}");
        prop_assert_eq!(rewound.newest_reference(), lineage.newest_reference());
    }

    #[test]
    fn a_restart_abandons_no_chunk_that_leads_to_its_start(
        lineage in lineage(),
        chunk in chunk(),
    ) {
        let newest = lineage.newest_reference();
        let abandoned = lineage.abandoned_by(chunk, newest.as_ref());
        let kept = lineage.newest_accepted().and_then(|newest| newest.chunk);
        prop_assert!(kept.is_none_or(|kept| !abandoned.contains(&kept)));
        let all = lineage.abandoned_by(chunk, None);
        prop_assert!(all.contains(&chunk), "a fresh start abandons the failed chunk");
        prop_assert!(all.ends_with(&abandoned));
        let mut restarted = lineage;
        restarted.abandon(&all);
        prop_assert_eq!(restarted.abandoned_by(chunk, None), [chunk]);
    }

    #[test]
    fn repeated_changes_count_once(lineage in lineage(), change in change()) {
        let mut once = lineage.clone();
        change.apply(&mut once);
        let mut twice = once.clone();
        change.apply(&mut twice);
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn a_rejected_checkpoint_stays_rejected(lineage in lineage(), reference in reference()) {
        let mut lineage = lineage;
        lineage.judge(&reference, Some(&rejection()));
        let rejected = lineage.find(&reference).cloned();
        lineage.judge(&reference, None);
        lineage.give_up(&given_up(&reference));
        prop_assert_eq!(lineage.find(&reference), rejected.as_ref());
    }

    #[test]
    fn the_paths_of_all_later_checkpoints_are_taken(
        lineage in lineage(),
        from in proptest::option::of(reference()),
    ) {
        let taken = lineage.taken_after(from.as_ref());
        let start = from.map_or(Step::FIRST, |from| from.step);
        for checkpoint in lineage.all() {
            let later = start < checkpoint.reference.step;
            prop_assert_eq!(taken.contains(&checkpoint.reference.path), later);
        }
    }
}
