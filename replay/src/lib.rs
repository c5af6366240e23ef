//! Recomputes every recorded decision of a log and compares.
//!
//! [`audit`] folds a log with the machine. Before it folds a recorded decision, it
//! computes the decision itself. If the two differ, it reports the field, both values,
//! and the inputs of the decision. It continues after a difference, so that one edited
//! decision is one divergence. Nothing here trains, writes to a log, or needs libtorch,
//! and the result is data without text for people.
//!
//! Invariant: only recomputed decisions count as agreed, and their number is part of
//! the result.

mod audit;
mod auditor;
mod compare;
mod inputs;
mod outcome;
pub mod places;

pub use audit::{
    Audit, Checked, Divergence, DivergenceKind, GatePlace, Note, Problem, SkipReason, Skipped,
};
pub use auditor::{Auditor, audit, audit_file};
pub use compare::{Difference, differences};
pub use outcome::Outcome;
