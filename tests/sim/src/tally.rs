//! Counts what happened, and lists what must happen.

use std::collections::BTreeMap;
use std::fmt;

use tinygate::machine::run::{self, RunPhaseKind};
use tinygate::machine::stage::{self, PhaseKind};

/// The names of all faults.
pub const FAULTS: &[&str] = &[
    // the disk
    "torn write",
    "lost unsynced write",
    "reordered writes",
    "bit flip in the journal",
    "journal cut short",
    "journal gone",
    "bit flip in sled",
    "sled lost a value",
    "sled gone",
    "sled does not open",
    "full disk",
    "write error",
    "short write",
    "read error",
    "short read",
    "interrupted call",
    "sync error",
    "cut error",
    "rename error",
    "sled error",
    "full disk in sled",
    "sled in use",
    // the process
    "kill",
    "power cut",
    "crash before an append",
    "crash half-way through an append",
    "crash after an append",
    "crash between append and send",
    "crash between send and result",
    "crash among results",
    "crash twice in a row",
    "crash during recovery",
    "crash while the log is made",
    "stall",
    "clock set back",
    "signal",
    "full disk of the trainer",
    "more retries allowed",
    "setting changed",
    "checkpoint given up",
    "checkpoints pruned",
    // the trainer
    "loss falls",
    "loss plateaus",
    "loss rises",
    "loss spikes",
    "loss is NaN",
    "loss is infinite",
    "entropy collapses",
    "structure lost",
    "metric missing",
    "picture missing",
    "held-out loss missing",
    "checkpoint missing",
    "checkpoint incomplete",
    "checkpoint empty",
    "checkpoint too small",
    "checkpoint truncated",
    "checkpoint corrupt",
    "checkpoint damaged later",
    "out of memory",
    "worker exits",
    "worker times out",
    "checkpoint cannot be loaded",
    "trainer hangs",
    "trainer goes away",
    "result twice",
    "result late",
    "result lost",
];

/// Transitions that no run driven by the controller makes, each with its reason.
pub const IMPOSSIBLE: &[(&str, &str)] = &[(
    "run running --stage_stopped--> running",
    "only the current stage is ever stopped; the machine never decides to stop another",
)];

type Transitions<K> = BTreeMap<(K, &'static str, K), u64>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub faults: BTreeMap<&'static str, u64>,
    pub stages: Transitions<PhaseKind>,
    pub runs: Transitions<RunPhaseKind>,
    pub endings: BTreeMap<&'static str, u64>,
    pub exact: u64,
    pub processes: u64,
    pub events: u64,
    pub commands: u64,
}

impl Tally {
    pub fn fault(&mut self, name: &'static str) {
        self.faults(name, 1);
    }

    pub fn faults(&mut self, name: &'static str, times: u64) {
        *self.faults.entry(name).or_default() += times;
    }

    pub fn add(&mut self, other: &Tally) {
        let Tally {
            faults,
            stages,
            runs,
            endings,
            exact,
            processes,
            events,
            commands,
        } = other;
        add(&mut self.faults, faults);
        add(&mut self.stages, stages);
        add(&mut self.runs, runs);
        add(&mut self.endings, endings);
        self.exact += exact;
        self.processes += processes;
        self.events += events;
        self.commands += commands;
    }

    /// Every transition of the machine's tables with its count.
    pub fn transitions(&self) -> Vec<(String, u64)> {
        let stages = stage::TRANSITIONS
            .iter()
            .flat_map(|(from, event, targets)| {
                targets.iter().map(|to| {
                    let seen = self.stages.get(&(*from, *event, *to));
                    (arrow("stage", from, event, to), seen.copied().unwrap_or(0))
                })
            });
        let runs = run::TRANSITIONS.iter().flat_map(|(from, event, targets)| {
            targets.iter().map(|to| {
                let seen = self.runs.get(&(*from, *event, *to));
                (arrow("run", from, event, to), seen.copied().unwrap_or(0))
            })
        });
        stages.chain(runs).collect()
    }

    /// Faults and transitions that should have happened and did not.
    pub fn never(&self) -> Vec<String> {
        let faults = FAULTS
            .iter()
            .filter(|name| !self.faults.contains_key(*name))
            .map(|name| (*name).to_owned());
        let transitions = self.transitions().into_iter().filter_map(|(name, count)| {
            let possible = IMPOSSIBLE.iter().all(|(impossible, _)| *impossible != name);
            (count == 0 && possible).then_some(name)
        });
        faults.chain(transitions).collect()
    }

    /// What happened but is not in the lists: an unlisted fault, or a transition that is
    /// listed as impossible.
    pub fn unlisted(&self) -> Vec<String> {
        let faults = self
            .faults
            .keys()
            .filter(|name| !FAULTS.contains(name))
            .map(|name| (*name).to_owned());
        let transitions = self.transitions().into_iter().filter_map(|(name, count)| {
            let impossible = IMPOSSIBLE.iter().any(|(impossible, _)| *impossible == name);
            (count > 0 && impossible).then_some(name)
        });
        faults.chain(transitions).collect()
    }
}

fn add<K: Ord + Clone>(to: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *to.entry(key.clone()).or_default() += count;
    }
}

fn arrow(of: &str, from: &impl fmt::Debug, event: &str, to: &impl fmt::Debug) -> String {
    format!("{of} {from:?} --{event}--> {to:?}").to_lowercase()
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "faults")?;
        for name in FAULTS {
            let count = self.faults.get(name).copied().unwrap_or(0);
            writeln!(f, "  {name:<36} {count:>9}")?;
        }
        writeln!(f, "transitions")?;
        for (name, count) in self.transitions() {
            let why = IMPOSSIBLE
                .iter()
                .find(|(impossible, _)| *impossible == name);
            match why {
                Some((_, why)) => writeln!(f, "  {name:<60} {count:>9}  impossible: {why}")?,
                None => writeln!(f, "  {name:<60} {count:>9}")?,
            }
        }
        writeln!(f, "runs")?;
        for (name, count) in &self.endings {
            writeln!(f, "  {name:<36} {count:>9}")?;
        }
        writeln!(
            f,
            "  {:<36} {:>9}",
            "compared with one without faults", self.exact
        )?;
        writeln!(f, "  {:<36} {:>9}", "processes", self.processes)?;
        writeln!(f, "  {:<36} {:>9}", "commands", self.commands)?;
        write!(f, "  {:<36} {:>9}", "events", self.events)
    }
}
