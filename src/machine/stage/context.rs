//! What a stage is told of its run.

use crate::edition::Edition;
use tinygate_events::Policy;

/// Policy of the whole run that a stage is decided by.
#[derive(Clone, Copy, Debug)]
pub struct RunPolicy<'a> {
    pub policy: &'a Policy,
    /// Interruptions of the present chunk without a new checkpoint.
    pub interruptions: u32,
    /// A stage of the run has deferred fewer actions.
    pub deferred: bool,
    pub edition: Edition,
}

/// The part of the run that folding a stage's events depends on. Folding is the same by every
/// version of the rules.
#[derive(Clone, Copy, Debug)]
pub struct Folding {
    pub max_chunk_failures: u32,
    /// Retention deletes on a person's request.
    pub pruning: bool,
}
