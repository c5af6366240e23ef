//! Folds a log and recomputes each decision just before its recorded one is folded.
//!
//! After a divergence the recorded event is folded, for that is what the run went
//! on from. The state with the recomputed one is kept beside it: where later
//! decisions follow from that instead (one event was edited afterwards), it is
//! taken, so that one edit is one divergence and not all that comes after it.

use std::path::Path;

use serde_json::Value;
use tinygate_advice::{Advice, Hint};
use tinygate_events::{Event, Record, Seq, Source};
use tinygate_machine::rules::KNOWN;
use tinygate_machine::{Decision, Idle, Known, Machine, RunState};
use tinygate_store::{LogFile, ReadError};

use crate::audit::{
    Audit, Checked, Divergence, DivergenceKind, GatePlace, Note, Problem, SkipReason, Skipped,
};
use crate::compare::{Difference, differences};
use crate::inputs::inputs;
use crate::outcome::Outcome;

/// Missing decisions in a row that are looked past for the recorded one.
const MISSING_MAX: usize = 64;
/// Divergences after which no second state is kept any more: that log is not
/// one with an edit or two, and copies of states cost time.
const SECOND_STATES_MAX: usize = 1000;

/// Audits events as they come.
#[derive(Clone, Debug)]
pub struct Auditor {
    machine: Machine,
    /// As if the last diverging decision had been recorded as recomputed.
    other: Option<Machine>,
    /// The last recorded decision: found again at once, it is there twice.
    last: Option<Event>,
    next: Seq,
    checked: Checked,
    skipped: Vec<Skipped>,
    divergences: Vec<Divergence>,
    notes: Vec<Note>,
    problem: Option<Problem>,
}

/// Audits a whole log. The first error ends it and is part of the answer.
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

    /// Audits by other rules than this build's.
    pub fn knowing(known: Known) -> Auditor {
        Auditor {
            machine: Machine::new(known),
            other: None,
            last: None,
            next: Seq::FIRST,
            checked: Checked::default(),
            skipped: Vec::new(),
            divergences: Vec::new(),
            notes: Vec::new(),
            problem: None,
        }
    }

    /// Takes the next event. After a gap or an error nothing more is taken.
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
            && let Some(stage) = created.policy.doubled_stage()
        {
            let text = format!("the policy names the stage `{stage}` twice, which no run's does");
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

    /// Takes the events of the journal of a run directory, or of an exported file.
    pub fn see_file(&mut self, path: &Path) {
        if let Err(error) = self.read(path) {
            self.fail(&error);
        }
    }

    /// The log cannot be read on.
    pub fn fail(&mut self, error: &ReadError) {
        self.end(Outcome::from(&error.kind), error.to_string(), error.hints());
    }

    /// The answer.
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
        Outcome::gravest(
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

    /// The log's rules, if they are none of those that are known.
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
            self.catch_up(seq);
        }
        // A log is one run's, and says whose first.
        if matches!(event, Event::RunCreated(_)) && seq != Seq::FIRST {
            self.report_surplus(seq, event);
        }
        self.fold(event);
    }

    /// A trainer only speaks when no decision is due: whatever is due is missing.
    fn catch_up(&mut self, seq: Seq) {
        let rests = |machine: &Machine| !matches!(machine.decide(), Decision::Record(_));
        if rests(&self.machine) {
            self.other = self.other.take().filter(|other| rests(other));
            return;
        }
        if let Some(other) = self.other.take_if(|other| rests(other)) {
            self.machine = other;
            return;
        }
        self.other = None;
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
            self.other = self.other.take().filter(|other| is_due(other, event));
            self.agree();
        } else if let Some(other) = self.other.take_if(|other| is_due(other, event)) {
            self.machine = other;
            self.agree();
        } else if let Some((missing, machine)) = self.look_past(|due| due == event) {
            self.accept_missing(seq, missing, machine);
            self.agree();
        } else if self.last.as_ref() == Some(event) {
            return self.pass_over(seq, event);
        } else if let Some((machine, due)) = self.most_alike(event) {
            return self.differ(seq, event, machine, &due);
        } else if let Some((missing, machine)) = self.look_past(|due| due.kind() == event.kind()) {
            self.accept_missing(seq, missing, machine);
            if let Decision::Record(due) = self.machine.decide() {
                return self.differ(seq, event, self.machine.clone(), &due);
            }
        } else {
            return self.pass_over(seq, event);
        }
        self.fold(event);
    }

    /// A decision that was not due: folded, and the state without it kept beside.
    fn pass_over(&mut self, seq: Seq, event: &Event) {
        self.report_surplus(seq, event);
        self.other = (self.divergences.len() < SECOND_STATES_MAX).then(|| self.machine.clone());
        self.machine.apply(event);
    }

    fn fold(&mut self, event: &Event) {
        self.machine.apply(event);
        if let Some(other) = &mut self.other {
            other.apply(event);
            if *other == self.machine {
                self.other = None;
            }
        }
    }

    fn agree(&mut self) {
        self.checked.recomputed += 1;
        self.checked.agreed += 1;
    }

    /// Records the differences, folds the recorded event, and keeps the other way.
    fn differ(&mut self, seq: Seq, event: &Event, machine: Machine, due: &Event) {
        self.checked.recomputed += 1;
        self.report_differences(seq, event, machine.state(), due);
        self.other =
            (self.divergences.len() < SECOND_STATES_MAX).then(|| after(machine.clone(), due));
        self.machine = after(machine, event);
    }

    /// Decisions that would have to be missing for `wanted` to be due now, and the
    /// state after them.
    fn look_past(&self, wanted: impl Fn(&Event) -> bool) -> Option<(Vec<Event>, Machine)> {
        let machines = std::iter::once(&self.machine).chain(&self.other);
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
        self.other = None;
    }

    /// Of the states in which a decision of this kind is due, the one whose decision
    /// differs in the fewest fields.
    fn most_alike(&self, event: &Event) -> Option<(Machine, Event)> {
        let recorded = json_of(event);
        std::iter::once(&self.machine)
            .chain(&self.other)
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
            // Bits that JSON does not tell apart, as of two NaN.
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

/// Every event has a JSON form; if ever one had none, it would differ from all others.
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
