//! An audit in words.

use std::fmt;

use serde_json::Value;

use crate::audit::{Audit, Divergence, DivergenceKind, Note, SkipReason};
use crate::numbers::plural;
use crate::outcome::Outcome;

/// Longest value shown; the JSON form has all of it.
const VALUE_MAX: usize = 200;

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary())?;
        if let Some(problem) = &self.problem {
            writeln!(f, "  {}", problem.text.replace('\n', "\n  "))?;
        }
        for skipped in &self.skipped {
            let decisions = plural(skipped.decisions, "decision", "decisions");
            let first = skipped.first;
            match skipped.why {
                SkipReason::UnknownRules { rules, known } => writeln!(
                    f,
                    "  skipped {decisions} from event {first} on: made by rules {rules}, this build knows rules {known}"
                )?,
            }
        }
        let mut last = None;
        for divergence in &self.divergences {
            if last != Some((divergence.seq, &divergence.decision)) {
                write_place(f, divergence)?;
            }
            last = Some((divergence.seq, &divergence.decision));
            write_values(f, divergence)?;
        }
        self.notes
            .iter()
            .try_for_each(|note| writeln!(f, "  note: {}", in_words(note)))
    }
}

impl Audit {
    /// One line: what was checked, and what it came to.
    pub fn summary(&self) -> String {
        let checked = self.checked;
        let rules = self
            .rules
            .map_or(String::new(), |rules| format!(" by rules {rules}"));
        let counts = format!(
            "{} read, {} of {} recomputed{rules}",
            plural(checked.events, "event", "events"),
            checked.recomputed,
            plural(checked.decisions, "decision", "decisions"),
        );
        let verdict = match self.outcome {
            Outcome::Agreed => "0 divergences".to_owned(),
            Outcome::Diverged => self.divergence_count(),
            Outcome::Unreadable => "the log cannot be read".to_owned(),
            Outcome::Damaged => format!("the log is damaged; {}", self.divergence_count()),
            Outcome::NewerVersion => "written by another version".to_owned(),
            Outcome::NothingChecked => "nothing was checked".to_owned(),
        };
        format!("{counts}: {verdict}")
    }

    /// Decisions that diverge, each counted once however many fields differ.
    pub fn diverging_decisions(&self) -> u64 {
        let differing = self.checked.recomputed - self.checked.agreed;
        differing + self.checked.missing + self.checked.surplus
    }

    fn divergence_count(&self) -> String {
        plural(self.diverging_decisions(), "divergence", "divergences")
    }
}

fn write_place(f: &mut fmt::Formatter<'_>, divergence: &Divergence) -> fmt::Result {
    let Divergence { seq, decision, .. } = divergence;
    let place = match (&divergence.stage, &divergence.gate) {
        (Some(stage), Some(gate)) => format!(
            " ({stage}, chunk {}, attempt {}, gate at update {})",
            gate.chunk, gate.attempt, gate.step
        ),
        (Some(stage), None) => format!(" ({stage})"),
        (None, _) => String::new(),
    };
    match divergence.divergence {
        DivergenceKind::Differs => writeln!(f, "  event {seq}: `{decision}` differs{place}"),
        DivergenceKind::Missing => {
            writeln!(f, "  event {seq}: before it `{decision}` is missing{place}")
        }
        DivergenceKind::Surplus => writeln!(f, "  event {seq}: `{decision}` was not due{place}"),
    }
}

fn write_values(f: &mut fmt::Formatter<'_>, divergence: &Divergence) -> fmt::Result {
    if !divergence.field.is_empty() {
        writeln!(f, "    {}", divergence.field)?;
    }
    writeln!(f, "      recorded:   {}", value(&divergence.recorded))?;
    writeln!(f, "      recomputed: {}", value(&divergence.recomputed))
}

fn value(value: &Value) -> String {
    let text = match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => value.to_string(),
    };
    match text.char_indices().nth(VALUE_MAX) {
        Some((end, _)) => format!("{} ...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

fn in_words(note: &Note) -> String {
    match note {
        Note::EndsBeforeDecision { seq, decision } => format!(
            "the log ends where `{decision}` was due as event {seq}; the process went away before, and resuming records it"
        ),
        Note::UnderWay { seq } => {
            format!("the run is neither finished nor stopped; event {seq} is the next")
        }
        Note::UnfinishedAppend { offset, bytes } => format!(
            "{} after byte {offset} are an append that is being written or was not finished",
            plural(*bytes, "byte", "bytes")
        ),
        Note::Resumed { processes } => format!("{processes} processes worked on the run"),
    }
}
