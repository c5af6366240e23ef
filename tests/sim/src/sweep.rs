//! Many seeds on several threads; each seed is a run of its own.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::tally::Tally;
use crate::world::simulate;

/// Violations that are kept; more say no more.
const VIOLATIONS_MAX: usize = 100;

#[derive(Clone, Debug, Default)]
pub struct Swept {
    pub tally: Tally,
    /// By seed, in order.
    pub violations: Vec<(u64, String)>,
}

/// Simulates every seed of a range. A panic is a violation.
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
                    match catch_unwind(AssertUnwindSafe(|| simulate(seed, None))) {
                        Ok(done) => {
                            mine.tally.add(&done.tally);
                            mine.violations
                                .extend(done.violation.map(|what| (seed, what)));
                        }
                        Err(panic) => {
                            let text = panic.downcast_ref::<String>().cloned();
                            let text = text.or_else(|| {
                                panic.downcast_ref::<&str>().map(|text| (*text).to_owned())
                            });
                            let what = format!("panic: {}", text.unwrap_or_default());
                            mine.violations.push((seed, what));
                        }
                    }
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
