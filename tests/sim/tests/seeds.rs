//! A thousand seeds violate no invariant, give the same log twice, and together have every
//! fault and every transition.

#![allow(
    clippy::print_stdout,
    reason = "the seeds are printed first, whatever happens next"
)]

use tinygate_sim::{Case, FAULTS, Keep, shrink, simulate, sweep};

const SEEDS: u64 = 1000;

#[test]
fn every_invariant_holds_and_everything_happens() {
    println!("seeds 0..{SEEDS}");
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let swept = sweep(0..SEEDS, jobs);
    let violations: Vec<String> = swept
        .violations
        .iter()
        .map(|(seed, what)| format!("make sim SEED={seed}: {what}"))
        .collect();
    // Shrink one of them.
    let first = swept.violations.first();
    let smallest = first.and_then(|(seed, _)| shrink(&Case::new(*seed)));
    let smallest = smallest.map_or(String::new(), |smallest| smallest.to_string());
    assert_eq!(violations, Vec::<String>::new(), "{smallest}");
    assert_eq!(
        swept.tally.never(),
        Vec::<String>::new(),
        "listed but never happened"
    );
    assert_eq!(
        swept.tally.unlisted(),
        Vec::<String>::new(),
        "happened but not listed"
    );
    assert!(swept.tally.exact > SEEDS / 2, "most runs are compared");
}

#[test]
fn a_seed_with_all_of_its_faults_kept_is_the_seed() {
    for seed in 0..20 {
        let case = Case::new(seed);
        let kept = case.keep(Keep::first(case.faults().len()));
        let (whole, kept) = (simulate(&case), simulate(&kept));
        assert_eq!(whole.digest(), kept.digest(), "seed {seed}");
    }
}

#[test]
fn fault_names_are_unique() {
    for (place, name) in FAULTS.iter().enumerate() {
        assert!(!FAULTS[..place].contains(name), "`{name}` occurs twice");
    }
}
