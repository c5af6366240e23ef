//! The protocol of commands and reports: one JSON object per line, each with the protocol version.
//!
//! The protocol does not depend on live types: commands have their own structs, and facts use the
//! stable JSON form of the log's events. The version is read first.
//!
//! A program says [`Hello`] first and is answered by [`HostMessage::Welcome`]. Then the host sends
//! commands, [`HostMessage::Stop`] and [`HostMessage::End`], and the program sends reports. A message
//! with a field that this version does not have is invalid.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Misreport, Progress, Report, TrainerCommand, TrainerFact};
use crate::events::{
    Attempt, CheckpointRef, CheckpointWritten, ChunkNumber, FileRecord, ModelName, Restart, Scalar,
    Settings, StageName, Step,
};
use crate::machine::{MeasureStage, ResumePoint, TrainChunk, UpstreamModel};

/// The protocol version of this build.
pub const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
enum CommandV1 {
    MeasureStage(MeasureStageV1),
    TrainChunk(TrainChunkV1),
}

#[derive(Serialize, Deserialize)]
struct MeasureStageV1 {
    stage: StageName,
    model: ModelName,
    settings: Settings,
    upstream: Vec<UpstreamV1>,
}

#[derive(Serialize, Deserialize)]
struct UpstreamV1 {
    stage: StageName,
    checkpoint: CheckpointRef,
    files: Vec<FileRecord>,
}

#[derive(Serialize, Deserialize)]
struct TrainChunkV1 {
    stage: StageName,
    model: ModelName,
    chunk: ChunkNumber,
    attempt: Attempt,
    restart: Restart,
    from: Step,
    to: Step,
    settings: Settings,
    resume: Option<ResumeV1>,
    upstream: Vec<UpstreamV1>,
    taken: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct ResumeV1 {
    checkpoint: CheckpointRef,
    samples_seen: u64,
    files: Vec<FileRecord>,
    fresh_optimizer: bool,
}

/// What the host tells a program.
#[derive(Clone, Debug, PartialEq)]
pub enum HostMessage {
    /// Answers [`Hello`].
    Welcome {
        /// The run directory, absolute.
        directory: String,
        /// The run's config, as in the log.
        config: Value,
    },
    Command(TrainerCommand),
    /// Write a checkpoint and stop at the next update.
    Stop {
        signal: String,
    },
    /// There are no more commands.
    End,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
enum HostMessageV1 {
    Welcome { directory: String, config: Value },
    Stop { signal: String },
    End {},
}

/// What a program tells the host.
#[derive(Clone, Debug, PartialEq)]
pub enum ProgramMessage {
    Hello(Hello),
    Report(Report),
    /// A checkpoint whose files the host must hash before it is a fact.
    Checkpoint(ReportedCheckpoint),
}

/// The first message of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The secret that the host gave to the program that it started.
    pub token: String,
    /// Of the program, for people.
    pub name: String,
    pub ranks: Vec<RankProcess>,
    /// The version of its torch, if it has one.
    pub torch: Option<String>,
}

/// A process of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankProcess {
    pub rank: u32,
    pub pid: u32,
    /// In clock ticks since boot, as in Linux's `/proc`; `None` on other systems.
    pub start_time: Option<u64>,
}

/// [`CheckpointWritten`], perhaps without the hashes of its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedCheckpoint {
    pub stage: StageName,
    pub chunk: ChunkNumber,
    pub attempt: Attempt,
    pub checkpoint: CheckpointRef,
    pub samples_seen: u64,
    pub files: Vec<ReportedFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedFile {
    pub name: String,
    pub size: u64,
    /// Hexadecimal. `None`: the host takes what it finds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
}

impl ReportedCheckpoint {
    /// The fact, with these hashes in the order of its files.
    pub fn with_hashes(self, hashes: Vec<String>) -> CheckpointWritten {
        let files = self.files.into_iter().zip(hashes);
        let file = |(file, blake3): (ReportedFile, String)| FileRecord {
            name: file.name,
            size: file.size,
            blake3,
        };
        CheckpointWritten {
            stage: self.stage,
            chunk: self.chunk,
            attempt: self.attempt,
            checkpoint: self.checkpoint,
            samples_seen: self.samples_seen,
            files: files.map(file).collect(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
enum HelloV1 {
    Hello(Hello),
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
enum CheckpointV1 {
    Fact(CheckpointFactV1),
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
enum CheckpointFactV1 {
    CheckpointWritten(ReportedCheckpoint),
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
enum ReportV1 {
    Fact(TrainerFact),
    Progress(ProgressV1),
    Interrupted { signal: String },
    Environment { detail: String },
}

#[derive(Serialize, Deserialize)]
struct ProgressV1 {
    stage: StageName,
    step: Step,
    gate: Step,
    target: Step,
    loss: Scalar,
    updates_per_second: Scalar,
}

/// A command as a line, without the line break.
///
/// # Errors
/// The command cannot be written as JSON; does not happen.
pub fn command_to_json(command: &TrainerCommand) -> Result<String, serde_json::Error> {
    let command = match command {
        TrainerCommand::MeasureStage(measure) => CommandV1::MeasureStage(MeasureStageV1 {
            stage: measure.stage.clone(),
            model: measure.model.clone(),
            settings: measure.settings.clone(),
            upstream: upstream_to_v1(&measure.upstream),
        }),
        TrainerCommand::TrainChunk(train) => CommandV1::TrainChunk(TrainChunkV1 {
            stage: train.stage.clone(),
            model: train.model.clone(),
            chunk: train.chunk,
            attempt: train.attempt,
            restart: train.restart,
            from: train.from,
            to: train.to,
            settings: train.settings.clone(),
            resume: train.resume.as_ref().map(|resume| ResumeV1 {
                checkpoint: resume.checkpoint.clone(),
                samples_seen: resume.samples_seen,
                files: resume.files.clone(),
                fresh_optimizer: resume.fresh_optimizer,
            }),
            upstream: upstream_to_v1(&train.upstream),
            taken: train.taken.clone(),
        }),
    };
    write(&command)
}

/// Parses a command.
///
/// # Errors
/// The line is not a command, or has a newer version.
pub fn command_from_json(line: &str) -> Result<TrainerCommand, Misreport> {
    Ok(match read_strictly(versioned(line)?)? {
        CommandV1::MeasureStage(measure) => TrainerCommand::MeasureStage(MeasureStage {
            stage: measure.stage,
            model: measure.model,
            settings: measure.settings,
            upstream: upstream_of_v1(measure.upstream),
        }),
        CommandV1::TrainChunk(train) => TrainerCommand::TrainChunk(Box::new(TrainChunk {
            stage: train.stage,
            model: train.model,
            chunk: train.chunk,
            attempt: train.attempt,
            restart: train.restart,
            from: train.from,
            to: train.to,
            settings: train.settings,
            resume: train.resume.map(|resume| ResumePoint {
                checkpoint: resume.checkpoint,
                samples_seen: resume.samples_seen,
                files: resume.files,
                fresh_optimizer: resume.fresh_optimizer,
            }),
            upstream: upstream_of_v1(train.upstream),
            taken: train.taken,
        })),
    })
}

/// A message to a program as a line, without the line break.
///
/// # Errors
/// The message cannot be written as JSON; does not happen.
pub fn host_message_to_json(message: &HostMessage) -> Result<String, serde_json::Error> {
    let message = match message {
        HostMessage::Command(command) => return command_to_json(command),
        HostMessage::Welcome { directory, config } => HostMessageV1::Welcome {
            directory: directory.clone(),
            config: config.clone(),
        },
        HostMessage::Stop { signal } => HostMessageV1::Stop {
            signal: signal.clone(),
        },
        HostMessage::End => HostMessageV1::End {},
    };
    write(&message)
}

/// Parses a message to a program.
///
/// # Errors
/// The line is not such a message, or has a newer version.
pub fn host_message_from_json(line: &str) -> Result<HostMessage, Misreport> {
    let value = versioned(line)?;
    let command = value.get("command").and_then(Value::as_str);
    if !matches!(command, Some("welcome" | "stop" | "end")) {
        return command_from_json(line).map(HostMessage::Command);
    }
    Ok(match read_strictly(value)? {
        HostMessageV1::Welcome { directory, config } => HostMessage::Welcome { directory, config },
        HostMessageV1::Stop { signal } => HostMessage::Stop { signal },
        HostMessageV1::End {} => HostMessage::End,
    })
}

/// A message from a program as a line, without the line break.
///
/// # Errors
/// The message cannot be written as JSON; does not happen.
pub fn program_message_to_json(message: &ProgramMessage) -> Result<String, serde_json::Error> {
    match message {
        ProgramMessage::Hello(hello) => write(&HelloV1::Hello(hello.clone())),
        ProgramMessage::Report(report) => report_to_json(report),
        ProgramMessage::Checkpoint(written) => write(&CheckpointV1::Fact(
            CheckpointFactV1::CheckpointWritten(written.clone()),
        )),
    }
}

/// Parses a message from a program.
///
/// # Errors
/// As [`report_from_json`].
pub fn program_message_from_json(line: &str) -> Result<ProgramMessage, Misreport> {
    let value = versioned(line)?;
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    match (text("report"), text("fact")) {
        (Some("hello"), _) => {
            let HelloV1::Hello(hello) = read_strictly(value)?;
            Ok(ProgramMessage::Hello(hello))
        }
        (Some("fact"), Some("checkpoint_written")) => {
            let CheckpointV1::Fact(CheckpointFactV1::CheckpointWritten(written)) =
                read_strictly(value)?;
            Ok(ProgramMessage::Checkpoint(written))
        }
        _ => report_of(value).map(ProgramMessage::Report),
    }
}

/// The token of a line that should be a [`Hello`], whatever else is wrong with the line.
pub fn token_of(line: &str) -> Option<String> {
    let value: Value = serde_json::from_str(line).ok()?;
    value.get("token")?.as_str().map(str::to_owned)
}

/// A report as a line, without the line break.
///
/// # Errors
/// The report cannot be written as JSON; does not happen.
pub fn report_to_json(report: &Report) -> Result<String, serde_json::Error> {
    let report = match report {
        Report::Fact(fact) => ReportV1::Fact(fact.clone()),
        Report::Progress(progress) => ReportV1::Progress(ProgressV1 {
            stage: progress.stage.clone(),
            step: progress.step,
            gate: progress.gate,
            target: progress.target,
            loss: Scalar::new(progress.loss),
            updates_per_second: Scalar::new(progress.updates_per_second),
        }),
        Report::Interrupted { signal } => ReportV1::Interrupted {
            signal: signal.clone(),
        },
        Report::Environment { detail } => ReportV1::Environment {
            detail: detail.clone(),
        },
    };
    write(&report)
}

/// Parses a report.
///
/// # Errors
/// The line is not a report, has a newer version, or has a fact that a trainer may not report.
pub fn report_from_json(line: &str) -> Result<Report, Misreport> {
    report_of(versioned(line)?)
}

fn report_of(value: Value) -> Result<Report, Misreport> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    if let (Some("fact"), Some(kind)) = (text("report"), text("fact"))
        && !TrainerFact::KINDS.contains(&kind)
    {
        return Err(Misreport::Kind {
            kind: kind.chars().take(64).collect(),
        });
    }
    Ok(match read_strictly(value)? {
        ReportV1::Fact(fact) => Report::Fact(fact),
        ReportV1::Progress(progress) => Report::Progress(Progress {
            stage: progress.stage,
            step: progress.step,
            gate: progress.gate,
            target: progress.target,
            loss: progress.loss.get(),
            updates_per_second: progress.updates_per_second.get(),
        }),
        ReportV1::Interrupted { signal } => Report::Interrupted { signal },
        ReportV1::Environment { detail } => Report::Environment { detail },
    })
}

fn upstream_to_v1(models: &[UpstreamModel]) -> Vec<UpstreamV1> {
    let model = |model: &UpstreamModel| UpstreamV1 {
        stage: model.stage.clone(),
        checkpoint: model.checkpoint.clone(),
        files: model.files.clone(),
    };
    models.iter().map(model).collect()
}

fn upstream_of_v1(models: Vec<UpstreamV1>) -> Vec<UpstreamModel> {
    let model = |model: UpstreamV1| UpstreamModel {
        stage: model.stage,
        checkpoint: model.checkpoint,
        files: model.files,
    };
    models.into_iter().map(model).collect()
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    message: &'a T,
}

fn write<T: Serialize>(message: &T) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Versioned {
        version: VERSION,
        message,
    })
}

/// Checks and removes the version of a message.
fn versioned(line: &str) -> Result<Value, Misreport> {
    let unreadable = |why: String| Misreport::Unreadable { why };
    let mut value: Value =
        serde_json::from_str(line).map_err(|error| unreadable(error.to_string()))?;
    let Some(fields) = value.as_object_mut() else {
        return Err(unreadable("it is not a JSON object".to_owned()));
    };
    let version = fields.remove("version").unwrap_or(Value::Null);
    match version.as_u64().and_then(|found| u32::try_from(found).ok()) {
        Some(VERSION) => Ok(value),
        Some(found) if VERSION < found => Err(Misreport::Version {
            found,
            known: VERSION,
        }),
        Some(_) | None => Err(unreadable(format!(
            "its `version` is {version}, expected {VERSION}"
        ))),
    }
}

/// Reads a message, every field of which must have a meaning.
fn read_strictly<T: DeserializeOwned + Serialize>(value: Value) -> Result<T, Misreport> {
    let unreadable = |error: serde_json::Error| Misreport::Unreadable {
        why: error.to_string(),
    };
    let message: T = T::deserialize(&value).map_err(unreadable)?;
    // Facts have the types of the log, which ignore unknown fields. A field without a meaning is
    // not written again.
    let known = serde_json::to_value(&message).map_err(unreadable)?;
    match unknown_field(&value, &known) {
        None => Ok(message),
        Some(field) => Err(Misreport::Unreadable {
            why: format!(
                "unknown field `{}`",
                field.chars().take(64).collect::<String>()
            ),
        }),
    }
}

/// The path of the first field of `given` that `known` does not have.
fn unknown_field(given: &Value, known: &Value) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(name, value)| {
            match known.get(name) {
                Some(known) => unknown_field(value, known).map(|rest| format!("{name}.{rest}")),
                // What has its default is not written.
                None => (!value.is_null()).then(|| name.clone()),
            }
        }),
        (Value::Array(given), Value::Array(known)) => {
            let pairs = given.iter().zip(known).enumerate();
            let mut found = pairs.filter_map(|(at, (given, known))| {
                unknown_field(given, known).map(|rest| format!("{at}.{rest}"))
            });
            found.next()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Column, MetricsLogged, Steps};
    use crate::presets::{self, ModelKind};

    fn train() -> TrainerCommand {
        TrainerCommand::TrainChunk(Box::new(TrainChunk {
            stage: StageName::new("latent_actions"),
            model: ModelName::new("latent_actions"),
            chunk: ChunkNumber::new(2),
            attempt: Attempt::new(1),
            restart: Restart::FIRST,
            from: Step::new(1000),
            to: Step::new(2000),
            settings: presets::settings(ModelKind::LatentActions),
            resume: Some(ResumePoint {
                checkpoint: checkpoint(),
                samples_seen: 350_000,
                files: Vec::new(),
                fresh_optimizer: false,
            }),
            upstream: Vec::new(),
            taken: Vec::new(),
        }))
    }

    fn checkpoint() -> CheckpointRef {
        CheckpointRef {
            path: "latent_actions/checkpoints/latent_actions_step_1000".to_owned(),
            step: Step::new(1000),
        }
    }

    /// The form of version 1. Changing it requires a new version.
    #[test]
    fn a_command_in_version_1() {
        let line = command_to_json(&train()).unwrap();
        assert_eq!(
            line,
            "{\"version\":1,\"command\":\"train_chunk\",\"stage\":\"latent_actions\",\"model\":\"latent_actions\",\
             \"chunk\":2,\"attempt\":1,\"restart\":0,\"from\":1000,\"to\":2000,\"settings\":{\"learning_rate\":0.0001,\
             \"n_updates\":10000,\"schedule_updates\":10000,\"batch_size_per_gpu\":350,\
             \"gradient_accumulation_steps\":1,\"log_interval\":500,\"chunk_size\":1000,\"checkpoint_interval\":null,\
             \"n_actions\":4},\"resume\":{\"checkpoint\":{\"path\":\
             \"latent_actions/checkpoints/latent_actions_step_1000\",\"step\":1000},\"samples_seen\":350000,\
             \"files\":[],\"fresh_optimizer\":false},\"upstream\":[],\"taken\":[]}"
        );
        assert_eq!(command_from_json(&line), Ok(train()));
    }

    #[test]
    fn reports_survive_a_round_trip() {
        let logged = TrainerFact::MetricsLogged(MetricsLogged {
            stage: StageName::new("classifier"),
            chunk: ChunkNumber::new(1),
            attempt: Attempt::new(1),
            columns: vec![Column {
                name: "loss".to_owned(),
                steps: Steps::List(vec![1, 2]),
                values: vec![Scalar::new(0.5), Scalar::new(f64::NAN)],
            }],
        });
        let progress = Progress {
            stage: StageName::new("classifier"),
            step: Step::new(3),
            gate: Step::new(10),
            target: Step::new(20),
            loss: f64::INFINITY,
            updates_per_second: 12.5,
        };
        let reports = [
            Report::Fact(logged),
            Report::Progress(progress),
            Report::Interrupted {
                signal: "SIGINT".to_owned(),
            },
            Report::Environment {
                detail: "the disk is full".to_owned(),
            },
        ];
        for report in reports {
            let line = report_to_json(&report).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(report_from_json(&line), Ok(report));
        }
    }

    #[test]
    fn messages_of_a_program_in_version_1() {
        let hello = Hello {
            token: "secret".to_owned(),
            name: "train.py".to_owned(),
            ranks: vec![RankProcess {
                rank: 0,
                pid: 7,
                start_time: Some(11),
            }],
            torch: None,
        };
        let written = |blake3: Option<&str>| ReportedCheckpoint {
            stage: StageName::new("classifier"),
            chunk: ChunkNumber::new(1),
            attempt: Attempt::new(1),
            checkpoint: checkpoint(),
            samples_seen: 12,
            files: vec![ReportedFile {
                name: "state.pt".to_owned(),
                size: 3,
                blake3: blake3.map(str::to_owned),
            }],
        };
        let cases = [
            (
                ProgramMessage::Hello(hello),
                r#"{"version":1,"report":"hello","token":"secret","name":"train.py","ranks":[{"rank":0,"pid":7,"start_time":11}],"torch":null}"#,
            ),
            (
                ProgramMessage::Checkpoint(written(None)),
                r#"{"version":1,"report":"fact","fact":"checkpoint_written","stage":"classifier","chunk":1,"attempt":1,"checkpoint":{"path":"latent_actions/checkpoints/latent_actions_step_1000","step":1000},"samples_seen":12,"files":[{"name":"state.pt","size":3}]}"#,
            ),
        ];
        for (message, line) in cases {
            assert_eq!(program_message_to_json(&message).unwrap(), line);
            assert_eq!(program_message_from_json(line), Ok(message));
        }
        let line =
            program_message_to_json(&ProgramMessage::Checkpoint(written(Some("ab")))).unwrap();
        let found = program_message_from_json(&line);
        assert_eq!(found, Ok(ProgramMessage::Checkpoint(written(Some("ab")))));
        assert_eq!(
            token_of(r#"{"version":9,"token":"secret"}"#).as_deref(),
            Some("secret")
        );
    }

    #[test]
    fn messages_of_the_host_in_version_1() {
        let cases = [
            (
                HostMessage::Welcome {
                    directory: "/runs/a".to_owned(),
                    config: serde_json::json!({"seed": 1}),
                },
                r#"{"version":1,"command":"welcome","directory":"/runs/a","config":{"seed":1}}"#,
            ),
            (
                HostMessage::Stop {
                    signal: "SIGTERM".to_owned(),
                },
                r#"{"version":1,"command":"stop","signal":"SIGTERM"}"#,
            ),
            (HostMessage::End, r#"{"version":1,"command":"end"}"#),
        ];
        for (message, line) in cases {
            assert_eq!(host_message_to_json(&message).unwrap(), line);
            assert_eq!(host_message_from_json(line), Ok(message));
        }
        let command = HostMessage::Command(train());
        let line = host_message_to_json(&command).unwrap();
        assert_eq!(host_message_from_json(&line), Ok(command));
    }

    #[test]
    fn unknown_fields_are_rejected() {
        let cases = [
            (
                r#"{"version":1,"report":"hello","token":"","name":"","ranks":[{"rank":0,"pid":1,"start_time":null,"host":"a"}],"torch":null}"#,
                "ranks.0.host",
            ),
            (
                r#"{"version":1,"report":"fact","fact":"metrics_logged","stage":"a","chunk":1,"attempt":1,"columns":[],"loss":1}"#,
                "loss",
            ),
            (
                r#"{"version":1,"report":"interrupted","signal":"SIGINT","at":3}"#,
                "at",
            ),
        ];
        for (line, field) in cases {
            let want = format!("it sent an invalid message: unknown field `{field}`");
            let found = program_message_from_json(line).map_err(|error| error.to_string());
            assert_eq!(found, Err(want));
        }
        let stop = r#"{"version":1,"command":"stop","signal":"SIGINT","hard":true}"#;
        assert!(host_message_from_json(stop).is_err());
    }

    #[track_caller]
    fn check(name: &str, line: &str, want: &str) {
        let found = report_from_json(line).map_err(|error| error.to_string());
        assert_eq!(found, Err(want.to_owned()), "{name}");
    }

    #[test]
    fn invalid_reports() {
        check(
            "a decision",
            r#"{"version":1,"report":"fact","fact":"stage_stopped","stage":"dynamics"}"#,
            "it reported `stage_stopped`, which a trainer may not report",
        );
        check(
            "a verdict on its own checkpoint",
            r#"{"version":1,"report":"fact","fact":"checkpoint_judged","stage":"dynamics"}"#,
            "it reported `checkpoint_judged`, which a trainer may not report",
        );
        check(
            "a newer protocol, whatever the rest of the message",
            r#"{"version":2,"report":[]}"#,
            "it uses protocol version 2, but this build knows only up to 1",
        );
        check(
            "no version",
            r#"{"report":"interrupted","signal":"SIGINT"}"#,
            "it sent an invalid message: its `version` is null, expected 1",
        );
        check(
            "not an object",
            "[]",
            "it sent an invalid message: it is not a JSON object",
        );
        check(
            "an unknown report",
            r#"{"version":1,"report":"hello"}"#,
            "it sent an invalid message: unknown variant `hello`, expected one of `fact`, `progress`, \
             `interrupted`, `environment`",
        );
        check(
            "a fact without its fields",
            r#"{"version":1,"report":"fact","fact":"chunk_finished"}"#,
            "it sent an invalid message: missing field `stage`",
        );
    }
}
