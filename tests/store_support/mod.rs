//! Helpers of the store's tests.
#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

pub mod any_event;
pub use tinygate_testing::disk as sim_disk;

use std::sync::Arc;

use any_event::{Gen, of_kind};
use tinygate::events::{Event, InterruptReason, Record, RunFinished, RunInterrupted, Seq};
use tinygate::store::disk::Disk;
use tinygate::store::{
    EncodedAppend, EventLog, Failure, LogFile, OpenError, ReadError, Repair, Writer,
};

/// A small fact.
pub fn fact(text: &str) -> Event {
    Event::RunInterrupted(RunInterrupted {
        reason: InterruptReason::Environment {
            detail: text.to_owned(),
        },
    })
}

/// A small decision.
pub fn decision(stages: u32) -> Event {
    Event::RunFinished(RunFinished { stages })
}

/// `count` events of mixed kinds, with their times.
pub fn mixture(seed: u64, count: usize) -> Vec<(u64, Event)> {
    let mut g = Gen::new(seed);
    g.longest = 2;
    (0..count)
        .map(|at| (1000 + at as u64, of_kind(g.below(27) as usize, &mut g)))
        .collect()
}

/// The records of `events` at the start of a log.
pub fn records(events: &[(u64, Event)]) -> Vec<Record> {
    let all = (0..).zip(events);
    all.map(|(seq, (time_ms, event))| Record {
        seq: Seq::new(seq),
        time_ms: *time_ms,
        event: event.clone(),
    })
    .collect()
}

pub fn read_all(log: &dyn EventLog) -> Vec<Record> {
    log.read(Seq::FIRST).unwrap().map(Result::unwrap).collect()
}

/// Everything that can be read, and the error after it, if any.
pub fn read_file(log: LogFile) -> (Vec<Record>, Option<ReadError>) {
    let mut all = Vec::new();
    for record in log.records() {
        match record {
            Ok(record) => all.push(record),
            Err(error) => return (all, Some(error)),
        }
    }
    (all, None)
}

/// A log without a thread or a clock.
pub struct Direct {
    pub writer: Writer,
}

impl Direct {
    pub fn create(disk: &Arc<dyn Disk>) -> Direct {
        Direct {
            writer: Writer::create(disk, "a run", [7; 16]).unwrap(),
        }
    }

    pub fn open(disk: &Arc<dyn Disk>) -> Result<(Direct, Vec<Repair>), OpenError> {
        Writer::open(disk).map(|(writer, repairs)| (Direct { writer }, repairs))
    }

    /// Appends a block of its own.
    pub fn append(&mut self, events: &[(u64, Event)]) -> Result<Seq, Failure> {
        self.writer
            .add(&EncodedAppend::encode(self.writer.next(), events).unwrap());
        self.writer.commit()?;
        Ok(self.writer.head())
    }

    pub fn follow(&mut self) {
        self.writer.follow(true).unwrap();
    }
}
