//! Where a run stands: the fold of its log, and what each stage cost.

use std::collections::BTreeMap;

use serde::Serialize;
use tinygate::events::{
    CheckpointRef, Event, GateDecided, InterruptReason, Metric, Record, Seq, StageName, metric,
};
use tinygate::machine::{self, RunPhase, RunState, StageState};

use super::{Align, Table, count, duration, number, words};

/// A log, folded event by event.
#[derive(Debug)]
pub struct Summary {
    pub state: RunState,
    pub events: u64,
    /// The last event's number and time.
    pub last: Option<(Seq, u64)>,
    /// Why the last process ended, where it said so.
    interrupted: Option<InterruptReason>,
    costs: BTreeMap<StageName, Cost>,
}

#[derive(Debug, Default)]
struct Cost {
    seconds: f64,
    gate: Option<GateDecided>,
}

/// One stage as `status` shows it.
#[derive(Debug, Serialize)]
pub struct StageSummary {
    pub stage: String,
    pub phase: &'static str,
    /// Updates done.
    pub step: u64,
    pub target: u64,
    pub gates: usize,
    pub failures: u32,
    pub max_retries: u32,
    /// Place on the ladder, counted from 0.
    pub cursor: u32,
    pub restart: u32,
    pub learning_rate: Option<f64>,
    /// Of the last gate; null when not finite.
    pub gate_loss: Option<f64>,
    pub skill: Option<f64>,
    pub skill_moving: Option<f64>,
    pub last_decision: Option<&'static str>,
    pub resume_from: Option<String>,
    pub best: Option<String>,
    /// In chunks, over all processes.
    pub seconds: f64,
}

impl Summary {
    pub fn empty() -> Summary {
        Summary {
            state: RunState::empty(),
            events: 0,
            last: None,
            interrupted: None,
            costs: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, record: &Record) {
        machine::apply(&mut self.state, &record.event);
        self.events += 1;
        self.last = Some((record.seq, record.time_ms));
        if let Event::RunInterrupted(interrupted) = &record.event {
            self.interrupted = Some(interrupted.reason.clone());
        }
        if let Event::ProcessStarted(_) = &record.event {
            self.interrupted = None;
        }
        if let Event::ChunkFinished(finished) = &record.event {
            let seconds = finished.seconds.finite().unwrap_or(0.0);
            self.costs
                .entry(finished.stage.clone())
                .or_default()
                .seconds += seconds;
        }
        if let Event::GateDecided(gate) = &record.event {
            self.costs.entry(gate.stage.clone()).or_default().gate = Some((**gate).clone());
        }
    }

    /// `unattended`: no process is at work on the run.
    pub fn phase(&self, unattended: bool) -> &'static str {
        match self.state.phase {
            RunPhase::Empty => "empty",
            RunPhase::Running(_) if unattended => "interrupted",
            RunPhase::Running(_) => "under_way",
            RunPhase::Finishing | RunPhase::Finished => "finished",
            RunPhase::Stopping(_) | RunPhase::Stopped(_) => "stopped",
        }
    }

    /// What interrupted a run that nobody is at work on.
    pub fn interruption(&self) -> &str {
        match &self.interrupted {
            Some(InterruptReason::Signal { name }) => name,
            Some(InterruptReason::Environment { detail }) => detail,
            None => "its process went away without a word",
        }
    }

    pub fn stages(&self) -> Vec<StageSummary> {
        self.state
            .stages
            .iter()
            .map(|stage| self.stage(stage))
            .collect()
    }

    fn stage(&self, stage: &StageState) -> StageSummary {
        let cost = self.costs.get(stage.name());
        let gate = cost.and_then(|cost| cost.gate.as_ref());
        let of_gate = |name: &str| Metric::find(&gate?.metrics, name)?.finite();
        let path = |checkpoint: &CheckpointRef| checkpoint.path.clone();
        let newest = || stage.newest_accepted().map(|newest| &newest.reference);
        let resume_from = stage.passed().or_else(newest).map(path);
        StageSummary {
            stage: stage.name().to_string(),
            phase: words::phase(&stage.phase),
            step: stage.step().get(),
            target: stage.settings.n_updates,
            gates: stage.gates.len(),
            failures: stage.failures,
            max_retries: stage.max_retries,
            cursor: stage.cursor,
            restart: stage.restart.get(),
            learning_rate: stage.settings.learning_rate.finite(),
            gate_loss: of_gate(metric::GATE_LOSS),
            skill: of_gate(metric::SKILL),
            skill_moving: of_gate(metric::SKILL_MOVING),
            last_decision: gate.map(|gate| gate.decision.as_str()),
            resume_from,
            best: stage.best_known().map(|best| path(&best.reference)),
            seconds: cost.map_or(0.0, |cost| cost.seconds),
        }
    }

    /// The stages under each other, and their best checkpoints.
    pub fn lines(&self) -> Vec<String> {
        let mut table = Table::new(&[
            ("stage", Align::Left),
            ("phase", Align::Left),
            ("updates", Align::Right),
            ("gates", Align::Right),
            ("failures", Align::Right),
            ("loss", Align::Right),
            ("skill", Align::Right),
            ("moving", Align::Right),
            ("time", Align::Right),
        ]);
        let stages = self.stages();
        let value = |value: Option<f64>| value.map_or("-".to_owned(), number);
        for stage in &stages {
            table.row([
                stage.stage.clone(),
                stage.phase.to_owned(),
                format!("{}/{}", count(stage.step), count(stage.target)),
                stage.gates.to_string(),
                format!("{}/{}", stage.failures, stage.max_retries),
                value(stage.gate_loss),
                value(stage.skill),
                value(stage.skill_moving),
                duration(stage.seconds),
            ]);
        }
        let mut lines = table.lines();
        let best = stages.iter().filter_map(|stage| stage.best.as_ref());
        lines.extend(best.map(|best| format!("best: {best}")));
        lines
    }
}
