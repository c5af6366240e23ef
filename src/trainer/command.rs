//! The commands to a trainer.

use crate::machine::{Command, MeasureStage, TrainChunk};

/// A command to a trainer, which carries out one at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrainerCommand {
    /// Measure the trivial predictors of a stage. The answer is a measurement.
    MeasureStage(MeasureStage),
    /// Train to the end of a chunk. The answers are metrics, checkpoints and scores, then the end or
    /// the failure of the chunk.
    TrainChunk(Box<TrainChunk>),
}

impl TrainerCommand {
    /// Whether this carries out the machine's command.
    pub fn is(&self, command: &Command) -> bool {
        match (self, command) {
            (TrainerCommand::MeasureStage(given), Command::MeasureStage(due)) => given == due,
            (TrainerCommand::TrainChunk(given), Command::TrainChunk(due)) => given == due,
            (TrainerCommand::MeasureStage(_) | TrainerCommand::TrainChunk(_), _) => false,
        }
    }
}
