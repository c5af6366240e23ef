//! The outcomes of damage, and the table of all cases.

use std::collections::BTreeMap;

/// What happened to a damaged log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The damage has no effect.
    Unaffected,
    /// Every event was restored.
    Recovered,
    /// The newest events are lost, and this is reported: either an append was cut off that may never
    /// have been acknowledged, or the log ends where sled does.
    CutOff,
    /// An error with its position; the intact events are kept, also with `--accept-loss`.
    Refused,
    /// The copies end earlier than before, and nothing in them shows it.
    Traceless,
    /// This and the following must not happen.
    SilentLoss,
    WrongAnswer,
    Panic,
    Hang,
}

impl Outcome {
    const ALL: [Outcome; 9] = [
        Outcome::Unaffected,
        Outcome::Recovered,
        Outcome::CutOff,
        Outcome::Refused,
        Outcome::Traceless,
        Outcome::SilentLoss,
        Outcome::WrongAnswer,
        Outcome::Panic,
        Outcome::Hang,
    ];

    fn heading(self) -> &'static str {
        match self {
            Outcome::Unaffected => "unaffected",
            Outcome::Recovered => "recovered",
            Outcome::CutOff => "ends early",
            Outcome::Refused => "refused",
            Outcome::Traceless => "traceless",
            Outcome::SilentLoss => "silent loss",
            Outcome::WrongAnswer => "wrong answer",
            Outcome::Panic => "panic",
            Outcome::Hang => "hang",
        }
    }

    fn must_not_happen(self) -> bool {
        match self {
            Outcome::Unaffected
            | Outcome::Recovered
            | Outcome::CutOff
            | Outcome::Refused
            | Outcome::Traceless => false,
            Outcome::SilentLoss | Outcome::WrongAnswer | Outcome::Panic | Outcome::Hang => true,
        }
    }
}

/// A case and its outcome.
#[derive(Clone, Debug)]
pub struct Judged {
    pub case: String,
    pub outcome: Outcome,
    /// Lost events that sled had.
    pub older_lost: u64,
    /// Lost events that sled did not have yet.
    pub newer_lost: u64,
    pub why: String,
}

impl Judged {
    pub fn new(case: &str, outcome: Outcome, why: impl Into<String>) -> Judged {
        Judged {
            case: case.to_owned(),
            outcome,
            older_lost: 0,
            newer_lost: 0,
            why: why.into(),
        }
    }

    /// Sets the losses: `kept` of `all` events are left; sled had `covered`.
    pub fn losing(mut self, all: u64, kept: u64, covered: u64) -> Judged {
        self.older_lost = covered.saturating_sub(kept);
        self.newer_lost = all - kept - self.older_lost;
        self
    }
}

/// How many copies a group of cases damages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damaged {
    /// One of two: nothing may be lost that the other has.
    OneOfTwo,
    /// The only copy.
    TheOnly,
}

#[derive(Default)]
struct Row {
    counts: BTreeMap<Outcome, u64>,
    older_lost: u64,
    newer_lost: u64,
    /// Without a second copy.
    only_lost: u64,
}

#[derive(Default)]
pub struct Table {
    rows: Vec<(String, Row)>,
    bad: Vec<Judged>,
    /// Events lost that sled had, although one copy was intact.
    older_lost_of_one: u64,
}

impl Table {
    pub fn add(&mut self, group: &str, damaged: Damaged, judged: Judged) {
        if self.rows.iter().all(|(name, _)| name != group) {
            self.rows.push((group.to_owned(), Row::default()));
        }
        if let Some((_, row)) = self.rows.iter_mut().find(|(name, _)| name == group) {
            *row.counts.entry(judged.outcome).or_default() += 1;
            match damaged {
                Damaged::OneOfTwo => {
                    row.older_lost += judged.older_lost;
                    row.newer_lost += judged.newer_lost;
                }
                Damaged::TheOnly => row.only_lost += judged.older_lost + judged.newer_lost,
            }
        }
        let older = damaged == Damaged::OneOfTwo && judged.older_lost > 0;
        if older {
            self.older_lost_of_one += judged.older_lost;
        }
        if older || judged.outcome.must_not_happen() {
            self.bad.push(judged);
        }
    }

    fn count(&self, outcome: Outcome) -> u64 {
        let rows = self.rows.iter();
        rows.filter_map(|(_, row)| row.counts.get(&outcome)).sum()
    }

    pub fn print(&self) {
        let width = self.rows.iter().map(|(name, _)| name.len()).max();
        let width = width.unwrap_or(0);
        print!("{:width$}  {:>6}", "damage", "cases");
        for outcome in Outcome::ALL {
            print!("  {}", outcome.heading());
        }
        println!("  events lost: older  newer than sled's head  of the only copy");
        for (name, row) in &self.rows {
            let cases: u64 = row.counts.values().sum();
            print!("{name:width$}  {cases:>6}");
            for outcome in Outcome::ALL {
                let count = row.counts.get(&outcome).copied().unwrap_or(0);
                print!("  {count:>w$}", w = outcome.heading().len());
            }
            println!(
                "  {:>18}  {:>23}  {:>16}",
                row.older_lost, row.newer_lost, row.only_lost
            );
        }
        let total = |outcomes: &[Outcome]| -> u64 {
            outcomes.iter().map(|outcome| self.count(*outcome)).sum()
        };
        println!(
            "damage: {} cases: {} unaffected, {} recovered, {} reported as ending early, {} rejected with a position, {} without a trace; \
             {} panics, {} hangs, {} silent losses, {} wrong answers",
            total(&Outcome::ALL),
            total(&[Outcome::Unaffected]),
            total(&[Outcome::Recovered]),
            total(&[Outcome::CutOff]),
            total(&[Outcome::Refused]),
            total(&[Outcome::Traceless]),
            total(&[Outcome::Panic]),
            total(&[Outcome::Hang]),
            total(&[Outcome::SilentLoss]),
            total(&[Outcome::WrongAnswer]),
        );
        let newer: u64 = self.rows.iter().map(|(_, row)| row.newer_lost).sum();
        println!(
            "damage: to one copy of two, over all cases: {} events lost that are older than sled's head, {newer} that are \
             newer",
            self.older_lost_of_one
        );
    }

    /// Checks that no forbidden outcome occurred, and that the expected ones did.
    pub fn verdict(&self) -> Result<(), String> {
        for judged in self.bad.iter().step_by(1 + self.bad.len() / 40) {
            println!(
                "{:?}: {}: {} ({} older, {} newer events lost)",
                judged.outcome, judged.case, judged.why, judged.older_lost, judged.newer_lost
            );
        }
        if !self.bad.is_empty() {
            return Err(format!(
                "{} cases with an outcome that must not happen",
                self.bad.len()
            ));
        }
        for outcome in [
            Outcome::Unaffected,
            Outcome::Recovered,
            Outcome::CutOff,
            Outcome::Refused,
        ] {
            if self.count(outcome) == 0 {
                return Err(format!("no case had the outcome `{}`", outcome.heading()));
            }
        }
        Ok(())
    }
}
