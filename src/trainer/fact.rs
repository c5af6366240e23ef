//! The facts that a trainer may report, and the check that they are about its commands.
//!
//! Facts are logged unchanged, so each must be about something that the trainer was told to do. A
//! late report on an earlier command of this process is accepted; the machine ignores it.

use serde::{Deserialize, Serialize};

use super::command::TrainerCommand;
use crate::events::{
    Attempt, CheckpointWritten, ChunkFailed, ChunkFinished, ChunkNumber, Event, HeldOutScored,
    MetricsLogged, PictureScored, StageMeasured, StageName,
};

macro_rules! facts {
    ($($kind:ident = $name:literal,)+) => {
        /// A fact that a trainer may report. It becomes the event of the same name.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "fact")]
        pub enum TrainerFact {
            $(#[serde(rename = $name)] $kind($kind),)+
        }

        impl From<TrainerFact> for Event {
            fn from(fact: TrainerFact) -> Event {
                match fact {
                    $(TrainerFact::$kind(fact) => Event::$kind(fact),)+
                }
            }
        }

        impl TrainerFact {
            /// The names of all facts.
            pub(super) const KINDS: &[&str] = &[$($name),+];

            /// Its name, as in the JSON form of the log.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(TrainerFact::$kind(_) => $name,)+
                }
            }
        }
    };
}

facts! {
    StageMeasured = "stage_measured",
    MetricsLogged = "metrics_logged",
    CheckpointWritten = "checkpoint_written",
    HeldOutScored = "held_out_scored",
    PictureScored = "picture_scored",
    ChunkFinished = "chunk_finished",
    ChunkFailed = "chunk_failed",
}

impl TrainerFact {
    /// What it is about.
    pub fn subject(&self) -> Subject {
        let (stage, chunk, attempt) = match self {
            TrainerFact::StageMeasured(fact) => return Subject::Stage(fact.stage.clone()),
            TrainerFact::MetricsLogged(fact) => (&fact.stage, fact.chunk, fact.attempt),
            TrainerFact::CheckpointWritten(fact) => (&fact.stage, fact.chunk, fact.attempt),
            TrainerFact::HeldOutScored(fact) => (&fact.stage, fact.chunk, fact.attempt),
            TrainerFact::PictureScored(fact) => (&fact.stage, fact.chunk, fact.attempt),
            TrainerFact::ChunkFinished(fact) => (&fact.stage, fact.chunk, fact.attempt),
            TrainerFact::ChunkFailed(fact) => (&fact.stage, fact.chunk, fact.attempt),
        };
        Subject::Chunk(stage.clone(), chunk, attempt)
    }
}

/// What a command or a fact is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The data of a stage.
    Stage(StageName),
    Chunk(StageName, ChunkNumber, Attempt),
}

impl Subject {
    pub fn of(command: &TrainerCommand) -> Subject {
        match command {
            TrainerCommand::MeasureStage(measure) => Subject::Stage(measure.stage.clone()),
            TrainerCommand::TrainChunk(train) => {
                Subject::Chunk(train.stage.clone(), train.chunk, train.attempt)
            }
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::Stage(stage) => write!(f, "the data of `{stage}`"),
            Subject::Chunk(stage, chunk, attempt) => {
                write!(f, "`{stage}` chunk {chunk} attempt {attempt}")
            }
        }
    }
}

/// Why a report is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misreport {
    #[error("it reported `{kind}`, which a trainer may not report")]
    Kind { kind: String },
    #[error("it reported `{kind}` of {of}, but its command was {commanded}")]
    Subject {
        kind: &'static str,
        of: Subject,
        commanded: Commanded,
    },
    #[error("it sent an invalid message: {why}")]
    Unreadable { why: String },
    #[error("it uses protocol version {found}, but this build knows only up to {known}")]
    Version { found: u32, known: u32 },
}

/// The current command, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commanded(Option<Subject>);

impl std::fmt::Display for Commanded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(subject) => subject.fmt(f),
            None => f.write_str("none"),
        }
    }
}

/// The commands that a trainer was given in this process.
#[derive(Debug, Default)]
pub(crate) struct CommandsGiven(Vec<Subject>);

impl CommandsGiven {
    pub fn add(&mut self, command: &TrainerCommand) {
        let subject = Subject::of(command);
        // The current command is the last one.
        self.0.retain(|given| *given != subject);
        self.0.push(subject);
    }

    /// Checks that a fact is about one of the commands.
    ///
    /// # Errors
    /// It is about something that the trainer was not told to do.
    pub fn check(&self, fact: &TrainerFact) -> Result<(), Misreport> {
        let of = fact.subject();
        if self.0.contains(&of) {
            return Ok(());
        }
        Err(Misreport::Subject {
            kind: fact.kind(),
            of,
            commanded: Commanded(self.0.last().cloned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{ChunkFailure, ModelName, Restart, Step};
    use crate::machine::{MeasureStage, TrainChunk};
    use crate::presets::{self, Preset};

    const STAGE: &str = "video_tokenizer";

    fn train(chunk: u32, attempt: u32) -> TrainerCommand {
        let policy = presets::policy(Preset::Seed);
        TrainerCommand::TrainChunk(Box::new(TrainChunk {
            stage: StageName::new(STAGE),
            model: ModelName::new(STAGE),
            chunk: ChunkNumber::new(chunk),
            attempt: Attempt::new(attempt),
            restart: Restart::FIRST,
            from: Step::FIRST,
            to: Step::new(10),
            settings: policy.stages[0].settings.clone(),
            resume: None,
            upstream: Vec::new(),
            taken: Vec::new(),
        }))
    }

    fn measure() -> TrainerCommand {
        TrainerCommand::MeasureStage(MeasureStage {
            stage: StageName::new(STAGE),
            model: ModelName::new(STAGE),
            settings: presets::policy(Preset::Seed).stages[0].settings.clone(),
            upstream: Vec::new(),
        })
    }

    fn logged(stage: &str, chunk: u32, attempt: u32) -> TrainerFact {
        TrainerFact::MetricsLogged(MetricsLogged {
            stage: StageName::new(stage),
            chunk: ChunkNumber::new(chunk),
            attempt: Attempt::new(attempt),
            columns: Vec::new(),
        })
    }

    fn measured(stage: &str) -> TrainerFact {
        TrainerFact::StageMeasured(StageMeasured {
            stage: StageName::new(stage),
            trivial: Vec::new(),
            predictor: "mean_image".to_owned(),
        })
    }

    #[track_caller]
    fn check(name: &str, given: &[TrainerCommand], fact: &TrainerFact, want: Option<&str>) {
        let mut all = CommandsGiven::default();
        given.iter().for_each(|command| all.add(command));
        let found = all.check(fact).map_err(|error| error.to_string());
        assert_eq!(found.err().as_deref(), want, "{name}");
    }

    #[test]
    fn facts_must_be_about_commands() {
        let failed = TrainerFact::ChunkFailed(ChunkFailed {
            stage: StageName::new(STAGE),
            chunk: ChunkNumber::new(2),
            attempt: Attempt::new(1),
            step: Step::new(3),
            failure: ChunkFailure::OutOfMemory {
                detail: String::new(),
            },
        });
        check("metrics", &[train(2, 1)], &logged(STAGE, 2, 1), None);
        check("a failure", &[train(2, 1)], &failed, None);
        check("a measurement", &[measure()], &measured(STAGE), None);
        check(
            "late, of the attempt before",
            &[train(2, 1), train(2, 2)],
            &logged(STAGE, 2, 1),
            None,
        );
        check(
            "another chunk",
            &[train(2, 1)],
            &logged(STAGE, 3, 1),
            Some(
                "it reported `metrics_logged` of `video_tokenizer` chunk 3 attempt 1, but its command was \
                 `video_tokenizer` chunk 2 attempt 1",
            ),
        );
        check(
            "another attempt",
            &[train(2, 1)],
            &logged(STAGE, 2, 2),
            Some(
                "it reported `metrics_logged` of `video_tokenizer` chunk 2 attempt 2, but its command was \
                 `video_tokenizer` chunk 2 attempt 1",
            ),
        );
        check(
            "another stage",
            &[measure()],
            &measured("dynamics"),
            Some(
                "it reported `stage_measured` of the data of `dynamics`, but its command was the data of \
                 `video_tokenizer`",
            ),
        );
        check(
            "before any command",
            &[],
            &measured(STAGE),
            Some(
                "it reported `stage_measured` of the data of `video_tokenizer`, but its command was none",
            ),
        );
    }
}
