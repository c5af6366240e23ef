//! The chunks of a log: how each was started, and everything measured in it that must be the same
//! when it is trained again.

use std::collections::BTreeMap;

use crate::events::{
    ChunkFailed, Column, Event, Metric, ProcessStarted, Record, Scalar, Step, metric,
};
use crate::machine::{Command, Decision, Machine, TrainChunk};

/// A chunk in the log, or the part of it that was trained with the same settings: a user who resumes
/// inside a chunk may change some, and the rest is another part.
#[derive(Debug)]
pub struct Recorded {
    /// The machine's command when the chunk was started, or resumed with other settings.
    pub command: TrainChunk,
    /// The process that started it.
    pub process: Option<ProcessStarted>,
    pub found: Found,
    pub end: End,
}

#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Open,
    Finished,
    /// Resumed after this update, with other settings or from before its start. What was trained after
    /// it is superseded.
    Resumed {
        after: Step,
    },
    Failed(ChunkFailed),
}

/// Numbers and files of a chunk, by the update after which they exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// By name; bit for bit. Without the throughput, which depends on the clock.
    pub samples: BTreeMap<(Step, String), Scalar>,
    /// By the file's name.
    pub files: BTreeMap<(Step, String), FileHash>,
}

/// The BLAKE3 of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHash {
    /// Of the file's bytes.
    pub bytes: String,
    /// Of a picture's pixels, which do not depend on how it is compressed.
    pub pixels: Option<String>,
}

impl FileHash {
    /// The hashes that are compared: of pixels where both sides have them, else of bytes.
    pub fn beside<'a>(&'a self, other: &'a FileHash) -> (&'a str, &'a str) {
        match (&self.pixels, &other.pixels) {
            (Some(ours), Some(theirs)) => (ours, theirs),
            (Some(_), None) | (None, _) => (&self.bytes, &other.bytes),
        }
    }
}

impl Found {
    /// Takes what an event of this chunk measured.
    pub fn add(&mut self, event: &Event) {
        if let Event::MetricsLogged(logged) = event {
            self.add_columns(&logged.columns);
        }
        if let Event::HeldOutScored(scored) = event {
            self.add_metrics(scored.step, &scored.values);
        }
        if let Event::PictureScored(scored) = event {
            let key = (scored.step, "picture".to_owned());
            let hash = FileHash {
                bytes: scored.blake3.clone(),
                pixels: scored.pixels.clone(),
            };
            self.files.insert(key, hash);
        }
        if let Event::CheckpointWritten(written) = event {
            for file in &written.files {
                let key = (written.checkpoint.step, file.name.clone());
                let hash = FileHash {
                    bytes: file.blake3.clone(),
                    pixels: None,
                };
                self.files.insert(key, hash);
            }
        }
    }

    fn add_columns(&mut self, columns: &[Column]) {
        let timed = |column: &&Column| column.name != metric::UPDATES_PER_SECOND;
        for column in columns.iter().filter(timed) {
            for (index, value) in column.values.iter().enumerate() {
                if let Some(step) = column.steps.at(index) {
                    self.samples.insert((step, column.name.clone()), *value);
                }
            }
        }
    }

    fn add_metrics(&mut self, step: Step, metrics: &[Metric]) {
        for metric in metrics {
            if let Some(value) = metric.value {
                self.samples.insert((step, metric.name.clone()), value);
            }
        }
    }

    /// Forgets what was measured after `step`, where the chunk was resumed.
    pub fn supersede(&mut self, step: Step) {
        self.samples.retain(|(at, _), _| *at <= step);
        self.files.retain(|(at, _), _| *at <= step);
    }
}

impl Recorded {
    /// Ranks that trained it: the log has a device for each.
    pub fn ranks(&self) -> u32 {
        let devices = self
            .process
            .as_ref()
            .map_or(1, |process| process.devices.len());
        u32::try_from(devices.max(1)).unwrap_or(u32::MAX)
    }
}

/// Every chunk of a log that was started, in order.
pub fn chunks<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<Recorded> {
    let mut machine = Machine::default();
    let mut process = None;
    let mut chunks: Vec<Recorded> = Vec::new();
    for Record { event, .. } in records {
        machine.apply(event);
        if let Event::ProcessStarted(started) = event {
            process = Some(started.clone());
        }
        if matches!(event, Event::ChunkStarted(_))
            && let Decision::Act(Command::TrainChunk(command)) = machine.decide()
        {
            chunks.push(Recorded {
                command: *command,
                process: process.clone(),
                found: Found::default(),
                end: End::Open,
            });
        }
        if let Event::SamplesSuperseded(superseded) = event
            && let Decision::Act(Command::TrainChunk(command)) = machine.decide()
            && let Some(before) = chunks
                .iter_mut()
                .rfind(|chunk| chunk.is_attempt_of(&command))
            && (before.command.settings != command.settings
                || command.start() < before.command.start())
        {
            before.take(event);
            before.end = End::Resumed {
                after: superseded.after,
            };
            chunks.push(Recorded {
                command: *command,
                process: process.clone(),
                found: Found::default(),
                end: End::Open,
            });
            continue;
        }
        if let Some(of) = event.of_chunk() {
            let of_this = |chunk: &&mut Recorded| {
                let TrainChunk {
                    stage,
                    chunk,
                    attempt,
                    ..
                } = &chunk.command;
                of == (stage, *chunk, *attempt)
            };
            if let Some(chunk) = chunks.iter_mut().rev().find(of_this) {
                chunk.take(event);
            }
        }
    }
    chunks
}

impl Recorded {
    fn take(&mut self, event: &Event) {
        if let Event::SamplesSuperseded(superseded) = event {
            self.found.supersede(superseded.after);
        }
        if matches!(event, Event::ChunkFinished(_)) {
            self.end = End::Finished;
        }
        if let Event::ChunkFailed(failed) = event {
            self.end = End::Failed(failed.clone());
        }
        self.found.add(event);
    }

    /// `dynamics chunk 3 attempt 1, 400 to 600`
    pub fn name(&self) -> String {
        let TrainChunk {
            stage,
            chunk,
            attempt,
            to,
            ..
        } = &self.command;
        let from = self.from();
        let to = match self.end {
            End::Resumed { after } => after,
            End::Open | End::Finished | End::Failed(_) => *to,
        };
        format!("{stage} chunk {chunk} attempt {attempt}, {from} to {to}")
    }

    /// The update after which this part begins.
    fn from(&self) -> Step {
        self.command.from.max(self.command.start())
    }

    fn is_attempt_of(&self, command: &TrainChunk) -> bool {
        let TrainChunk {
            stage,
            chunk,
            attempt,
            ..
        } = &self.command;
        (stage, chunk, attempt) == (&command.stage, &command.chunk, &command.attempt)
    }
}
