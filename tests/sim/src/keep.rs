//! A selection of a seed's faults, written as `3,9@4`.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZero;
use std::str::FromStr;

use crate::fault::Fault;

/// The numbers of the selected faults, each with its lowered value, if any.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Keep(BTreeMap<usize, Option<u64>>);

impl Keep {
    /// The first `count` faults.
    pub fn first(count: usize) -> Keep {
        Keep((1..=count).map(|fault| (fault, None)).collect())
    }

    /// The lowered value of a selected fault. The outer `None`: it is not selected.
    pub fn get(&self, fault: usize) -> Option<Option<u64>> {
        self.0.get(&fault).copied()
    }

    pub fn faults(&self) -> Vec<usize> {
        self.0.keys().copied().collect()
    }

    /// Checks that a seed with the faults `drawn` has these, and that lowered ones have a number.
    pub fn fits(&self, drawn: &[Fault]) -> Result<(), String> {
        for (fault, number) in &self.0 {
            let known = fault.checked_sub(1).and_then(|place| drawn.get(place));
            let known = known.ok_or_else(|| {
                format!("there are {} faults, and no fault `{fault}`", drawn.len())
            })?;
            if number.is_some() && known.number.is_none() {
                return Err(format!("fault `{fault}` has no number to lower"));
            }
        }
        Ok(())
    }

    #[must_use]
    pub fn without(&self, removed: &[usize]) -> Keep {
        let mut rest = self.clone();
        rest.0.retain(|fault, _| !removed.contains(fault));
        rest
    }

    #[must_use]
    pub fn with_number(&self, fault: usize, number: u64) -> Keep {
        let mut lowered = self.clone();
        lowered.0.insert(fault, Some(number));
        lowered
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "none");
        }
        for (place, (fault, number)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            match number {
                Some(number) => write!(f, "{comma}{fault}@{number}")?,
                None => write!(f, "{comma}{fault}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Keep, String> {
        if text == "none" {
            return Ok(Keep::default());
        }
        let invalid = |word: &str| format!("`{word}` is not a fault: write `3`, or `3@4`");
        let parse = |word: &str| {
            let (fault, number) = match word.split_once('@') {
                Some((fault, number)) => (fault, Some(number.parse::<NonZero<u64>>().ok()?.get())),
                None => (word, None),
            };
            Some((fault.parse().ok()?, number))
        };
        let faults = text
            .split(',')
            .map(|word| parse(word).ok_or_else(|| invalid(word)));
        Ok(Keep(faults.collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_survives_a_round_trip_through_text() {
        for text in ["none", "3", "3,9@4", "1@1,2,30@18446744073709551615"] {
            let keep: Keep = text.parse().unwrap();
            assert_eq!(keep.to_string(), text);
        }
        for text in ["", "x", "3,", "3@", "@4", "-1", "3@0"] {
            text.parse::<Keep>().unwrap_err();
        }
    }

    #[test]
    fn only_faults_that_were_drawn_are_kept_and_only_their_numbers_lowered() {
        let fault = |number| Fault {
            text: String::new(),
            number,
        };
        let drawn = [fault(None), fault(Some(7))];
        let fits = |text: &str| text.parse::<Keep>().unwrap().fits(&drawn).is_ok();
        assert!(fits("none") && fits("1,2") && fits("2@3"));
        assert!(!fits("0") && !fits("3") && !fits("1@3"));
    }
}
