//! The small log that is damaged, and its events.

use std::sync::Arc;

use tinygate::events::{Event, Record};
use tinygate::store::disk::Disk;
use tinygate::store::{FILE_HEADER, Writer};

use crate::store_support::sim_disk::SimDisk;
use crate::store_support::{Direct, decision, fact, records};

/// Largest journal in bytes.
const LARGEST: usize = 4096;

/// The state of sled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sled {
    /// Has everything the journal has.
    Level,
    /// Lacks the last appends.
    Behind,
    Absent,
}

impl Sled {
    pub const ALL: [Sled; 3] = [Sled::Level, Sled::Behind, Sled::Absent];

    pub fn name(self) -> &'static str {
        match self {
            Sled::Level => "sled level",
            Sled::Behind => "sled behind",
            Sled::Absent => "no sled",
        }
    }

    /// Appends that sled has.
    fn appends(self) -> usize {
        match self {
            Sled::Level => appends().len(),
            Sled::Behind => 9,
            Sled::Absent => 0,
        }
    }

    /// Events that sled has.
    pub fn events(self) -> u64 {
        let held = appends().into_iter().take(self.appends());
        held.map(|append| append.len() as u64).sum()
    }
}

/// Twelve appends of one to three events.
fn appends() -> Vec<Vec<(u64, Event)>> {
    (0..12u64)
        .map(|at| {
            let mut append = vec![(at, fact(&format!("what happened at {at}")))];
            if at % 2 == 1 {
                append.push((at, decision(at as u32)));
            }
            if at % 4 == 3 {
                append.push((at, fact(&"and more ".repeat(at as usize))));
            }
            append
        })
        .collect()
}

/// The log's events as they are read.
pub fn truth() -> Vec<Record> {
    let events: Vec<(u64, Event)> = appends().into_iter().flatten().collect();
    records(&events)
}

/// Writes the log, one block per append.
pub fn write(disk: &Arc<dyn Disk>, sled: Sled, nonce: u8) {
    let mut log = Direct {
        writer: Writer::create(disk, "a small log", [nonce; 16]).unwrap(),
    };
    for (at, append) in appends().iter().enumerate() {
        log.append(append).unwrap();
        if at + 1 == sled.appends() {
            log.follow();
        }
    }
}

/// The log in memory.
pub fn in_memory(sled: Sled) -> SimDisk {
    let disk = SimDisk::default();
    write(&disk.arc(), sled, 7);
    if sled == Sled::Absent {
        let mut state = disk.state();
        (state.mirror, state.mirror_synced) = (None, None);
    }
    assert!(disk.journal().len() <= LARGEST, "{}", disk.journal().len());
    disk
}

/// The journal of another log with the same events.
pub fn foreign_journal() -> Vec<u8> {
    let disk = SimDisk::default();
    write(&disk.arc(), Sled::Level, 8);
    disk.journal()
}

/// The offsets of the blocks, and the end.
pub fn block_starts(journal: &[u8]) -> Vec<usize> {
    let mut at = FILE_HEADER;
    let mut starts = vec![at];
    while at < journal.len() {
        at += 104 + usize::from(u16::from_le_bytes([journal[at + 36], journal[at + 37]]));
        starts.push(at);
    }
    starts
}

/// Events in the blocks that end at or before `offset`.
pub fn events_before(journal: &[u8], offset: usize) -> u64 {
    let blocks = block_starts(journal)
        .iter()
        .skip(1)
        .filter(|end| **end <= offset)
        .count();
    let before = appends().into_iter().take(blocks);
    before.map(|append| append.len() as u64).sum()
}
