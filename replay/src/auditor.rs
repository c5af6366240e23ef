//! Folds a log and recomputes each decision just before the recorded one is folded.
//!
//! After a divergence the recorded event is folded, because the run continued from it.
//! A second state, with the recomputed decision, is kept as an alternative. If later
//! decisions follow from that state (one event was edited afterwards), it replaces the
//! first, so that one edit is one divergence and not one for every later decision.

use std::path::Path;

use serde_json::Value;
use tinygate_advice::{Advice, Hint};
use tinygate_events::{Event, Record, Seq, Source};
use tinygate_machine::rules::KNOWN;
use tinygate_machine::{Decision, Idle, KnownRules, Machine, RunState};
use tinygate_store::{LogFile, ReadError};

use crate::audit::{
    Audit, Checked, Divergence, DivergenceKind, GatePlace, Note, Problem, SkipReason, Skipped,
};
use crate::compare::{Difference, differences};
use crate::inputs::inputs;
use crate::outcome::Outcome;

/// How many missing decisions in a row are skipped to find the recorded one.
const MISSING_MAX: usize = 64;
/// Divergences after which no alternative state is kept: such a log has more than a few
/// edits, and copying states takes time.
const ALTERNATIVES_MAX: usize = 1000;

/// Audits events one by one.
#[derive(Clone, Debug)]
pub struct Auditor {
    machine: Machine,
    /// The state if the last diverging decision had been recorded as recomputed.
    alternative: Option<Machine>,
    /// The last recorded decision, to detect that it is recorded twice.
    last: Option<Event>,
    next: Seq,
    checked: Checked,
    skipped: Vec<Skipped>,
    divergences: Vec<Divergence>,
    notes: Vec<Note>,
    problem: Option<Problem>,
}

/// Audits a whole log. Stops at the first error, which is part of the result.
pub fn audit(records: impl IntoIterator<Item = Result<Record, ReadError>>) -> Audit {
    let mut auditor = Auditor::new();
    for record in records {
        match record {
            Ok(record) => auditor.see(&record),
            Err(error) => auditor.fail(&error),
        }
        if auditor.problem.is_some() {
            break;
        }
    }
    auditor.finish()
}

/// Audits the journal of a run directory, or an exported file.
pub fn audit_file(path: &Path) -> Audit {
    let mut auditor = Auditor::new();
    auditor.see_file(path);
    auditor.finish()
}

impl Default for Auditor {
    fn default() -> Auditor {
        Auditor::new()
    }
}

impl Auditor {
    pub fn new() -> Auditor {
        Auditor::knowing(KNOWN)
    }

    /// Audits with other known rules than those of this build.
    pub fn knowing(known: KnownRules) -> Auditor {
        Auditor {
            machine: Machine::new(known),
            alternative: None,
            last: None,
            next: Seq::FIRST,
            checked: Checked::default(),
            skipped: Vec::new(),
            divergences: Vec::new(),
            notes: Vec::new(),
            problem: None,
        }
    }

    /// Audits the next event. Events after a gap or an error are ignored.
    pub fn see(&mut self, record: &Record) {
        if self.problem.is_some() {
            return;
        }
        if record.seq != self.next {
            let text = format!(
                "the log jumps from event {} to event {}",
                self.next, record.seq
            );
            return self.end(Outcome::Damaged, text, Vec::new());
        }
        let Some(next) = record.seq.next() else {
            let text = "the sequence numbers are used up".to_owned();
            return self.end(Outcome::Damaged, text, Vec::new());
        };
        if let Event::RunCreated(created) = &record.event
            && let Some(stage) = created.policy.duplicate_stage()
        {
            let text =
                format!("the policy names the stage `{stage}` twice, which tinygate never does");
            return self.end(Outcome::Damaged, text, Vec::new());
        }
        self.next = next;
        self.checked.events += 1;
        if record.event.is_decision() {
            self.checked.decisions += 1;
            self.see_decision(record.seq, &record.event);
            self.last = Some(record.event.clone());
        } else {
            self.see_fact(record.seq, &record.event);
        }
    }

    /// Audits the events of the journal of a run directory, or of an exported file.
    pub fn see_file(&mut self, path: &Path) {
        if let Err(error) = self.read(path) {
            self.fail(&error);
        }
    }

    /// Records that the log cannot be read further.
    pub fn fail(&mut self, error: &ReadError) {
        self.end(Outcome::from(&error.kind), error.to_string(), error.hints());
    }

    /// The result.
    pub fn finish(mut self) -> Audit {
        if self.problem.is_none() {
            self.note_the_end();
        }
        let processes = self.machine.state().process.starts;
        if 1 < processes {
            self.notes.push(Note::Resumed { processes });
        }
        let created = self.machine.state().created.as_ref();
        Audit {
            outcome: self.outcome(),
            run: created.map(|created| created.run.clone()),
            rules: created.map(|created| created.rules),
            checked: self.checked,
            skipped: self.skipped,
            divergences: self.divergences,
            notes: self.notes,
            problem: self.problem,
        }
    }

    fn read(&mut self, path: &Path) -> Result<(), ReadError> {
        let mut records = LogFile::open(path)?.records();
        for record in records.by_ref() {
            self.see(&record?);
            if self.problem.is_some() {
                return Ok(());
            }
        }
        if let Some(tail) = records.tail()? {
            self.notes.push(Note::UnfinishedAppend {
                offset: tail.offset,
                bytes: tail.bytes,
            });
        }
        Ok(())
    }

    fn end(&mut self, outcome: Outcome, text: String, hints: Vec<Hint>) {
        self.problem = Some(Problem {
            outcome,
            seq: self.next,
            text,
            hints,
        });
    }

    fn outcome(&self) -> Outcome {
        let unknown_rules = self.unknown_rules().is_some();
        let checked = if self.checked.recomputed == 0 {
            Outcome::NothingChecked
        } else {
            Outcome::Agreed
        };
        let diverged = (!self.divergences.is_empty()).then_some(Outcome::Diverged);
        let problem = self.problem.as_ref().map(|problem| problem.outcome);
        Outcome::most_severe(
            [
                Some(checked),
                diverged,
                unknown_rules.then_some(Outcome::NewerVersion),
                problem,
            ]
            .into_iter()
            .flatten(),
        )
    }

    /// The log's rules, if they are unknown.
    fn unknown_rules(&self) -> Option<u32> {
        self.machine.unknown_rules()
    }

    fn note_the_end(&mut self) {
        match self.machine.decide() {
            Decision::Record(due) => self.notes.push(Note::EndsBeforeDecision {
                seq: self.next,
                decision: due.kind().to_owned(),
            }),
            Decision::Act(_) => self.notes.push(Note::UnderWay { seq: self.next }),
            Decision::Idle(
                Idle::NoRun | Idle::Finished | Idle::Stopped | Idle::UnknownRules { .. },
            ) => {}
        }
    }

    fn see_fact(&mut self, seq: Seq, event: &Event) {
        if event.source() == Source::Trainer {
            self.report_due_as_missing(seq);
        }
        // A log belongs to one run, which only its first event creates.
        if matches!(event, Event::RunCreated(_)) && seq != Seq::FIRST {
            self.report_surplus(seq, event);
        }
        self.fold(event);
    }

    /// A trainer only reports when no decision is due, so any decision that is due is missing.
    fn report_due_as_missing(&mut self, seq: Seq) {
        let rests = |machine: &Machine| !matches!(machine.decide(), Decision::Record(_));
        if rests(&self.machine) {
            self.alternative = self.alternative.take().filter(|machine| rests(machine));
            return;
        }
        if let Some(alternative) = self.alternative.take_if(|machine| rests(machine)) {
            self.machine = alternative;
            return;
        }
        self.alternative = None;
        for _ in 0..MISSING_MAX {
            let Decision::Record(due) = self.machine.decide() else {
                return;
            };
            self.report_missing(seq, &due);
            self.machine.apply(&due);
        }
    }

    fn see_decision(&mut self, seq: Seq, event: &Event) {
        if let Some(rules) = self.unknown_rules() {
            let known = self.machine.known().newest.number;
            self.skip(seq, SkipReason::UnknownRules { rules, known });
            return self.fold(event);
        }
        if is_due(&self.machine, event) {
            self.alternative = self
                .alternative
                .take()
                .filter(|machine| is_due(machine, event));
            self.agree();
        } else if let Some(alternative) = self.alternative.take_if(|machine| is_due(machine, event))
        {
            self.machine = alternative;
            self.agree();
        } else if let Some((missing, machine)) = self.skip_missing(|due| due == event) {
            self.accept_missing(seq, missing, machine);
            self.agree();
        } else if self.last.as_ref() == Some(event) {
            return self.accept_surplus(seq, event);
        } else if let Some((machine, due)) = self.closest(event) {
            return self.differ(seq, event, machine, &due);
        } else if let Some((missing, machine)) = self.skip_missing(|due| due.kind() == event.kind())
        {
            self.accept_missing(seq, missing, machine);
            if let Decision::Record(due) = self.machine.decide() {
                return self.differ(seq, event, self.machine.clone(), &due);
            }
        } else {
            return self.accept_surplus(seq, event);
        }
        self.fold(event);
    }

    /// Reports a decision that was not due, folds it, and keeps the state without it as the
    /// alternative.
    fn accept_surplus(&mut self, seq: Seq, event: &Event) {
        self.report_surplus(seq, event);
        self.alternative =
            (self.divergences.len() < ALTERNATIVES_MAX).then(|| self.machine.clone());
        self.machine.apply(event);
    }

    fn fold(&mut self, event: &Event) {
        self.machine.apply(event);
        if let Some(alternative) = &mut self.alternative {
            alternative.apply(event);
            if *alternative == self.machine {
                self.alternative = None;
            }
        }
    }

    fn agree(&mut self) {
        self.checked.recomputed += 1;
        self.checked.agreed += 1;
    }

    /// Reports the differences, folds the recorded event, and keeps the recomputed one as the
    /// alternative.
    fn differ(&mut self, seq: Seq, event: &Event, machine: Machine, due: &Event) {
        self.checked.recomputed += 1;
        self.report_differences(seq, event, machine.state(), due);
        self.alternative =
            (self.divergences.len() < ALTERNATIVES_MAX).then(|| after(machine.clone(), due));
        self.machine = after(machine, event);
    }

    /// The decisions that must be missing for `wanted` to be due now, and the state after them.
    fn skip_missing(&self, wanted: impl Fn(&Event) -> bool) -> Option<(Vec<Event>, Machine)> {
        let machines = std::iter::once(&self.machine).chain(&self.alternative);
        for machine in machines {
            let mut machine = machine.clone();
            let mut missing = Vec::new();
            while missing.len() < MISSING_MAX {
                let Decision::Record(due) = machine.decide() else {
                    break;
                };
                if wanted(&due) {
                    return Some((missing, machine));
                }
                machine.apply(&due);
                missing.push(*due);
            }
        }
        None
    }

    fn accept_missing(&mut self, seq: Seq, missing: Vec<Event>, machine: Machine) {
        for due in missing {
            self.report_missing(seq, &due);
        }
        self.machine = machine;
        self.alternative = None;
    }

    /// Of the states in which a decision of this kind is due, the one whose decision differs
    /// in the fewest fields.
    fn closest(&self, event: &Event) -> Option<(Machine, Event)> {
        let recorded = json_of(event);
        std::iter::once(&self.machine)
            .chain(&self.alternative)
            .filter_map(|machine| match machine.decide() {
                Decision::Record(due) if due.kind() == event.kind() => Some((machine, *due)),
                Decision::Record(_) | Decision::Act(_) | Decision::Idle(_) => None,
            })
            .min_by_key(|(_, due)| differences(&recorded, &json_of(due)).len())
            .map(|(machine, due)| (machine.clone(), due))
    }

    fn skip(&mut self, seq: Seq, why: SkipReason) {
        match self.skipped.last_mut().filter(|last| last.why == why) {
            Some(last) => last.decisions += 1,
            None => self.skipped.push(Skipped {
                why,
                first: seq,
                decisions: 1,
            }),
        }
    }

    fn report_differences(&mut self, seq: Seq, event: &Event, state: &RunState, due: &Event) {
        let mut found = differences(&json_of(event), &json_of(due));
        if found.is_empty() {
            // JSON does not distinguish some bits, such as those of two NaN.
            found.push(Difference {
                field: "(bits of a number)".to_owned(),
                recorded: Value::String(format!("{event:?}")),
                recomputed: Value::String(format!("{due:?}")),
            });
        }
        for difference in found {
            self.report(seq, DivergenceKind::Differs, event, state, difference);
        }
    }

    fn report_missing(&mut self, seq: Seq, due: &Event) {
        self.checked.missing += 1;
        let difference = Difference {
            field: String::new(),
            recorded: Value::Null,
            recomputed: json_of(due),
        };
        let state = self.machine.state().clone();
        self.report(seq, DivergenceKind::Missing, due, &state, difference);
    }

    fn report_surplus(&mut self, seq: Seq, event: &Event) {
        self.checked.surplus += 1;
        let difference = Difference {
            field: String::new(),
            recorded: json_of(event),
            recomputed: Value::Null,
        };
        let state = self.machine.state().clone();
        self.report(seq, DivergenceKind::Surplus, event, &state, difference);
    }

    fn report(
        &mut self,
        seq: Seq,
        divergence: DivergenceKind,
        event: &Event,
        state: &RunState,
        difference: Difference,
    ) {
        let form = json_of(event);
        let stage = form
            .get("stage")
            .and_then(|stage| serde_json::from_value(stage.clone()).ok());
        self.divergences.push(Divergence {
            seq,
            decision: event.kind().to_owned(),
            divergence,
            stage,
            gate: gate_of(&form, state),
            field: difference.field,
            recorded: difference.recorded,
            recomputed: difference.recomputed,
            inputs: inputs(state),
        });
    }
}

/// The gate a decision belongs to: its chunk's.
fn gate_of(form: &Value, state: &RunState) -> Option<GatePlace> {
    let field = |name: &str| form.get(name).cloned();
    let number = |name: &str| field(name).and_then(|value| serde_json::from_value(value).ok());
    let chunk = state.stage().and_then(|stage| stage.chunk.as_ref());
    let step = ["gate_step", "to", "step"]
        .into_iter()
        .find_map(|name| field(name).and_then(|value| serde_json::from_value(value).ok()));
    Some(GatePlace {
        chunk: number("chunk").or(chunk.map(|chunk| chunk.number))?,
        attempt: field("attempt")
            .and_then(|value| serde_json::from_value(value).ok())
            .or(chunk.map(|chunk| chunk.attempt))?,
        step: step.or(chunk.map(|chunk| chunk.to))?,
    })
}

/// Every event has a JSON form. An event without one would differ from all others.
fn json_of(event: &Event) -> Value {
    serde_json::to_value(event).unwrap_or_else(|error| Value::String(error.to_string()))
}

fn is_due(machine: &Machine, event: &Event) -> bool {
    matches!(machine.decide(), Decision::Record(due) if *due == *event)
}

fn after(mut machine: Machine, event: &Event) -> Machine {
    machine.apply(event);
    machine
}
