//! What a trainer may say.
//!
//! Its facts are appended as they are, so each is looked at first: only a kind that a trainer reports, about something
//! that it was told to do. A late word on an earlier command of this process is let through; the machine makes nothing
//! of it.

use crate::events::{Attempt, CheckpointRef, ChunkNumber, Event, Source, StageName};
use crate::machine::{Command, JudgeCheckpoint, MeasureStage, TrainChunk};

/// The commands that a trainer got from this process.
#[derive(Debug, Default)]
pub(super) struct Told(Vec<Subject>);

/// What a command is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Measure(StageName),
    Judge(StageName, CheckpointRef),
    Train(StageName, ChunkNumber, Attempt),
}

/// Why a report is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misreport {
    #[error("it reported `{kind}`, which no trainer may say")]
    Source { kind: &'static str },
    #[error("it reported `{kind}` of {of}, expected a report on {told}")]
    Subject {
        kind: &'static str,
        of: String,
        told: String,
    },
}

impl Told {
    pub fn add(&mut self, command: &Command) {
        let subject = match command {
            Command::MeasureStage(MeasureStage { stage, .. }) => Subject::Measure(stage.clone()),
            Command::JudgeCheckpoint(JudgeCheckpoint {
                stage, checkpoint, ..
            }) => Subject::Judge(stage.clone(), checkpoint.clone()),
            Command::TrainChunk(train) => {
                let TrainChunk {
                    stage,
                    chunk,
                    attempt,
                    ..
                } = &**train;
                Subject::Train(stage.clone(), *chunk, *attempt)
            }
        };
        // The present command is the last.
        self.0.retain(|told| *told != subject);
        self.0.push(subject);
    }

    /// # Errors
    /// A fact that is not the trainer's to report.
    pub fn check(&self, fact: &Event) -> Result<(), Misreport> {
        let kind = fact.kind();
        let of = Subject::of(fact).ok_or(Misreport::Source { kind })?;
        if self.0.iter().any(|told| told.allows(&of)) {
            return Ok(());
        }
        let told = self.0.last();
        Err(Misreport::Subject {
            kind,
            of: of.to_string(),
            told: told.map_or_else(|| "nothing".to_owned(), ToString::to_string),
        })
    }
}

impl Subject {
    /// What a trainer's fact is about; `None` where no trainer may say it.
    fn of(fact: &Event) -> Option<Subject> {
        if fact.source() != Source::Trainer {
            return None;
        }
        if let Event::StageMeasured(e) = fact {
            return Some(Subject::Measure(e.stage.clone()));
        }
        if let Event::CheckpointJudged(e) = fact {
            return Some(Subject::Judge(e.stage.clone(), e.checkpoint.clone()));
        }
        let (stage, chunk, attempt) = fact.of_chunk()?;
        Some(Subject::Train(stage.clone(), chunk, attempt))
    }

    /// Whether who was told to do this may report on `of`.
    fn allows(&self, of: &Subject) -> bool {
        match (self, of) {
            // The checkpoint that it starts from, and those it writes.
            (Subject::Train(stage, _, _), Subject::Judge(judged, _)) => stage == judged,
            _ => self == of,
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::Measure(stage) => write!(f, "the data of `{stage}`"),
            Subject::Judge(_, checkpoint) => write!(f, "the checkpoint `{}`", checkpoint.path),
            Subject::Train(stage, chunk, attempt) => {
                write!(f, "`{stage}` chunk {chunk} attempt {attempt}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{
        CheckpointJudged, ChunkFailed, ChunkFailure, MetricsLogged, ModelName, Restart,
        RunFinished, StageMeasured, Step,
    };
    use crate::presets::{self, Preset};

    const STAGE: &str = "video_tokenizer";

    fn checkpoint(name: &str) -> CheckpointRef {
        CheckpointRef {
            path: format!("{STAGE}/checkpoints/{name}"),
            step: Step::new(5),
        }
    }

    fn train(chunk: u32, attempt: u32) -> Command {
        let policy = presets::policy(Preset::Seed);
        Command::TrainChunk(Box::new(TrainChunk {
            stage: StageName::new(STAGE),
            model: ModelName::new("video_tokenizer"),
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

    fn logged(stage: &str, chunk: u32, attempt: u32) -> Event {
        Event::MetricsLogged(MetricsLogged {
            stage: StageName::new(stage),
            chunk: ChunkNumber::new(chunk),
            attempt: Attempt::new(attempt),
            columns: Vec::new(),
        })
    }

    fn judged(name: &str) -> Event {
        Event::CheckpointJudged(CheckpointJudged {
            stage: StageName::new(STAGE),
            checkpoint: checkpoint(name),
            rejected: None,
        })
    }

    #[track_caller]
    fn check(name: &str, told: &[Command], fact: &Event, want: Option<&str>) {
        let mut all = Told::default();
        told.iter().for_each(|command| all.add(command));
        let found = all.check(fact).map_err(|error| error.to_string());
        assert_eq!(found.err().as_deref(), want, "{name}");
    }

    #[test]
    fn a_trainer_reports_what_it_was_told_to_do() {
        let measure = Command::MeasureStage(MeasureStage {
            stage: StageName::new(STAGE),
            model: ModelName::new("video_tokenizer"),
            settings: presets::policy(Preset::Seed).stages[0].settings.clone(),
            upstream: Vec::new(),
        });
        let measured = |stage: &str| {
            Event::StageMeasured(StageMeasured {
                stage: StageName::new(stage),
                trivial: Vec::new(),
                predictor: "mean_image".to_owned(),
            })
        };
        let failed = Event::ChunkFailed(ChunkFailed {
            stage: StageName::new(STAGE),
            chunk: ChunkNumber::new(2),
            attempt: Attempt::new(1),
            step: Step::new(3),
            failure: ChunkFailure::OutOfMemory {
                detail: String::new(),
            },
        });
        let judge = Command::JudgeCheckpoint(JudgeCheckpoint {
            stage: StageName::new(STAGE),
            checkpoint: checkpoint("one"),
            files: Vec::new(),
        });
        check("metrics", &[train(2, 1)], &logged(STAGE, 2, 1), None);
        check("a failure", &[train(2, 1)], &failed, None);
        check(
            "a checkpoint of its own",
            &[train(2, 1)],
            &judged("new"),
            None,
        );
        check(
            "a measurement",
            std::slice::from_ref(&measure),
            &measured(STAGE),
            None,
        );
        check(
            "a verdict",
            std::slice::from_ref(&judge),
            &judged("one"),
            None,
        );
        check(
            "late, of the attempt before",
            &[train(2, 1), train(2, 2)],
            &logged(STAGE, 2, 1),
            None,
        );
        check(
            "a decision",
            &[train(2, 1)],
            &Event::RunFinished(RunFinished { stages: 1 }),
            Some("it reported `run_finished`, which no trainer may say"),
        );
        check(
            "another chunk",
            &[train(2, 1)],
            &logged(STAGE, 3, 1),
            Some(
                "it reported `metrics_logged` of `video_tokenizer` chunk 3 attempt 1, expected a report on \
                 `video_tokenizer` chunk 2 attempt 1",
            ),
        );
        check(
            "another attempt",
            &[train(2, 1)],
            &logged(STAGE, 2, 2),
            Some(
                "it reported `metrics_logged` of `video_tokenizer` chunk 2 attempt 2, expected a report on \
                 `video_tokenizer` chunk 2 attempt 1",
            ),
        );
        check(
            "another stage",
            &[measure],
            &measured("dynamics"),
            Some(
                "it reported `stage_measured` of the data of `dynamics`, expected a report on the data of \
                 `video_tokenizer`",
            ),
        );
        check(
            "another checkpoint",
            &[judge],
            &judged("two"),
            Some(
                "it reported `checkpoint_judged` of the checkpoint `video_tokenizer/checkpoints/two`, expected a \
                 report on the checkpoint `video_tokenizer/checkpoints/one`",
            ),
        );
        check(
            "before any command",
            &[],
            &judged("two"),
            Some(
                "it reported `checkpoint_judged` of the checkpoint `video_tokenizer/checkpoints/two`, expected a \
                 report on nothing",
            ),
        );
    }
}
