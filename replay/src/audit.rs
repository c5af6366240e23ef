//! The result of an audit, as data.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tinygate_advice::Hint;
use tinygate_events::{Attempt, ChunkNumber, Seq, StageName, Step};

use crate::outcome::Outcome;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    pub outcome: Outcome,
    /// Name of the run, if its first event was read.
    pub run: Option<String>,
    /// Version of the decision rules that the log was made with and recomputed with.
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
    /// Recomputed decisions that were equal.
    pub agreed: u64,
    /// Decisions that were due but are not in the log.
    pub missing: u64,
    /// Decisions that are in the log but were not due.
    pub surplus: u64,
}

/// Decisions that were not recomputed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    pub why: SkipReason,
    /// The first skipped decision.
    pub first: Seq,
    pub decisions: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum SkipReason {
    UnknownRules { rules: u32, known: u32 },
}

/// A field in which the log and the machine disagree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Number of the recorded decision, or of the event before which a missing one was due.
    pub seq: Seq,
    /// Kind of the decision, as in the JSON form of events.
    pub decision: String,
    pub divergence: DivergenceKind,
    pub stage: Option<StageName>,
    pub gate: Option<GatePlace>,
    /// Path of the field in the event's JSON form; empty for the whole event.
    pub field: String,
    /// Null if it is absent.
    pub recorded: Value,
    pub recomputed: Value,
    /// What the machine made the decision from.
    pub inputs: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DivergenceKind {
    Differs,
    /// It was due but is not in the log.
    Missing,
    /// It is in the log but was not due.
    Surplus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatePlace {
    pub chunk: ChunkNumber,
    pub attempt: Attempt,
    /// The end of the chunk.
    pub step: Step,
}

/// Something notable that is not a divergence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "note", rename_all = "snake_case")]
pub enum Note {
    /// The process ended before it recorded a decision that was due. Resuming records it.
    EndsBeforeDecision { seq: Seq, decision: String },
    /// The run is neither finished nor stopped.
    UnderWay { seq: Seq },
    /// Bytes after the last complete append: an append in progress or an unfinished one.
    UnfinishedAppend { offset: u64, bytes: u64 },
    /// Several processes worked on the run.
    Resumed { processes: u32 },
}

/// Why a log could not be read to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub outcome: Outcome,
    /// Events before this one were read.
    pub seq: Seq,
    pub text: String,
    /// Not part of the serialized form.
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
