//! Reading and recovering journals, and folding and auditing their events.

use std::sync::{Arc, Mutex};

use tinygate::events::Record;
use tinygate::machine::Machine;
use tinygate::store::disk::Disk;
use tinygate::store::{
    FILE_HEADER, LogFile, MAX_BLOCK, OpenError, ReadError, RepairOptions, Store, Writer,
};
use tinygate_replay::audit;
use tinygate_words::{describe, explain};

use super::disk::{MemoryDisk, MemoryFile};

const BLOCK_HEADER: usize = 104;
const FRAME_HEADER: usize = 24;

/// Checks the bytes unchanged, and again with all checksums and links corrected, as an attacker
/// would do.
pub fn journal(data: &[u8]) {
    check(data);
    check(&sealed(data));
}

fn check(bytes: &[u8]) {
    let (records, end, error) = read(bytes);
    for (at, record) in records.iter().enumerate() {
        assert_eq!(record.seq.get(), at as u64, "numbers have no gap");
    }
    if let Some(error) = &error {
        assert!(error.seq.get() <= records.len() as u64, "{error}");
    } else {
        // The intact part is a log too.
        let sound = bytes.get(..end).unwrap_or(bytes);
        let (again, _, error) = read(sound);
        assert_eq!(again, records);
        assert!(error.is_none(), "{error:?}");
    }
    fold(&records);
    // Repairing a header requires a search, which is too slow here.
    if error.is_none_or(|error| error.offset > 0) {
        open(bytes, &records);
    }
}

/// The events, where the last complete append ends, and the error after it.
fn read(bytes: &[u8]) -> (Vec<Record>, usize, Option<ReadError>) {
    let file = MemoryFile(Arc::new(Mutex::new(bytes.to_vec())));
    let mut log = match LogFile::new(Box::new(file)) {
        Ok(log) => log.records(),
        Err(error) => return (Vec::new(), 0, Some(error)),
    };
    let mut records = Vec::new();
    for record in log.by_ref() {
        match record {
            Ok(record) => records.push(record),
            Err(error) => return (records, 0, Some(error)),
        }
    }
    (records, usize::try_from(log.offset()).unwrap_or(0), None)
}

/// The machine and the auditor accept any events in any order.
fn fold(records: &[Record]) {
    let mut machine = Machine::default();
    for record in records {
        let _ = machine.decide();
        machine.apply(&record.event);
        let _ = describe(&record.event);
        let _ = explain(&record.event, machine.state().policy());
    }
    let _ = machine.decide();
    let _ = audit(records.iter().cloned().map(Ok));
}

/// Opening keeps everything that a reader finds, or fails.
fn open(bytes: &[u8], records: &[Record]) {
    let memory = MemoryDisk::with_journal(bytes);
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    match Writer::open(&disk) {
        Ok(_) => {}
        Err(OpenError::Damaged { sound, .. }) => {
            let found = records.len() as u64;
            assert!(found <= sound.get(), "fewer than a reader finds");
            assert_eq!(memory.journal(), bytes, "a rejected log is unchanged");
            let wishes = RepairOptions {
                accept_loss: true,
                keep: None,
            };
            if Store::repair_on(Arc::clone(&disk), wishes).is_err() {
                return;
            }
        }
        Err(_) => return,
    }
    // They may now be followed by an unreadable event.
    let (kept, _, _) = read(&memory.journal());
    assert_eq!(kept.get(..records.len()), Some(records));
    let again = Writer::open(&disk);
    let quiet = match again {
        Ok((_, repairs)) => repairs.is_empty(),
        // No event is left.
        Err(OpenError::NotALog { .. }) => kept.is_empty(),
        Err(_) => false,
    };
    assert!(quiet, "a repaired log needs no repair");
}

/// The bytes with correct checksums, lengths, links and numbers. Numbers with the highest byte
/// ff are not corrected.
fn sealed(data: &[u8]) -> Vec<u8> {
    let mut log = vec![0; FILE_HEADER];
    let (header, mut rest) = data.split_at(data.len().min(FILE_HEADER));
    put(&mut log, 0, header);
    put(&mut log, 0, b"TGJRNL\x1a\n");
    let hash = blake3::hash(log.get(..FILE_HEADER - 32).unwrap_or_default());
    put(&mut log, FILE_HEADER - 32, hash.as_bytes());
    let key = *blake3::hash(&log).as_bytes();
    let (mut number, mut seq, mut previous) = (0u64, 0u64, key);
    while rest.len() > BLOCK_HEADER {
        let payload = usize::from(u16_at(rest, 36)).clamp(1, MAX_BLOCK - BLOCK_HEADER);
        let (block, after) = rest.split_at(rest.len().min(BLOCK_HEADER + payload));
        rest = after;
        let mut block = block.to_vec();
        let payload = block.len() - BLOCK_HEADER;
        let events = seal_frames(block.get_mut(BLOCK_HEADER..).unwrap_or_default());
        put(&mut block, 0, b"TGBK");
        put(&mut block, 36, &(payload as u16).to_le_bytes());
        put(&mut block, 38, &[0, 0]);
        put_unless_marked(&mut block, 44, &events.to_le_bytes());
        put_unless_marked(&mut block, 48, &number.to_le_bytes());
        put_unless_marked(&mut block, 56, &seq.to_le_bytes());
        put(&mut block, 72, &previous);
        let mut sum = crc32fast::Hasher::new();
        sum.update(block.get(36..40).unwrap_or_default());
        sum.update(block.get(44..BLOCK_HEADER).unwrap_or_default());
        put(&mut block, 40, &sum.finalize().to_le_bytes());
        previous = *blake3::keyed_hash(&key, block.get(36..).unwrap_or_default()).as_bytes();
        put(&mut block, 4, &previous);
        number += 1;
        seq += u64::from(events);
        log.extend(block);
    }
    log
}

/// Corrects the frames of a payload; returns how many events end in it.
fn seal_frames(mut rest: &mut [u8]) -> u32 {
    let mut events = 0;
    while rest.len() >= FRAME_HEADER {
        let claimed = u16_at(rest, 16) as usize;
        let length = claimed.min(rest.len() - FRAME_HEADER);
        let (frame, after) = rest.split_at_mut(FRAME_HEADER + length);
        put(frame, 16, &(length as u32).to_le_bytes());
        let mut sum = crc32fast::Hasher::new();
        sum.update(frame.get(..20).unwrap_or_default());
        sum.update(frame.get(FRAME_HEADER..).unwrap_or_default());
        put(frame, 20, &sum.finalize().to_le_bytes());
        events += u32::from(frame.get(6).is_some_and(|flags| flags & 2 != 0));
        rest = after;
    }
    events
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let pair = bytes.get(at..).and_then(|rest| rest.first_chunk());
    pair.map_or(0, |pair| u16::from_le_bytes(*pair))
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + what.len()) {
        place.copy_from_slice(what);
    }
}

fn put_unless_marked(bytes: &mut [u8], at: usize, what: &[u8]) {
    if bytes.get(at + what.len() - 1) != Some(&0xff) {
        put(bytes, at, what);
    }
}
