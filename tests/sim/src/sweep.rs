//! Checks many seeds on several threads; each seed is run twice.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::check::check;
use crate::tally::Tally;
use crate::world::Case;

/// Most violations that are kept.
const VIOLATIONS_MAX: usize = 100;

#[derive(Clone, Debug, Default)]
pub struct Swept {
    pub tally: Tally,
    /// By seed, in order.
    pub violations: Vec<(u64, String)>,
}

/// Checks every seed of a range. The tally counts each seed once.
pub fn sweep(seeds: Range<u64>, jobs: usize) -> Swept {
    let next = AtomicU64::new(seeds.start);
    let swept = Mutex::new(Swept::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                let mut mine = Swept::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seeds.end <= seed {
                        break;
                    }
                    let done = check(&Case::new(seed));
                    mine.tally.add(&done.tally);
                    mine.violations
                        .extend(done.violation.map(|what| (seed, what)));
                    if VIOLATIONS_MAX < mine.violations.len() {
                        break;
                    }
                }
                let mut all = swept.lock().unwrap_or_else(PoisonError::into_inner);
                all.tally.add(&mine.tally);
                all.violations.extend(mine.violations);
            });
        }
    });
    let mut swept = swept.into_inner().unwrap_or_else(PoisonError::into_inner);
    swept.violations.sort();
    swept
}
