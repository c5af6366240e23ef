//! What a trainer is told to do.

use crate::machine::{Command, MeasureStage, TrainChunk};

/// What a trainer is told to do. It does one thing at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrainerCommand {
    /// Measure the trivial predictors of a stage; answered by a measurement.
    MeasureStage(MeasureStage),
    /// Train to the end of a chunk; answered by metrics, checkpoints and scores, and then by the
    /// chunk's end or its failure.
    TrainChunk(Box<TrainChunk>),
}

impl TrainerCommand {
    /// Whether this is what the machine asks for.
    pub fn is(&self, command: &Command) -> bool {
        match (self, command) {
            (TrainerCommand::MeasureStage(given), Command::MeasureStage(due)) => given == due,
            (TrainerCommand::TrainChunk(given), Command::TrainChunk(due)) => given == due,
            (TrainerCommand::MeasureStage(_) | TrainerCommand::TrainChunk(_), _) => false,
        }
    }
}
