//! Tracks what was appended and acknowledged, and checks the invariants after every event.

use std::collections::{BTreeMap, BTreeSet};

use tinygate::events::{
    Attempt, CheckpointRef, ChunkNumber, Event, GateDecided, Record, Scalar, StageName, Step,
    StoreRepaired, metric,
};
use tinygate::machine::run::{self, RunPhaseKind};
use tinygate::machine::stage::{self, PhaseKind};
use tinygate::machine::{Decision, Machine, Phase, RunState, StageState};
use tinygate_replay::{Outcome, audit};

use crate::tally::Tally;

pub struct Ledger {
    /// Every event that was passed to the log and may be in it.
    pub accepted: Vec<Record>,
    /// How many of them were acknowledged as durable.
    pub acknowledged: usize,
    /// Fold of `accepted`.
    pub machine: Machine,
    pub tally: Tally,
    pub violation: Option<String>,
    /// The repairs of the last opening, to be recorded.
    pub repairs: Vec<StoreRepaired>,
    exact: bool,
    gates: BTreeSet<(StageName, ChunkNumber, Attempt)>,
    newest: BTreeMap<StageName, (ChunkNumber, Attempt)>,
    /// Targets and accumulation may exceed what was configured.
    changed: bool,
}

impl Ledger {
    pub fn new(exact: bool) -> Ledger {
        Ledger {
            accepted: Vec::new(),
            acknowledged: 0,
            machine: Machine::default(),
            tally: Tally::default(),
            violation: None,
            repairs: Vec::new(),
            exact,
            gates: BTreeSet::new(),
            newest: BTreeMap::new(),
            changed: false,
        }
    }

    /// Reports a violation. The first one is kept.
    pub fn violated(&mut self, what: impl Into<String>) {
        let what = what.into();
        let seq = self.accepted.len();
        self.violation
            .get_or_insert_with(|| format!("{what} (at event {seq})"));
    }

    /// Adds an event that is about to be appended.
    pub fn accept(&mut self, record: Record) {
        self.tally.events += 1;
        self.fold(&record, true);
        self.accepted.push(record);
    }

    pub fn acknowledge(&mut self) {
        self.acknowledged = self.accepted.len();
    }

    /// Checks the records that a process found when it opened the log.
    pub fn reopen(&mut self, records: Vec<Record>) {
        let kept = records.len();
        if kept < self.acknowledged {
            let lost = self
                .accepted
                .get(kept)
                .map_or("?", |lost| lost.event.kind());
            let acknowledged = self.acknowledged;
            return self.violated(format!(
                "an acknowledged event is lost: {kept} of {acknowledged} events are left, the first lost is {lost}"
            ));
        }
        if self.accepted.get(..kept) != Some(records.as_slice()) {
            return self.violated("the log has events that were not appended");
        }
        self.machine = Machine::default();
        self.gates.clear();
        self.newest.clear();
        self.changed = false;
        self.accepted.clear();
        for record in records {
            self.fold(&record, false);
            self.accepted.push(record);
        }
        self.agrees();
    }

    pub fn state(&self) -> &RunState {
        self.machine.state()
    }

    /// Checks that the auditor agrees with every decision.
    pub fn agrees(&mut self) {
        let audit = audit(self.accepted.iter().cloned().map(Ok));
        if audit.checked.decisions == 0 && audit.outcome == Outcome::NothingChecked {
            return;
        }
        if audit.outcome != Outcome::Agreed || audit.checked.agreed != audit.checked.decisions {
            self.violated(format!("replay does not agree: {audit:#?}"));
        }
    }

    fn fold(&mut self, record: &Record, counted: bool) {
        let event = &record.event;
        if record.seq.get() != self.accepted.len() as u64 {
            self.violated(format!("event {} is not at the head", record.seq));
        }
        if event.is_decision() && self.machine.decide() != record_of(event) {
            self.violated(format!("{} was not due", event.kind()));
        }
        self.before(event);
        let phases: Vec<PhaseKind> = self.state().stages.iter().map(kind_of).collect();
        let phase = self.state().phase.kind();
        let current = self.state().stage().map(|stage| stage.name().clone());
        self.machine.apply(event);
        if counted {
            self.count_run(phase, event);
            self.count_stages(&phases, current.as_ref(), event);
        }
        self.after(event);
    }

    fn count_run(&mut self, from: RunPhaseKind, event: &Event) {
        let to = self.state().phase.kind();
        let row = |row: &&(RunPhaseKind, &'static str, &[RunPhaseKind])| {
            row.0 == from && row.1 == event.kind()
        };
        if let Some((_, kind, targets)) = run::TRANSITIONS.iter().find(row) {
            if !targets.contains(&to) {
                self.violated(format!("{kind} leads the run from {from:?} to {to:?}"));
            }
            *self.tally.runs.entry((from, kind, to)).or_default() += 1;
        } else if from != to {
            let kind = event.kind();
            self.violated(format!("{kind} leads the run from {from:?} to {to:?}"));
        }
    }

    fn count_stages(&mut self, before: &[PhaseKind], current: Option<&StageName>, event: &Event) {
        let mut found = Vec::new();
        for (place, stage) in self.state().stages.iter().enumerate() {
            let to = kind_of(stage);
            let from = before.get(place).copied().unwrap_or(PhaseKind::Pending);
            let concerned = match event {
                Event::ProcessStarted(_) => current == Some(stage.name()),
                Event::SettingChanged(changed) => changed
                    .stage
                    .as_ref()
                    .is_none_or(|name| name == stage.name()),
                _ => current == Some(stage.name()),
            };
            let row = stage::TRANSITIONS
                .iter()
                .find(|row| row.0 == from && row.1 == event.kind());
            match row {
                Some((_, kind, targets)) if targets.contains(&to) => {
                    if concerned {
                        found.push((from, *kind, to));
                    }
                }
                _ if from == to => {}
                Some(_) | None => {
                    let kind = event.kind();
                    return self.violated(format!("{kind} leads a stage from {from:?} to {to:?}"));
                }
            }
        }
        for transition in found {
            *self.tally.stages.entry(transition).or_default() += 1;
        }
    }

    /// Checks an event against the state before it.
    fn before(&mut self, event: &Event) {
        match event {
            Event::GateDecided(gate) => self.before_gate(gate),
            Event::ChunkStarted(started) => {
                let this = (started.chunk, started.attempt);
                let last = self.newest.insert(started.stage.clone(), this);
                if last.is_some_and(|last| this <= last) {
                    self.violated(format!("chunk {this:?} comes after {last:?}"));
                }
                if started.to <= started.from {
                    self.violated("a chunk has no update");
                }
            }
            Event::CheckpointDeleted(deleted) => {
                let stage = self.state().stage_named(&deleted.stage);
                if stage.is_some_and(|stage| is_needed(stage, &deleted.checkpoint)) {
                    let path = &deleted.checkpoint.path;
                    self.violated(format!("`{path}` is deleted and needed"));
                }
            }
            Event::SettingChanged(_) | Event::FallbackGranted(_) => self.changed = true,
            _ => {}
        }
    }

    fn before_gate(&mut self, gate: &GateDecided) {
        let this = (gate.stage.clone(), gate.chunk, gate.attempt);
        if !self.gates.insert(this) {
            self.violated(format!(
                "a second gate of chunk {}, attempt {}",
                gate.chunk, gate.attempt
            ));
        }
        let chunk = self
            .state()
            .stage_named(&gate.stage)
            .filter(|stage| stage.phase == Phase::Gating)
            .and_then(|stage| stage.chunk.as_ref());
        if let Some(chunk) = chunk.filter(|_| self.exact) {
            let steps = chunk.samples(metric::LOSS).iter().map(|(step, _)| *step);
            let wanted = (chunk.from.get() + 1..=chunk.to.get()).map(Step::new);
            if !steps.eq(wanted) {
                self.violated(format!("the gate of chunk {} lacks losses", gate.chunk));
            }
        }
    }

    /// Checks the state after an event.
    fn after(&mut self, event: &Event) {
        let policy = self
            .state()
            .policy()
            .map(|policy| policy.max_chunk_failures);
        let most = policy.unwrap_or(0);
        let broken = self.state().stages.iter().find_map(|stage| {
            over_budget(stage, most).or_else(|| out_of_bounds(stage, self.changed))
        });
        if let Some(broken) = broken {
            self.violated(format!("after {}: {broken}", event.kind()));
        }
    }
}

fn record_of(event: &Event) -> Decision {
    Decision::Record(Box::new(event.clone()))
}

fn kind_of(stage: &StageState) -> PhaseKind {
    stage.phase.kind()
}

/// Whether the stage may still resume from the checkpoint, or pass with it.
fn is_needed(stage: &StageState, reference: &CheckpointRef) -> bool {
    let best = stage.lineage.best().map(|checkpoint| &checkpoint.reference);
    let next = match &stage.phase {
        Phase::Recording { next, .. } => match next {
            stage::Next::StartChunk { resume_from } => resume_from.as_ref(),
            stage::Next::HandOn { checkpoint } => Some(checkpoint),
            stage::Next::RunAgain => stage
                .lineage
                .newest_accepted()
                .map(|checkpoint| &checkpoint.reference),
        },
        _ => stage
            .lineage
            .newest_accepted()
            .map(|checkpoint| &checkpoint.reference),
    };
    Some(reference) == best || Some(reference) == next
}

fn over_budget(stage: &StageState, max_chunk_failures: u32) -> Option<String> {
    let ends = matches!(
        stage.phase,
        Phase::Ending { .. } | Phase::Stopping { .. } | Phase::Stopped { .. }
    );
    // The stage stops with the first failure over the limit.
    let over = u32::from(ends);
    let failures = stage.failures <= stage.max_retries.saturating_add(over);
    let chunks = stage.chunk_failures <= max_chunk_failures.saturating_add(over)
        || matches!(stage.phase, Phase::Reopening { .. });
    let extensions = stage.extensions <= stage.max_retries;
    (!failures || !chunks || !extensions).then(|| {
        format!(
            "stage {} in {:?} has {} failures of {}, {} chunk failures of {max_chunk_failures}, {} extensions",
            stage.name(),
            stage.phase.kind(),
            stage.failures,
            stage.max_retries,
            stage.chunk_failures,
            stage.extensions
        )
    })
}

/// The first setting out of bounds. A value that was configured beyond a bound may stay there.
fn out_of_bounds(stage: &StageState, changed: bool) -> Option<String> {
    let (now, configured, bounds) = (
        &stage.settings,
        &stage.policy.settings,
        &stage.policy.bounds,
    );
    let share = |whole: u64, share: Scalar| ((whole as f64 * share.get()).ceil() as u64).max(1);
    let rate = now.learning_rate.get();
    let least_rate = bounds
        .learning_rate_min
        .get()
        .min(configured.learning_rate.get());
    let batches = 1..=configured.batch_size_per_gpu;
    let accumulation = u64::from(now.gradient_accumulation_steps);
    let most_accumulation = u64::from(
        bounds
            .accumulation_max
            .max(configured.gradient_accumulation_steps),
    );
    let least_log =
        share(now.chunk_size, bounds.log_interval_min_share).min(configured.log_interval);
    let least_chunk = share(configured.chunk_size, bounds.chunk_size_min_share);
    let wrong = if rate < least_rate || (rate > configured.learning_rate.get() && !changed) {
        "learning_rate"
    } else if !batches.contains(&now.batch_size_per_gpu) {
        "batch_size_per_gpu"
    } else if accumulation < 1 || (accumulation > most_accumulation && !changed) {
        "gradient_accumulation_steps"
    } else if now.log_interval < least_log && !changed {
        "log_interval"
    } else if now.chunk_size < least_chunk || now.chunk_size > configured.chunk_size {
        "chunk_size"
    } else if now.n_updates < configured.n_updates {
        "n_updates"
    } else {
        return None;
    };
    Some(format!("{wrong} is out of bounds: {now:?}"))
}
