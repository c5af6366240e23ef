//! A thousand seeds hold, meet every fault and make every transition; and a
//! seed gives the same run whenever it is run.

#![allow(
    clippy::print_stdout,
    reason = "the seeds come first, whatever happens then"
)]

use tinygate_sim::{FAULTS, simulate, sweep};

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
    assert_eq!(violations, Vec::<String>::new());
    assert_eq!(
        swept.tally.never(),
        Vec::<String>::new(),
        "planned and never met"
    );
    assert_eq!(
        swept.tally.unlisted(),
        Vec::<String>::new(),
        "met and never listed"
    );
    assert!(swept.tally.exact > SEEDS / 2, "most runs are compared");
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 0..20 {
        let (once, again) = (simulate(seed, None), simulate(seed, None));
        assert_eq!(once.story, again.story, "seed {seed}");
        assert_eq!(once.tally, again.tally, "seed {seed}");
        assert_eq!(once.digest, again.digest, "seed {seed}");
    }
}

#[test]
fn faults_have_one_name_each() {
    for (place, name) in FAULTS.iter().enumerate() {
        assert!(!FAULTS[..place].contains(name), "`{name}` is there twice");
    }
}
