//! Reports how much of a log is sound, in each copy and in both together.
//!
//! Only reads: since sled writes when it is opened, a copy of its folder in the temporary
//! directory is opened instead.

use std::fs;
use std::io;
use std::path::Path;

use super::compare::{Loss, Verdict, compare_only};
use super::disk::{DiskFile, JOURNAL, Mirror, SLED};
use super::error::{OpenError, ReadErrorKind};
use super::lock::RunLock;
use super::reader::{LogFile, Tail};
use super::real_file::RealFile;
use super::sled_copy::SledCopy;
use tinygate_events::Seq;

/// How much of a log is sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Events that both copies hold together.
    pub events: u64,
    pub blocks: u64,
    /// The last of these events; `None` in an empty log.
    pub sound_to: Option<Seq>,
    pub journal: CopyState,
    pub sled: CopyState,
    /// An append in progress, or an unfinished one, at the end of the journal.
    pub tail: Option<Tail>,
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyState {
    Sound {
        events: u64,
        blocks: u64,
    },
    /// Sound up to a point.
    Damaged {
        events: u64,
        what: String,
    },
    Missing,
    /// A process is writing it.
    InUse,
}

/// Checks every block and every event of a run directory.
///
/// # Errors
/// There is no log, or a newer build wrote it. Damage is part of the result.
pub fn verify(run: &Path) -> Result<Verification, OpenError> {
    let journal = open_journal(run)?;
    let in_use = RunLock::holder(run).is_some();
    let mut problems = Vec::new();
    let copy = if in_use || !run.join(SLED).is_dir() {
        None
    } else {
        let copied = SledCopy::make(&run.join(SLED));
        copied.map_err(|source| OpenError::disk("copy", SLED, source))?
    };
    if journal.is_none() && copy.is_none() {
        return Err(OpenError::NotALog { remains: false });
    }
    let mut mirror = copy.map(SledCopy::open).transpose();
    let journal_state = match journal {
        Some(journal) => state(compare_only(Some(journal), Ok(None), Loss::Refused))?,
        None => CopyState::Missing,
    };
    let sled_state = match (&mut mirror, in_use) {
        (_, true) => CopyState::InUse,
        (Ok(Some(mirror)), _) => {
            let mirror: &mut dyn Mirror = mirror;
            state(compare_only(None, Ok(Some(mirror)), Loss::Refused))?
        }
        (Ok(None), _) => CopyState::Missing,
        (Err(error), _) => CopyState::Damaged {
            events: 0,
            what: error.to_string(),
        },
    };
    let both = compare_only(
        open_journal(run)?,
        match mirror.as_mut() {
            Ok(mirror) => Ok(mirror.as_mut().map(|mirror| mirror as &mut dyn Mirror)),
            Err(error) => Err(error.clone()),
        },
        Loss::Refused,
    );
    let (events, blocks) = match both {
        Ok(compared) => (compared.end.seq, compared.end.number),
        Err(error) => {
            let sound = match &error {
                OpenError::Damaged { sound, .. } => sound.get(),
                OpenError::Forked { seq, .. } => seq.get(),
                OpenError::NewerVersion(_) => return Err(error),
                OpenError::Locked { .. }
                | OpenError::ReaderKeepsLock { .. }
                | OpenError::SledInUse
                | OpenError::NoEventLeft
                | OpenError::NotALog { .. }
                | OpenError::Clock
                | OpenError::Exists
                | OpenError::DiskFull { .. }
                | OpenError::Sled { .. }
                | OpenError::Io { .. } => 0,
            };
            problems.push(error.to_string());
            (sound, 0)
        }
    };
    for (name, state) in [("journal", &journal_state), ("sled", &sled_state)] {
        match state {
            CopyState::Sound { events: own, .. } if *own < events => {
                problems.push(format!("{name}: it has {own} of {events} events"));
            }
            CopyState::Damaged { events: own, what } => {
                problems.push(format!("{name}: sound before event {own}; {what}"));
            }
            CopyState::Missing => problems.push(format!("{name}: it is missing")),
            CopyState::Sound { .. } | CopyState::InUse => {}
        }
    }
    let tail = read_all(run, &mut problems)?;
    Ok(Verification {
        events,
        blocks,
        sound_to: events.checked_sub(1).map(Seq::new),
        journal: journal_state,
        sled: sled_state,
        tail,
        problems,
    })
}

/// The state of one copy by itself.
fn state(compared: Result<Verdict, OpenError>) -> Result<CopyState, OpenError> {
    match compared {
        Ok(compared) => Ok(match compared.fault() {
            Some(what) => CopyState::Damaged {
                events: compared.end.seq,
                what,
            },
            None => CopyState::Sound {
                events: compared.end.seq,
                blocks: compared.end.number,
            },
        }),
        Err(OpenError::Damaged { sound, what }) => Ok(CopyState::Damaged {
            events: sound.get(),
            what,
        }),
        Err(error) => Err(error),
    }
}

/// Decodes every event of the journal: an intact block may hold an event that cannot be decoded.
fn read_all(run: &Path, problems: &mut Vec<String>) -> Result<Option<Tail>, OpenError> {
    let Ok(log) = LogFile::open(run) else {
        return Ok(None);
    };
    let mut records = log.records();
    match records.visit_stored(|_, stored| stored.decode().map(|_| ())) {
        Ok(()) => Ok(records.tail().unwrap_or(None)),
        Err(error) => {
            if let ReadErrorKind::NewerVersion(found) = error.kind {
                return Err(OpenError::NewerVersion(found));
            }
            problems.push(format!("journal: {error}"));
            Ok(None)
        }
    }
}

fn open_journal(run: &Path) -> Result<Option<Box<dyn DiskFile>>, OpenError> {
    match fs::File::open(run.join(JOURNAL)) {
        Ok(file) => Ok(Some(Box::new(RealFile(file)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::disk("read", JOURNAL, error)),
    }
}
