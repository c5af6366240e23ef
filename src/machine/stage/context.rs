//! The parts of the run that a stage depends on.

use crate::edition::Edition;
use tinygate_events::Policy;

/// The parts of the run that a stage's decisions depend on.
#[derive(Clone, Copy, Debug)]
pub struct RunPolicy<'a> {
    pub policy: &'a Policy,
    /// Interruptions of the current chunk without a new checkpoint.
    pub interruptions: u32,
    /// A stage of the run has deferred a patch.
    pub deferred: bool,
    pub edition: Edition,
}

/// The parts of the run that folding a stage's events depends on. Folding is the same in every
/// version of the rules.
#[derive(Clone, Copy, Debug)]
pub struct FoldContext {
    pub max_chunk_failures: u32,
    /// A person's request to free disk space is in force.
    pub pruning: bool,
}
