//! The result of an audit, as data.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tinygate_advice::Hint;
use tinygate_events::{Attempt, ChunkNumber, Seq, StageName, Step};

use crate::outcome::Outcome;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    pub outcome: Outcome,
    /// Name of the run, once its first event was read.
    pub run: Option<String>,
    /// Version of the decision rules the log was made by and recomputed by.
    pub rules: Option<u32>,
    pub checked: Checked,
    pub skipped: Vec<Skipped>,
    pub divergences: Vec<Divergence>,
    pub notes: Vec<Note>,
    /// Why the log could not be read to its end.
    pub problem: Option<Problem>,
}

/// How much was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    pub events: u64,
    /// Decisions among the events.
    pub decisions: u64,
    /// Recorded decisions that were recomputed and compared.
    pub recomputed: u64,
    /// Of these, the ones found alike.
    pub agreed: u64,
    /// Decisions that were due and are not there.
    pub missing: u64,
    /// Decisions that are there and were not due.
    pub surplus: u64,
}

/// Decisions that were not recomputed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    pub why: SkipReason,
    /// The first of them.
    pub first: Seq,
    pub decisions: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum SkipReason {
    UnknownRules { rules: u32, known: u32 },
}

/// One field in which log and machine disagree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Place of the recorded decision; of the event before which a missing one was due.
    pub seq: Seq,
    /// Kind of the decision, as in the JSON form of events.
    pub decision: String,
    pub divergence: DivergenceKind,
    pub stage: Option<StageName>,
    pub gate: Option<GatePlace>,
    /// Path of the field in the event's JSON form; empty for the whole event.
    pub field: String,
    /// Null where it is not there.
    pub recorded: Value,
    pub recomputed: Value,
    /// What the machine had to decide from.
    pub inputs: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DivergenceKind {
    Differs,
    /// It was due and is not in the log.
    Missing,
    /// It is in the log and was not due.
    Surplus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatePlace {
    pub chunk: ChunkNumber,
    pub attempt: Attempt,
    /// The chunk's end.
    pub step: Step,
}

/// What is worth knowing and no divergence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "note", rename_all = "snake_case")]
pub enum Note {
    /// The process went away before it recorded what was due: resuming records it.
    EndsBeforeDecision { seq: Seq, decision: String },
    /// The run is neither finished nor stopped.
    UnderWay { seq: Seq },
    /// Bytes after the last whole append: being written, or never finished.
    UnfinishedAppend { offset: u64, bytes: u64 },
    /// Processes that worked on the run, when there were several.
    Resumed { processes: u32 },
}

/// Why a log could not be read to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub outcome: Outcome,
    /// Events before it were read.
    pub seq: Seq,
    pub text: String,
    #[serde(skip)]
    pub hints: Vec<Hint>,
}

impl Audit {
    /// Decisions that diverge, each counted once however many fields differ.
    pub fn diverging_decisions(&self) -> u64 {
        let differing = self.checked.recomputed - self.checked.agreed;
        differing + self.checked.missing + self.checked.surplus
    }
}
