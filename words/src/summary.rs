//! The state of a run: the fold of its log, and the cost of each stage.

use std::collections::BTreeMap;

use serde::Serialize;
use tinygate_events::{
    CheckpointRef, ChunkStarted, Column, Event, GateDecided, InterruptReason, Metric,
    MetricsLogged, Record, Seq, StageName, Steps, metric,
};
use tinygate_machine::{Machine, Phase, RunPhase, RunState, StageState};

use crate::numbers::{count, duration, number, rate};
use crate::table::{Align, Table};

/// A log, folded event by event.
#[derive(Debug)]
pub struct Summary {
    machine: Machine,
    pub events: u64,
    /// The last event's number and time.
    pub last: Option<(Seq, u64)>,
    /// Why the last process ended, if it recorded that.
    interrupted: Option<InterruptReason>,
    costs: BTreeMap<StageName, Cost>,
}

#[derive(Debug, Default)]
struct Cost {
    /// Seconds in chunks that finished.
    seconds: f64,
    gate: Option<GateDecided>,
    latest: Option<Latest>,
}

/// The newest samples of an unfinished chunk.
#[derive(Clone, Debug)]
struct Latest {
    step: u64,
    gate: u64,
    loss: Option<f64>,
    learning_rate: Option<f64>,
    updates_per_second: Option<f64>,
    /// When the chunk, or the process that resumed it, started.
    since_ms: u64,
    now_ms: u64,
}

impl Latest {
    fn at_start(started: &ChunkStarted, time_ms: u64) -> Latest {
        Latest {
            step: started.from.get(),
            gate: started.to.get(),
            loss: None,
            learning_rate: None,
            updates_per_second: None,
            since_ms: time_ms,
            now_ms: time_ms,
        }
    }

    fn add(&mut self, logged: &MetricsLogged, time_ms: u64) {
        self.now_ms = time_ms;
        for column in &logged.columns {
            let Some(step) = last_step(column) else {
                continue;
            };
            let value = column.values.last().and_then(|value| value.finite());
            match column.name.as_str() {
                metric::LOSS => (self.loss, self.step) = (value, step),
                metric::LEARNING_RATE => self.learning_rate = value,
                metric::UPDATES_PER_SECOND => self.updates_per_second = value,
                _ => {}
            }
        }
    }

    fn seconds(&self) -> f64 {
        self.now_ms.saturating_sub(self.since_ms) as f64 / 1000.0
    }

    /// Seconds until a future update.
    fn eta(&self, step: u64) -> Option<f64> {
        let rate = self.updates_per_second.filter(|rate| 0.0 < *rate)?;
        Some(step.saturating_sub(self.step) as f64 / rate)
    }
}

fn last_step(column: &Column) -> Option<u64> {
    let before = u64::try_from(column.values.len()).ok()?.checked_sub(1)?;
    match &column.steps {
        Steps::Stride { first, stride } => first.checked_add(stride.checked_mul(before)?),
        Steps::List(steps) => steps.last().copied(),
    }
}

/// The state of one stage. The JSON form of a run's status has these keys.
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
    /// Position on the ladder, counted from 0.
    pub cursor: u32,
    pub restart: u32,
    pub learning_rate: Option<f64>,
    /// Of the last gate; null if it is not finite.
    pub gate_loss: Option<f64>,
    pub skill: Option<f64>,
    pub skill_moving: Option<f64>,
    pub last_decision: Option<&'static str>,
    pub resume_from: Option<String>,
    pub best: Option<String>,
    /// Seconds in chunks, over all processes.
    pub seconds: f64,
    /// The chunk under way, if it has started.
    pub chunk: Option<ChunkSummary>,
}

/// A chunk that is under way, or was when its process ended.
#[derive(Debug, Serialize)]
pub struct ChunkSummary {
    /// The last logged update.
    pub step: u64,
    /// The end of the chunk.
    pub gate: u64,
    /// Of that update; null if it is not finite.
    pub loss: Option<f64>,
    pub learning_rate: Option<f64>,
    pub updates_per_second: Option<f64>,
    /// Until the end of the chunk, and until the stage's target.
    pub gate_eta_seconds: Option<f64>,
    pub target_eta_seconds: Option<f64>,
    pub seconds: f64,
}

impl Summary {
    pub fn empty() -> Summary {
        Summary {
            machine: Machine::default(),
            events: 0,
            last: None,
            interrupted: None,
            costs: BTreeMap::new(),
        }
    }

    pub fn state(&self) -> &RunState {
        self.machine.state()
    }

    pub fn add(&mut self, record: &Record) {
        self.machine.apply(&record.event);
        self.events += 1;
        self.last = Some((record.seq, record.time_ms));
        if let Event::RunInterrupted(interrupted) = &record.event {
            self.interrupted = Some(interrupted.reason.clone());
        }
        if let Event::ProcessStarted(_) = &record.event {
            self.interrupted = None;
            for cost in self.costs.values_mut() {
                if let Some(latest) = &mut cost.latest {
                    // The time between two processes does not count.
                    cost.seconds += latest.seconds();
                    (latest.since_ms, latest.now_ms) = (record.time_ms, record.time_ms);
                }
            }
        }
        if let Event::ChunkStarted(started) = &record.event {
            let latest = Latest::at_start(started, record.time_ms);
            self.cost(&started.stage).latest = Some(latest);
        }
        if let Event::MetricsLogged(logged) = &record.event
            && let Some(latest) = &mut self.cost(&logged.stage).latest
        {
            latest.add(logged, record.time_ms);
        }
        if let Event::ChunkFinished(finished) = &record.event {
            let seconds = finished.seconds.finite().unwrap_or(0.0);
            let cost = self.cost(&finished.stage);
            cost.seconds += seconds;
            cost.latest = None;
        }
        if let Event::ChunkFailed(failed) = &record.event {
            self.cost(&failed.stage).latest = None;
        }
        if let Event::GateDecided(gate) = &record.event {
            self.cost(&gate.stage).gate = Some((**gate).clone());
        }
    }

    fn cost(&mut self, stage: &StageName) -> &mut Cost {
        self.costs.entry(stage.clone()).or_default()
    }

    /// The phase of the run. `unattended` means that no process is working on it.
    pub fn phase(&self, unattended: bool) -> &'static str {
        match self.state().phase {
            RunPhase::Empty => "empty",
            RunPhase::Running(_) if unattended => "interrupted",
            RunPhase::Running(_) => "under_way",
            RunPhase::Finishing | RunPhase::Finished => "finished",
            RunPhase::Stopping(_) | RunPhase::Stopped(_) => "stopped",
        }
    }

    /// What interrupted a run that no process is working on.
    pub fn interruption(&self) -> &str {
        match &self.interrupted {
            Some(InterruptReason::Signal { name }) => name,
            Some(InterruptReason::Environment { detail }) => detail,
            None => "its process ended unexpectedly",
        }
    }

    pub fn stages(&self) -> Vec<StageSummary> {
        self.state()
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
        let newest = || {
            stage
                .lineage
                .newest_accepted()
                .map(|newest| &newest.reference)
        };
        let resume_from = stage.passed().or_else(newest).map(path);
        StageSummary {
            stage: stage.name().to_string(),
            phase: phase(&stage.phase),
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
            best: stage.lineage.best().map(|best| path(&best.reference)),
            seconds: cost.map_or(0.0, |cost| cost.seconds),
            chunk: cost
                .and_then(|cost| cost.latest.as_ref())
                .map(|latest| chunk(latest, stage.settings.n_updates)),
        }
    }

    /// A table of the stages, the chunk under way, and the best checkpoints.
    pub fn lines(&self) -> Vec<String> {
        self.lines_without(|_| false)
    }

    /// As [`Summary::lines`], and marks the checkpoints that are missing from the run directory.
    pub fn lines_without(&self, is_missing: impl Fn(&str) -> bool) -> Vec<String> {
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
            let chunk = stage.chunk.as_ref();
            let step = chunk.map_or(stage.step, |chunk| chunk.step.max(stage.step));
            let seconds = chunk.map_or(0.0, |chunk| chunk.seconds);
            table.row([
                stage.stage.clone(),
                stage.phase.to_owned(),
                format!("{}/{}", count(step), count(stage.target)),
                stage.gates.to_string(),
                format!("{}/{}", stage.failures, stage.max_retries),
                value(stage.gate_loss.or(chunk.and_then(|chunk| chunk.loss))),
                value(stage.skill),
                value(stage.skill_moving),
                duration(stage.seconds + seconds),
            ]);
        }
        let mut lines = table.lines();
        lines.extend(stages.iter().filter_map(chunk_line));
        let best = stages.iter().filter_map(|stage| stage.best.as_ref());
        lines.extend(best.map(|best| {
            let place = if is_missing(best) {
                " (not in this directory)"
            } else {
                ""
            };
            format!("best: {best}{place}")
        }));
        lines
    }
}

fn chunk(latest: &Latest, target: u64) -> ChunkSummary {
    ChunkSummary {
        step: latest.step,
        gate: latest.gate,
        loss: latest.loss,
        learning_rate: latest.learning_rate,
        updates_per_second: latest.updates_per_second,
        gate_eta_seconds: latest.eta(latest.gate),
        target_eta_seconds: latest.eta(target),
        seconds: latest.seconds(),
    }
}

/// The progress of the current chunk, once it has logged something.
fn chunk_line(stage: &StageSummary) -> Option<String> {
    let chunk = stage.chunk.as_ref()?;
    let mut parts = vec![format!(
        "{}: update {}, gate at {}",
        stage.stage,
        count(chunk.step),
        count(chunk.gate)
    )];
    let loss = chunk.loss.map(|loss| format!("loss {}", number(loss)));
    let learning_rate = chunk.learning_rate;
    let learning_rate = learning_rate.map(|value| format!("learning rate {}", number(value)));
    let speed = chunk.updates_per_second;
    let speed = speed.map(|speed| format!("{} updates/s", rate(speed)));
    let eta = chunk.gate_eta_seconds.zip(chunk.target_eta_seconds);
    let eta = eta.map(|(gate, target)| {
        format!("gate in {}, target in {}", duration(gate), duration(target))
    });
    let known: Vec<String> = [loss, learning_rate, speed, eta]
        .into_iter()
        .flatten()
        .collect();
    if known.is_empty() {
        return None;
    }
    parts.extend(known);
    Some(parts.join(", "))
}

/// What a stage is doing.
const fn phase(phase: &Phase) -> &'static str {
    match phase {
        Phase::Pending => "waiting",
        Phase::Measuring => "measuring",
        Phase::Recording { .. } => "between chunks",
        Phase::Training => "training",
        Phase::Rewinding => "rewinding",
        Phase::Gating => "at a gate",
        Phase::Failed { .. } => "after a failed chunk",
        Phase::Ending { .. } | Phase::Stopping { .. } => "stopping",
        Phase::Stopped { .. } => "stopped",
        Phase::Reopening { .. } => "reopening",
        Phase::Passed { .. } => "passed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygate_events::Scalar;

    #[test]
    fn the_last_step_of_a_column_is_found_in_either_form() {
        let column = |steps, values| Column {
            name: metric::LOSS.to_owned(),
            steps,
            values: vec![Scalar::new(0.5); values],
        };
        let even = |first, stride| Steps::Stride { first, stride };
        assert_eq!(last_step(&column(even(5, 5), 3)), Some(15));
        assert_eq!(last_step(&column(even(5, 5), 0)), None);
        assert_eq!(last_step(&column(Steps::List(vec![1, 7]), 2)), Some(7));
        assert_eq!(last_step(&column(even(u64::MAX, 2), 2)), None);
    }
}
