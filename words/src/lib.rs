//! Everything about a run as text for people.
//!
//! [`describe`] puts an event into one line, [`explain`] adds every number that a decision was
//! made from, [`audit_text`] is the result of an audit, [`Summary`] is the state of a run.
//! The text is the same for every reader: a terminal colours it by its [`Tone`]s, and a page may do
//! so differently. [`numbers`] has one function for each kind of number. Nothing here reads or writes a file,
//! and nothing depends on the engine, on libtorch or on a terminal.
//!
//! Invariant: the text states what the log holds. It is never parsed again, and nothing depends
//! on its wording.

mod audit;
mod criteria;
pub mod dataset;
mod describe;
mod explain;
mod findings;
mod gate;
mod hint;
mod summary;
mod table;
mod tone;
mod values;

pub use tinygate_numbers as numbers;

pub use audit::{audit_json, audit_json_line, audit_summary, audit_text};
pub use criteria::passes_when;
pub use describe::{describe, event_line, hardware};
pub use explain::explain;
pub use gate::gate_lines;
pub use hint::{hint, hint_of};
pub use summary::{ChunkSummary, StageSummary, Summary};
pub use table::{Align, Table};
pub use tone::{Line, Tone};
pub use values::setting;
