//! Reduces the faults of a failing case to the smallest list that still fails.

use std::collections::BTreeMap;
use std::fmt;

use crate::check::{check, kind_of};
use crate::keep::Keep;
use crate::world::Case;

/// Most lists of faults that are tried for one case, each in two runs.
const TRIES_MAX: usize = 2000;

/// The smallest list of faults with which a case still fails in the same way.
#[derive(Clone, Debug)]
pub struct Smallest {
    pub seed: u64,
    pub keep: Keep,
    /// The faults that are kept, each with its number.
    pub faults: Vec<String>,
    /// How many faults the seed has.
    pub of: usize,
    pub violation: String,
    pub tries: usize,
    /// Every single fault is needed. False only if the tries ran out.
    pub minimal: bool,
}

impl fmt::Display for Smallest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kept, of, tries) = (self.faults.len(), self.of, self.tries);
        write!(f, "fails with {kept} of {of} faults")?;
        if !self.minimal {
            write!(f, ", perhaps with fewer")?;
        }
        writeln!(f, " ({tries} lists tried): {}", self.violation)?;
        for fault in &self.faults {
            writeln!(f, "  {fault}")?;
        }
        write!(
            f,
            "to reproduce: make sim SEED={} KEEP={}",
            self.seed, self.keep
        )
    }
}

/// Shrinks the faults of a case. `None`: the case does not fail.
pub fn shrink(case: &Case) -> Option<Smallest> {
    let kind = kind_of(&check(case).violation?);
    let drawn = case.faults();
    let mut fails_alike = |keep: &Keep| {
        let violation = check(&case.keep(keep.clone())).violation;
        violation.is_some_and(|violation| kind_of(&violation) == kind)
    };
    let mut search = Search {
        fails: &mut fails_alike,
        numbers: drawn.iter().map(|fault| fault.number).collect(),
        tried: BTreeMap::new(),
        tries_max: TRIES_MAX,
    };
    let all = Keep::first(drawn.len());
    let (keep, minimal) = search.smallest(case.keep.clone().unwrap_or(all));
    let tries = search.tried.len();
    let smallest = case.keep(keep.clone());
    Some(Smallest {
        seed: case.seed,
        faults: smallest.kept_faults(),
        of: drawn.len(),
        violation: check(&smallest).violation.unwrap_or_default(),
        keep,
        tries,
        minimal,
    })
}

struct Search<'a> {
    /// Whether a list of faults fails in the same way as the whole.
    fails: &'a mut dyn FnMut(&Keep) -> bool,
    /// The number drawn for each fault, if it has one.
    numbers: Vec<Option<u64>>,
    tried: BTreeMap<Keep, bool>,
    tries_max: usize,
}

impl Search<'_> {
    /// The smallest list, and whether each of its faults is known to be needed.
    fn smallest(&mut self, mut keep: Keep) -> (Keep, bool) {
        // A lower number may make another fault superfluous.
        loop {
            let before = keep.clone();
            keep = self.fewer(keep);
            keep = self.lower(keep);
            if keep == before {
                break;
            }
        }
        let needed = |fault: &usize| self.tried.get(&keep.without(&[*fault])) == Some(&false);
        let minimal = keep.faults().iter().all(needed);
        (keep, minimal)
    }

    /// False if the tries have run out.
    fn fails(&mut self, keep: &Keep) -> bool {
        if let Some(known) = self.tried.get(keep) {
            return *known;
        }
        if self.tries_max <= self.tried.len() {
            return false;
        }
        let fails = (self.fails)(keep);
        self.tried.insert(keep.clone(), fails);
        fails
    }

    /// Removes halves, then quarters, and at last single faults, until all are needed.
    fn fewer(&mut self, mut keep: Keep) -> Keep {
        if self.fails(&Keep::default()) {
            return Keep::default();
        }
        let mut length = keep.faults().len().div_ceil(2);
        while length > 0 {
            let mut removed = false;
            for part in keep.faults().chunks(length) {
                let rest = keep.without(part);
                if self.fails(&rest) {
                    keep = rest;
                    removed = true;
                }
            }
            // Removing a fault may make an earlier one superfluous.
            if !removed || length > 1 {
                length /= 2;
            }
        }
        keep
    }

    /// Lowers the number of each fault as far as it goes.
    fn lower(&mut self, mut keep: Keep) -> Keep {
        for fault in keep.faults() {
            let drawn = self.numbers.get(fault - 1).copied().flatten();
            let Some(mut number) = keep.get(fault).flatten().or(drawn) else {
                continue;
            };
            while let Some((lower, rest)) = [1, number / 2, number - number / 4, number - 1]
                .into_iter()
                .filter(|lower| 0 < *lower && *lower < number)
                .map(|lower| (lower, keep.with_number(fault, lower)))
                .find(|(_, rest)| self.fails(rest))
            {
                (number, keep) = (lower, rest);
            }
        }
        keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shrinks 40 faults, of which the even ones have the number 100.
    #[track_caller]
    fn smallest(tries_max: usize, mut fails: impl FnMut(&Keep) -> bool) -> (String, bool) {
        let mut search = Search {
            fails: &mut fails,
            numbers: (1..=40)
                .map(|fault| (fault % 2 == 0).then_some(100))
                .collect(),
            tried: BTreeMap::new(),
            tries_max,
        };
        let (keep, minimal) = search.smallest(Keep::first(40));
        assert!(search.tried.len() <= tries_max);
        (keep.to_string(), minimal)
    }

    fn has(keep: &Keep, fault: usize) -> bool {
        keep.get(fault).is_some()
    }

    fn number(keep: &Keep, fault: usize) -> u64 {
        keep.get(fault).map_or(0, |number| number.unwrap_or(100))
    }

    #[test]
    fn only_needed_faults_are_left_with_their_smallest_numbers() {
        let shrunk = |fails: fn(&Keep) -> bool| smallest(500, fails);
        let row = |text: &str| (text.to_owned(), true);
        assert_eq!(shrunk(|_| true), row("none"));
        assert_eq!(shrunk(|keep| has(keep, 17)), row("17"));
        assert_eq!(shrunk(|keep| has(keep, 1) && has(keep, 39)), row("1,39"));
        assert_eq!(shrunk(|keep| 37 <= number(keep, 6)), row("6@37"));
        let either = |keep: &Keep| has(keep, 3) || has(keep, 5) && has(keep, 7);
        assert_eq!(smallest(500, either), row("3"));
        // Fault 9 is needed until the number of fault 8 is low.
        let late = |keep: &Keep| has(keep, 8) && (has(keep, 9) || number(keep, 8) < 10);
        assert_eq!(smallest(500, late), row("8@1"));
    }

    #[test]
    fn a_search_reports_that_it_ran_out_of_tries() {
        let (keep, minimal) = smallest(5, |keep| has(keep, 1) && has(keep, 39));
        assert!(!minimal, "{keep}");
        let keep: Keep = keep.parse().unwrap();
        assert!(has(&keep, 1) && has(&keep, 39), "{keep}");
    }
}
