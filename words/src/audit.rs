//! The result of an audit, as text and in its JSON form.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use tinygate_replay::{
    Audit, Checked, Divergence, DivergenceKind, Note, Outcome, Problem, SkipReason,
};

use crate::hint::hint_of;
use crate::numbers::plural;

/// Longest value shown; the JSON form has all of it.
const VALUE_MAX: usize = 200;

/// One line: what was checked, and with which result.
pub fn audit_summary(audit: &Audit) -> String {
    let Checked {
        events,
        decisions,
        recomputed,
        ..
    } = audit.checked;
    let rules = audit
        .rules
        .map_or(String::new(), |rules| format!(" by rules {rules}"));
    let counts = format!(
        "{} read, {recomputed} of {} recomputed{rules}",
        plural(events, "event", "events"),
        plural(decisions, "decision", "decisions"),
    );
    let divergences = plural(audit.diverging_decisions(), "divergence", "divergences");
    let verdict = match audit.outcome {
        Outcome::Agreed => "0 divergences".to_owned(),
        Outcome::Diverged => divergences,
        Outcome::Unreadable => "the log cannot be read".to_owned(),
        Outcome::Damaged => format!("the log is damaged; {divergences}"),
        Outcome::NewerVersion => "written by another version".to_owned(),
        Outcome::NothingChecked => "nothing was checked".to_owned(),
    };
    format!("{counts}: {verdict}")
}

/// The summary, then why the log could not be read to its end, what was skipped, each divergence
/// with both values, and notes. Ends with a line break.
pub fn audit_text(audit: &Audit) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_audit(&mut text, audit);
    text
}

/// The audit as its JSON form has it: the text of a problem ends with its hint.
pub fn audit_json(audit: &Audit) -> Cow<'_, Audit> {
    let Some(problem) = &audit.problem else {
        return Cow::Borrowed(audit);
    };
    Cow::Owned(Audit {
        problem: Some(Problem {
            text: problem_text(problem),
            ..problem.clone()
        }),
        ..audit.clone()
    })
}

/// The audit of one log as a line of JSON, without its line break.
///
/// # Errors
/// A value that JSON cannot hold; no audit has one.
pub fn audit_json_line(log: &Path, audit: &Audit) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Line<'a> {
        log: String,
        #[serde(flatten)]
        audit: &'a Audit,
    }
    serde_json::to_string(&Line {
        log: log.display().to_string(),
        audit: &audit_json(audit),
    })
}

fn problem_text(problem: &Problem) -> String {
    match hint_of(&problem.hints) {
        Some(hint) => format!("{}\nhint: {hint}", problem.text),
        None => problem.text.clone(),
    }
}

fn write_audit(f: &mut String, audit: &Audit) -> fmt::Result {
    writeln!(f, "{}", audit_summary(audit))?;
    if let Some(problem) = &audit.problem {
        writeln!(f, "  {}", problem_text(problem).replace('\n', "\n  "))?;
    }
    for skipped in &audit.skipped {
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
    for divergence in &audit.divergences {
        if last != Some((divergence.seq, &divergence.decision)) {
            write_place(f, divergence)?;
        }
        last = Some((divergence.seq, &divergence.decision));
        write_values(f, divergence)?;
    }
    audit
        .notes
        .iter()
        .try_for_each(|note| writeln!(f, "  note: {}", note_text(note)))
}

fn write_place(f: &mut String, divergence: &Divergence) -> fmt::Result {
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
            writeln!(f, "  before event {seq}: `{decision}` is missing{place}")
        }
        DivergenceKind::Surplus => writeln!(f, "  event {seq}: `{decision}` was not due{place}"),
    }
}

fn write_values(f: &mut String, divergence: &Divergence) -> fmt::Result {
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

fn note_text(note: &Note) -> String {
    match note {
        Note::EndsBeforeDecision { seq, decision } => format!(
            "the log ends before `{decision}`, which is due as event {seq}; the process ended before, and resuming records it"
        ),
        Note::UnderWay { seq } => {
            format!("the run is neither finished nor stopped; event {seq} is next")
        }
        Note::UnfinishedAppend { offset, bytes } => format!(
            "{} after byte {offset} belong to an append in progress or an unfinished one",
            plural(*bytes, "byte", "bytes")
        ),
        Note::Resumed { processes } => format!("{processes} processes worked on the run"),
    }
}
