//! Recomputes every recorded decision of a log and compares.
//!
//! [`audit`] folds a log with the machine and, before it folds a recorded
//! decision, asks the machine for its own. Where the two differ it says in which
//! field, both values, and what the decision was made from. It goes on after a
//! difference, so that one edited decision is one divergence. Nothing here
//! trains, writes to a log or needs libtorch.
//!
//! Invariant: agreement is only said of decisions that were recomputed, and how
//! many those were is part of the answer.

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
