//! Checks that the reports of a program fit its command and each other.
//!
//! The host checks that a fact is about a command. These checks are for programs only: they may be
//! anybody's, and their reports go into the log.

use std::collections::BTreeMap;

use tinygate::events::{Column, MetricsLogged, StageName, Step, Steps};
use tinygate::trainer::wire::ProgramMessage;
use tinygate::trainer::{Report, Subject, TrainerCommand, TrainerFact};

/// Most reports without a new update.
const REPORTS_MOST: u64 = 10_000;

/// What a program has reported on its command.
#[derive(Debug, Default)]
pub struct Order {
    chunk: Option<Chunk>,
    /// Reports since the last new update.
    reports: u64,
}

#[derive(Debug)]
struct Chunk {
    subject: Subject,
    stage: StageName,
    start: Step,
    to: Step,
    taken: Vec<String>,
    /// The newest update of any report.
    newest: Step,
    progress: Step,
    checkpoint: Step,
    /// The last update of each metric.
    metrics: BTreeMap<String, Step>,
}

impl Order {
    /// Call when a command is sent.
    pub fn begin(&mut self, command: &TrainerCommand) {
        self.reports = 0;
        self.chunk = match command {
            TrainerCommand::MeasureStage(_) => None,
            TrainerCommand::TrainChunk(train) => Some(Chunk {
                subject: Subject::of(command),
                stage: train.stage.clone(),
                start: train.start(),
                to: train.to,
                taken: train.taken.clone(),
                newest: train.start(),
                progress: train.start(),
                checkpoint: train.start(),
                metrics: BTreeMap::new(),
            }),
        };
    }

    /// Checks a message against the earlier ones.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&mut self, message: &ProgramMessage) -> Result<(), String> {
        self.reports += 1;
        if let Some(chunk) = &mut self.chunk {
            let before = chunk.newest;
            chunk.check(message)?;
            if before < chunk.newest {
                self.reports = 0;
            }
        }
        if REPORTS_MOST < self.reports {
            return Err(format!(
                "it sent more than {REPORTS_MOST} reports without a new update"
            ));
        }
        Ok(())
    }
}

impl Chunk {
    fn check(&mut self, message: &ProgramMessage) -> Result<(), String> {
        match message {
            ProgramMessage::Hello(_) => Ok(()),
            ProgramMessage::Checkpoint(written) => {
                let subject = Subject::Chunk(written.stage.clone(), written.chunk, written.attempt);
                if subject != self.subject {
                    return Ok(());
                }
                let path = &written.checkpoint.path;
                if self.taken.contains(path) {
                    return Err(format!(
                        "it wrote the checkpoint `{path}`, which the log has already"
                    ));
                }
                let step = written.checkpoint.step;
                self.checkpoint = self.forward("a checkpoint", self.checkpoint, step)?;
                Ok(())
            }
            ProgramMessage::Report(Report::Progress(progress)) => {
                if progress.stage != self.stage {
                    return Err(format!(
                        "it reported progress of `{}`, but its command was {}",
                        progress.stage, self.subject
                    ));
                }
                self.progress = self.forward("progress", self.progress, progress.step)?;
                Ok(())
            }
            ProgramMessage::Report(Report::Fact(fact)) => {
                if fact.subject() == self.subject {
                    self.fact(fact)?;
                }
                Ok(())
            }
            ProgramMessage::Report(Report::Interrupted { .. } | Report::Environment { .. }) => {
                Ok(())
            }
        }
    }

    fn fact(&mut self, fact: &TrainerFact) -> Result<(), String> {
        match fact {
            TrainerFact::MetricsLogged(logged) => self.metrics(logged),
            TrainerFact::HeldOutScored(scored) => self.inside("`held_out_scored`", scored.step),
            TrainerFact::PictureScored(scored) => self.inside("`picture_scored`", scored.step),
            TrainerFact::ChunkFailed(failed) => self.inside("`chunk_failed`", failed.step),
            TrainerFact::ChunkFinished(finished) if finished.step != self.to => Err(format!(
                "it reported `chunk_finished` at update {}, but the chunk ends at {}",
                finished.step, self.to
            )),
            TrainerFact::ChunkFinished(_)
            | TrainerFact::StageMeasured(_)
            | TrainerFact::CheckpointWritten(_) => Ok(()),
        }
    }

    fn metrics(&mut self, logged: &MetricsLogged) -> Result<(), String> {
        for column in &logged.columns {
            let name = &column.name;
            let what = format!("`{name}`");
            for step in steps(column)? {
                let last = self.metrics.get(name).copied().unwrap_or(self.start);
                let step = self.forward(&what, last, step)?;
                self.metrics.insert(name.clone(), step);
            }
        }
        Ok(())
    }

    /// An update of this chunk that is not before `last`.
    fn forward(&mut self, what: &str, last: Step, step: Step) -> Result<Step, String> {
        self.inside(what, step)?;
        if step < last {
            return Err(format!(
                "it reported {what} of update {step} after update {last}"
            ));
        }
        self.newest = self.newest.max(step);
        Ok(step)
    }

    fn inside(&self, what: &str, step: Step) -> Result<(), String> {
        if (self.start..=self.to).contains(&step) {
            return Ok(());
        }
        Err(format!(
            "it reported {what} of update {step}, outside {} to {}",
            self.start, self.to
        ))
    }
}

/// The updates of a column, one per value.
fn steps(column: &Column) -> Result<Vec<Step>, String> {
    let values = column.values.len();
    let has_more = matches!(&column.steps, Steps::List(steps) if values < steps.len());
    let steps: Option<Vec<Step>> = (0..values).map(|index| column.steps.at(index)).collect();
    match steps.filter(|_| !has_more) {
        Some(steps) => Ok(steps),
        None => Err(format!(
            "it reported `{}` with {values} values, but not as many updates",
            column.name
        )),
    }
}
