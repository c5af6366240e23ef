//! Puts the two copies of a log beside each other and says what holds.
//!
//! [`compare`] walks both along the chain and takes each block from whichever
//! copy has it whole. It changes nothing. [`restore`] then makes both copies
//! hold exactly the blocks found, keeping damaged bytes in quarantine, the
//! journal first; a crash within it leaves what the next one can go on with.
//! What the journal holds is made durable before sled is told of it.
//!
//! Invariant: no block is dropped of which a copy shows that it was durable;
//! where that would be needed, nothing is changed and an error says so.

use std::collections::VecDeque;
use std::fmt;
use std::io;

use super::block::{
    Block, BlockError, FILE_HEADER, FileHeader, Hash, HeadMarker, HeaderError, Link,
};
use super::disk::{
    Disk, DiskFile, JOURNAL, Mirror, MirrorError, MirrorKey, NEW_JOURNAL, QUARANTINE, SLED,
    read_full, write_full,
};
use super::error::{ChainHead, Found, LogCopy, OpenError, Repair};
use super::journal::{Seen, Window};
use crate::events::Seq;

/// Blocks read from the mirror, or put into it, at a time.
pub(super) const BATCH: usize = 64;

/// How often a lost block is looked for in the whole journal.
const MAX_SEARCHES: u32 = 100;

/// What to do about events that were stored and are whole in neither copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// An error says so.
    Refused,
    /// A person wants the log to go on without them, and without all that follow.
    Accepted,
}

/// What was found in the two copies.
#[derive(Debug)]
pub(super) struct Compared {
    pub header: FileHeader,
    /// The log ends here: after the last append that is whole.
    pub end: Link,
    /// What comes after the end and is given up, where that is accepted.
    given_up: Option<Beyond>,
    /// The last block is in the journal, which is never behind: there was no later one,
    /// or it was torn.
    journal_has_end: bool,
    journal: JournalFound,
    mirror: MirrorFound,
}

impl Compared {
    /// What may be gone or is given up, to follow the words about a journal that was
    /// written anew.
    fn end_in_words(&self) -> String {
        match &self.given_up {
            Some(beyond) => format!("; {}", beyond.in_words()),
            None if self.journal_has_end => String::new(),
            None => format!(
                "; the log ends before event {}, as sled does: newer events, if there were any, are lost",
                self.end.seq
            ),
        }
    }

    /// Of a journal alone: it holds no whole append, and nothing but a write that was not
    /// finished follows its header.
    pub fn is_unfinished_start(&self) -> bool {
        self.end.seq == 0 && matches!(self.journal.fault, None | Some(Fault::Unfinished))
    }

    /// What is wrong with the copies, where bytes are not what they should be.
    pub fn fault(&self) -> Option<String> {
        let found = &self.journal;
        let journal = match found.length {
            Some(length) if length > found.good => match &found.fault {
                Some(Fault::Damage(what)) => Some(what.clone()),
                Some(Fault::Unfinished) | None => None,
            },
            Some(_) | None => None,
        };
        journal.or(match &self.mirror {
            MirrorFound::Faulty(fault) => Some(fault.clone()),
            MirrorFound::Missing | MirrorFound::Sound { .. } => None,
        })
    }
}

/// What the journal holds of the log.
#[derive(Debug)]
struct JournalFound {
    /// Blocks that are kept and stand in a row from its start.
    blocks: u64,
    /// Where the last of them ends; 0 when not even the header is good.
    good: u64,
    /// Events that end in them.
    events: u64,
    /// `None`: there is no file.
    length: Option<u64>,
    /// What is wrong where the blocks in a row end.
    fault: Option<Fault>,
}

/// What the mirror holds of the log.
#[derive(Debug)]
enum MirrorFound {
    Missing,
    Sound {
        /// Blocks that are kept, in a row from the start.
        blocks: u64,
        /// It has others, to remove.
        beyond: bool,
        /// Its head says the same.
        marked: bool,
    },
    Faulty(String),
}

/// Blocks of the mirror in order. Its first failure ends it.
struct MirrorBlocks<'a> {
    mirror: Option<&'a mut (dyn Mirror + 'static)>,
    ready: VecDeque<(u64, Vec<u8>)>,
    next: u64,
    /// There is nothing more to read.
    done: bool,
    /// Highest number met.
    highest: Option<u64>,
    fault: Option<MirrorError>,
}

impl<'a> MirrorBlocks<'a> {
    fn new(mirror: Option<&'a mut (dyn Mirror + 'static)>) -> MirrorBlocks<'a> {
        MirrorBlocks {
            mirror,
            ready: VecDeque::new(),
            next: 0,
            done: false,
            highest: None,
            fault: None,
        }
    }

    /// Begins again at the first block.
    fn rewind(&mut self) {
        self.ready.clear();
        self.next = 0;
        self.done = self.fault.is_some();
    }

    /// The block of this number. Numbers must rise.
    fn get(&mut self, number: u64) -> Option<&[u8]> {
        loop {
            while self.ready.front().is_some_and(|(at, _)| *at < number) {
                self.ready.pop_front();
            }
            if !self.ready.is_empty() || !self.fill(number) {
                break;
            }
        }
        match self.ready.front() {
            Some((at, bytes)) if *at == number => Some(bytes),
            Some(_) | None => None,
        }
    }

    /// Where the events of the blocks from `number` on end, as the last whole one says;
    /// `None` if there is no block.
    fn events_from(&mut self, number: u64, key: &Hash) -> Option<u64> {
        let mut events = None;
        let _ = self.get(number);
        loop {
            for (_, bytes) in self.ready.drain(..) {
                let end = Block::read(&bytes, key).map_or(0, |block| block.link().seq);
                events = events.max(Some(end));
            }
            if !self.fill(number) {
                return events;
            }
        }
    }

    fn fill(&mut self, number: u64) -> bool {
        let from = self.next.max(number);
        let read = match self.mirror.as_mut() {
            Some(mirror) if !self.done => mirror.blocks(from, BATCH),
            Some(_) | None => return false,
        };
        let blocks = match read {
            Ok(blocks) => blocks,
            Err(error) => {
                self.fault = Some(error);
                Vec::new()
            }
        };
        let Some((last, _)) = blocks.last() else {
            self.done = true;
            return false;
        };
        self.next = last.saturating_add(1);
        self.highest = self.highest.max(Some(*last));
        self.ready.extend(blocks);
        true
    }
}

/// Which copies a walk met a block in.
struct Met<'a> {
    block: Block<'a>,
    in_journal: bool,
    in_mirror: bool,
    /// An append ends with it.
    closed: bool,
    /// Where it ends in the journal, if it is there.
    end: u64,
}

/// What stands in the journal where no block follows.
#[derive(Clone, Debug)]
enum Fault {
    /// A write that was not finished, or is being made.
    Unfinished,
    Damage(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unfinished => f.write_str("a write was not finished"),
            Fault::Damage(what) => f.write_str(what),
        }
    }
}

/// Where a walk stopped.
struct Stop {
    link: Link,
    offset: u64,
    /// Why the journal does not go on there; `None` where it ends.
    journal: Option<Fault>,
    /// The first place at which a block that the mirror does have is not whole.
    mirror_fault: Option<String>,
}

/// Walks the chain from its start, through whichever copy has the next block.
fn walk(
    key: &Hash,
    mut journal: Option<&mut Window>,
    mirror: &mut MirrorBlocks<'_>,
    mut visit: impl FnMut(Met<'_>) -> Result<(), OpenError>,
) -> Result<Stop, OpenError> {
    let mut link = Link::start(key);
    let mut offset = FILE_HEADER as u64;
    let mut mirror_fault = None;
    let mut searches = 0;
    loop {
        let (seen, why) = match journal.as_mut() {
            Some(window) => sound(window.see(offset, key).map_err(journal_io)?, &link)?,
            None => (None, None),
        };
        let copy = match mirror
            .get(link.number)
            .map(|bytes| comes_next(Block::read(bytes, key)?, &link))
        {
            Some(Ok(block)) => Some(block),
            Some(Err(error)) => {
                newer(&error)?;
                mirror_fault.get_or_insert_with(|| error.to_string());
                None
            }
            None => None,
        };
        let ((block, closed), in_journal, in_mirror) = match (seen, copy) {
            (Some((ours, _)), Some((theirs, _))) if ours.hash != theirs.hash => {
                return Err(OpenError::Forked {
                    seq: Seq::new(link.seq),
                    journal: ChainHead::new(ours.number, &ours.hash, link.seq),
                    sled: ChainHead::new(theirs.number, &theirs.hash, link.seq),
                });
            }
            (Some(ours), Some(_)) => (ours, true, true),
            (Some(ours), None) => (ours, true, false),
            (None, Some(theirs)) => (theirs, false, true),
            (None, None) => {
                let here = match journal.as_mut() {
                    Some(window) if searches < MAX_SEARCHES => {
                        searches += 1;
                        find_next(window, offset, key, &link)?
                    }
                    Some(_) | None => None,
                };
                match here {
                    Some(found) => {
                        offset = found;
                        continue;
                    }
                    None => {
                        return Ok(Stop {
                            link,
                            offset,
                            journal: why,
                            mirror_fault,
                        });
                    }
                }
            }
        };
        offset += block.bytes.len() as u64;
        let next = block.link();
        visit(Met {
            block,
            in_journal,
            in_mirror,
            closed,
            end: offset,
        })?;
        link = next;
    }
}

/// The block that comes next, if it stands somewhere else in the file.
fn find_next(
    window: &mut Window,
    offset: u64,
    key: &Hash,
    link: &Link,
) -> Result<Option<u64>, OpenError> {
    for from in [offset.saturating_add(1), FILE_HEADER as u64] {
        let found = window.find(from, key, |block| block.follows(link).is_ok());
        if let Some(found) = found.map_err(journal_io)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A block that comes next, and whether an append ends with it.
type Next<'a> = (Block<'a>, bool);

/// The block seen, if it comes next; else why not, in words.
fn sound<'a>(seen: Seen<'a>, link: &Link) -> Result<(Option<Next<'a>>, Option<Fault>), OpenError> {
    let why = match seen {
        Seen::Block(block) => match comes_next(block, link) {
            Ok(next) => return Ok((Some(next), None)),
            Err(error) => {
                newer(&error)?;
                error.to_string()
            }
        },
        Seen::End => return Ok((None, None)),
        Seen::Torn => return Ok((None, Some(Fault::Unfinished))),
        Seen::Damaged(error) => error.to_string(),
    };
    Ok((None, Some(Fault::Damage(why))))
}

fn comes_next<'a>(block: Block<'a>, link: &Link) -> Result<Next<'a>, BlockError> {
    block.follows(link)?;
    let closed = block.check_frames()?;
    Ok((block, closed))
}

fn newer(error: &BlockError) -> Result<(), OpenError> {
    match error.newer() {
        Some((found, known)) => Err(OpenError::NewerVersion(Found {
            what: "frame format".to_owned(),
            found,
            known,
            written_by: None,
        })),
        None => Ok(()),
    }
}

fn journal_io(source: io::Error) -> OpenError {
    OpenError::disk("read", JOURNAL, source)
}

/// Compares the two copies. `mirror` is an error where it could not even be opened.
pub(super) fn compare(
    journal: Option<Box<dyn DiskFile>>,
    mirror: Result<Option<&mut (dyn Mirror + 'static)>, MirrorError>,
    loss: Loss,
) -> Result<Compared, OpenError> {
    let mut window = journal.map(Window::new);
    let mut second = Second::open(mirror)?;
    let (header, header_fault) = agree_on_header(window.as_mut(), &mut second)?;
    let key = header.key();
    let marker = second
        .get(MirrorKey::Head)
        .and_then(|bytes| HeadMarker::read(&bytes, &key));
    let Second {
        mirror,
        missing,
        headless,
        fault,
    } = second;
    let mut blocks = MirrorBlocks::new(mirror);

    let mut end = Link::start(&key);
    let mut journal = Row::default();
    let mut sled = 0;
    let (mut journal_kept, mut sled_kept) = (journal, sled);
    let mut journal_has_end = window.is_some();
    let stop = walk(&key, window.as_mut(), &mut blocks, |met| {
        journal.meet(&met);
        sled += u64::from(met.in_mirror && met.block.number == sled);
        if met.closed {
            end = met.block.link();
            (journal_kept, sled_kept) = (journal, sled);
            journal_has_end = met.in_journal;
        }
        Ok(())
    });
    let stop = match stop {
        Err(OpenError::Forked {
            seq,
            mut journal,
            mut sled,
        }) => {
            journal.events = events_of_one(&key, window.as_mut(), &mut MirrorBlocks::new(None))?;
            blocks.rewind();
            sled.events = events_of_one(&key, None, &mut blocks)?;
            return Err(OpenError::Forked { seq, journal, sled });
        }
        other => other?,
    };

    let in_mirror = blocks.events_from(stop.link.number, &key);
    let given_up = beyond(window.as_mut(), &key, &end, &stop, marker, in_mirror)?;
    if let (Some(beyond), Loss::Refused) = (&given_up, loss) {
        return Err(OpenError::Damaged {
            sound: Seq::new(end.seq),
            what: beyond.to_string(),
        });
    }
    let highest = blocks.highest;
    let hole = sled_kept < end.number && highest >= Some(sled_kept);
    let fault = fault
        .or(blocks.fault.take().map(|fault| fault.to_string()))
        .or(stop.mirror_fault)
        .or((headless && !missing && end.number > 0).then(|| "its content is gone".to_owned()))
        .or(hole.then(|| format!("block {} is missing", sled_kept)))
        // kept whole: it may hold blocks that are given up
        .or((!missing)
            .then_some(given_up.as_ref())
            .flatten()
            .map(Beyond::in_words));
    let mirror = match fault {
        Some(fault) => MirrorFound::Faulty(fault),
        None if missing => MirrorFound::Missing,
        None => MirrorFound::Sound {
            blocks: sled_kept,
            beyond: highest >= Some(end.number),
            marked: !headless && marker.is_some_and(|marker| marker.blocks == sled_kept),
        },
    };
    let length = window.as_ref().map(Window::len).transpose();
    Ok(Compared {
        end,
        given_up,
        journal_has_end,
        journal: JournalFound {
            blocks: if header_fault.is_some() {
                0
            } else {
                journal_kept.blocks
            },
            good: if header_fault.is_some() {
                0
            } else {
                journal_kept.end
            },
            events: journal_kept.events,
            length: length.map_err(journal_io)?,
            fault: header_fault.map(Fault::Damage).or(stop.journal),
        },
        mirror,
        header,
    })
}

/// How many events one copy holds by itself.
fn events_of_one(
    key: &Hash,
    journal: Option<&mut Window>,
    mirror: &mut MirrorBlocks<'_>,
) -> Result<u64, OpenError> {
    let mut end = 0;
    walk(key, journal, mirror, |met| {
        if met.closed {
            end = met.block.link().seq;
        }
        Ok(())
    })?;
    Ok(end)
}

/// Blocks that stand in a row from the journal's start.
#[derive(Clone, Copy, Debug)]
struct Row {
    blocks: u64,
    /// Events that end in them.
    events: u64,
    /// Where the last of them ends.
    end: u64,
}

impl Default for Row {
    fn default() -> Row {
        Row {
            blocks: 0,
            events: 0,
            end: FILE_HEADER as u64,
        }
    }
}

impl Row {
    fn meet(&mut self, met: &Met<'_>) {
        let end = self.end.saturating_add(met.block.bytes.len() as u64);
        if met.in_journal && self.blocks == met.block.number && met.end == end {
            self.blocks += 1;
            self.events = met.block.link().seq;
            self.end = end;
        }
    }
}

/// The mirror before its blocks are read.
struct Second<'a> {
    mirror: Option<&'a mut (dyn Mirror + 'static)>,
    missing: bool,
    /// It has no file header.
    headless: bool,
    fault: Option<String>,
}

impl<'a> Second<'a> {
    fn open(
        mirror: Result<Option<&'a mut (dyn Mirror + 'static)>, MirrorError>,
    ) -> Result<Second<'a>, OpenError> {
        let (mirror, fault) = match mirror {
            Ok(mirror) => (mirror, None),
            Err(MirrorError::InUse) => return Err(OpenError::SledInUse),
            Err(error @ MirrorError::DiskFull) => return Err(OpenError::sled(error)),
            Err(error @ MirrorError::Failed(_)) => (None, Some(error.to_string())),
        };
        Ok(Second {
            missing: mirror.is_none() && fault.is_none(),
            headless: true,
            mirror,
            fault,
        })
    }

    fn get(&mut self, key: MirrorKey) -> Option<Vec<u8>> {
        match self.mirror.as_mut()?.get(key) {
            Ok(value) => value,
            Err(error) => {
                self.mirror = None;
                self.fault = Some(error.to_string());
                None
            }
        }
    }
}

/// The file header, and what is wrong with the journal's own.
fn agree_on_header(
    journal: Option<&mut Window>,
    second: &mut Second<'_>,
) -> Result<(FileHeader, Option<String>), OpenError> {
    let mut journal = journal;
    let bytes = match journal.as_mut() {
        Some(window) => Some(window.header().map_err(journal_io)?.to_vec()),
        None => None,
    };
    let ours = bytes.as_deref().map(FileHeader::read);
    let their_bytes = second.get(MirrorKey::FileHeader);
    let theirs = their_bytes.as_deref().map(FileHeader::read);
    for header in [&ours, &theirs] {
        if let Some(Err(HeaderError::NewerVersion(found))) = header {
            return Err(OpenError::NewerVersion(found.clone()));
        }
    }
    second.headless = !matches!(theirs, Some(Ok(_)));
    match (ours, theirs) {
        (Some(Ok(ours)), Some(Ok(theirs))) if ours != theirs => {
            let (ours, theirs) = (ours.key(), theirs.key());
            let in_journal = events_of_one(&ours, journal, &mut MirrorBlocks::new(None))?;
            let mut blocks = MirrorBlocks::new(second.mirror.take());
            let in_sled = events_of_one(&theirs, None, &mut blocks)?;
            Err(OpenError::Forked {
                seq: Seq::FIRST,
                journal: ChainHead::new(0, &ours, in_journal),
                sled: ChainHead::new(0, &theirs, in_sled),
            })
        }
        (Some(Ok(ours)), _) => Ok((ours, None)),
        (Some(Err(error)), Some(Ok(theirs))) => Ok((theirs, Some(error.to_string()))),
        (None, Some(Ok(theirs))) => Ok((theirs, None)),
        (None, None) if second.missing => Err(OpenError::NotALog { remains: false }),
        (ours, _) => {
            let mended = [&bytes, &their_bytes]
                .into_iter()
                .flatten()
                .find_map(|bytes| FileHeader::mended(bytes));
            match mended.map(|bytes| FileHeader::read(&bytes)) {
                Some(Ok(header)) => {
                    let fault = ours.and_then(Result::err);
                    return Ok((header, fault.map(|error| error.to_string())));
                }
                Some(Err(HeaderError::NewerVersion(found))) => {
                    return Err(OpenError::NewerVersion(found));
                }
                Some(Err(_)) | None => {}
            }
            let journal = match ours {
                Some(Err(error)) => error.to_string(),
                Some(Ok(_)) | None => "there is no journal".to_owned(),
            };
            let sled = match &second.fault {
                Some(fault) => fault.clone(),
                None if second.missing => "there is no sled folder".to_owned(),
                None => "its file header is missing or damaged".to_owned(),
            };
            Err(OpenError::Damaged {
                sound: Seq::FIRST,
                what: format!("journal: {journal}; sled: {sled}"),
            })
        }
    }
}

/// Blocks after the end that were durable once, as a copy shows.
#[derive(Debug)]
struct Beyond {
    /// The first block that is missing, and the byte of the journal to find it at.
    missing: u64,
    offset: u64,
    /// Events of the log.
    kept: u64,
    /// Events that are known to have followed them.
    lost: u64,
    shown_by: &'static str,
    journal: String,
    sled: String,
}

impl Beyond {
    fn in_words(&self) -> String {
        format!(
            "{} events from event {} on, as far as later blocks show, were given up as asked",
            self.lost, self.kept
        )
    }
}

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Beyond {
            missing,
            offset,
            lost,
            shown_by,
            journal,
            sled,
            ..
        } = self;
        write!(
            f,
            "block {missing} (byte {offset} of the journal) is whole in neither copy, and {shown_by} shows that it was \
             stored; {lost} later events are known of; journal: {journal}; sled: {sled}"
        )
    }
}

/// What comes after the end, where a copy shows that it was durable. `mirror`: where
/// the events of the mirror's later blocks end.
fn beyond(
    journal: Option<&mut Window>,
    key: &Hash,
    end: &Link,
    stop: &Stop,
    marker: Option<HeadMarker>,
    mirror: Option<u64>,
) -> Result<Option<Beyond>, OpenError> {
    let missing = stop.link.number;
    let (mut durable, mut highest) = (false, mirror.unwrap_or(0));
    if let Some(window) = journal {
        let all = window.find(stop.offset, key, |block| {
            durable |= block.durable > missing;
            if block.number >= missing {
                highest = highest.max(block.link().seq);
            }
            false
        });
        all.map_err(journal_io)?;
    }
    let marked = marker.filter(|marker| marker.blocks > missing);
    let shown_by = match (marked, mirror, durable) {
        (Some(marker), ..) => {
            highest = highest.max(marker.seq.get());
            "sled's head"
        }
        (None, Some(_), _) => "a later block in sled",
        (None, None, true) => "a later block in the journal",
        (None, None, false) => return Ok(None),
    };
    Ok(Some(Beyond {
        missing,
        offset: stop.offset,
        kept: end.seq,
        lost: highest.saturating_sub(end.seq),
        shown_by,
        journal: stop
            .journal
            .as_ref()
            .map_or("it ends there".to_owned(), Fault::to_string),
        sled: stop
            .mirror_fault
            .clone()
            .unwrap_or_else(|| "the block is missing".to_owned()),
    }))
}

/// Both copies after they were made to agree.
pub(super) struct Restored {
    pub journal: Box<dyn DiskFile>,
    pub mirror: Box<dyn Mirror>,
    /// Length of the journal.
    pub length: u64,
    pub repairs: Vec<Repair>,
}

/// Makes both copies hold exactly the blocks that were found.
pub(super) fn restore(
    disk: &dyn Disk,
    compared: &Compared,
    mut mirror: Option<Box<dyn Mirror>>,
) -> Result<Restored, OpenError> {
    let mut repairs = Vec::new();
    let journal = restore_journal(disk, compared, &mut mirror, &mut repairs)?;
    let length = journal.len().map_err(journal_io)?;
    let mirror = restore_mirror(disk, compared, mirror, &mut repairs)?;
    Ok(Restored {
        journal,
        mirror,
        length,
        repairs,
    })
}

fn restore_journal(
    disk: &dyn Disk,
    compared: &Compared,
    mirror: &mut Option<Box<dyn Mirror>>,
    repairs: &mut Vec<Repair>,
) -> Result<Box<dyn DiskFile>, OpenError> {
    let found = &compared.journal;
    let old = disk.open(JOURNAL).map_err(journal_io)?;
    let (Some(mut old), Some(length)) = (old, found.length) else {
        let journal = rebuild_journal(disk, compared, mirror)?;
        repairs.push(Repair {
            copy: LogCopy::Journal,
            detail: format!(
                "the journal was missing; it was written anew from sled{}",
                compared.end_in_words()
            ),
            quarantine: None,
            restored: compared.end.seq,
        });
        return Ok(journal);
    };
    let whole = found.blocks == compared.end.number && found.good > 0;
    if whole && length == found.good {
        // a process that was killed before its sync left this to the page cache alone
        old.sync()
            .map_err(|source| OpenError::disk("sync", JOURNAL, source))?;
        return Ok(old);
    }
    let quarantine = match length.saturating_sub(found.good) {
        0 => None,
        _ => Some(keep_bytes(disk, old.as_ref(), found.good, length)?),
    };
    let fault = match &found.fault {
        Some(fault) => fault.to_string(),
        None if whole => "an append was not finished".to_owned(),
        None => "it ends too early".to_owned(),
    };
    let place = format!("journal, byte {} of {length}: {fault}", found.good);
    if whole {
        old.set_len(found.good)
            .and_then(|()| old.sync())
            .map_err(|source| OpenError::disk("cut", JOURNAL, source))?;
        let why = match &compared.given_up {
            Some(beyond) => format!("{}; the rest was cut off", beyond.in_words()),
            None => "nothing shows that what follows was ever confirmed, it was cut off".to_owned(),
        };
        repairs.push(Repair {
            copy: LogCopy::Journal,
            detail: format!("{place}; {why}"),
            quarantine,
            restored: 0,
        });
        return Ok(old);
    }
    drop(old);
    let journal = rebuild_journal(disk, compared, mirror)?;
    repairs.push(Repair {
        copy: LogCopy::Journal,
        detail: format!(
            "{place}; it was written anew from what is whole{}",
            compared.end_in_words()
        ),
        quarantine,
        restored: compared.end.seq.saturating_sub(found.events),
    });
    Ok(journal)
}

/// Writes the journal beside the old one, from both copies, and puts it in its place.
fn rebuild_journal(
    disk: &dyn Disk,
    compared: &Compared,
    mirror: &mut Option<Box<dyn Mirror>>,
) -> Result<Box<dyn DiskFile>, OpenError> {
    let write_error = |source| OpenError::disk("write", NEW_JOURNAL, source);
    let mut file = disk.create(NEW_JOURNAL).map_err(write_error)?;
    write_full(file.as_mut(), compared.header.as_bytes(), 0).map_err(write_error)?;
    let mut length = FILE_HEADER as u64;
    let mut window = disk.open(JOURNAL).map_err(journal_io)?.map(Window::new);
    let mut blocks = MirrorBlocks::new(mirror.as_deref_mut());
    let stop = walk(
        &compared.header.key(),
        window.as_mut(),
        &mut blocks,
        |met| {
            if met.block.number < compared.end.number {
                write_full(file.as_mut(), met.block.bytes, length).map_err(write_error)?;
                length += met.block.bytes.len() as u64;
            }
            Ok(())
        },
    )?;
    if stop.link.number < compared.end.number {
        return Err(OpenError::Damaged {
            sound: Seq::new(stop.link.seq),
            what: "a copy that was read a moment ago cannot be read again".to_owned(),
        });
    }
    file.sync().map_err(write_error)?;
    disk.rename(NEW_JOURNAL, JOURNAL)
        .map_err(|source| OpenError::rename(NEW_JOURNAL, JOURNAL, source))?;
    Ok(file)
}

/// Keeps the journal's bytes from `from` on in quarantine. Returns their name.
fn keep_bytes(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    from: u64,
    to: u64,
) -> Result<String, OpenError> {
    let name = quarantine_name(disk, "journal")?;
    let error = |source| OpenError::disk("write", &name, source);
    let mut copy = disk.create(&name).map_err(error)?;
    let mut buffer = vec![0; 64 << 10];
    let mut offset = from;
    while offset < to {
        let read = read_full(file, &mut buffer, offset).map_err(journal_io)?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        write_full(copy.as_mut(), bytes, offset - from).map_err(error)?;
        offset += read as u64;
    }
    copy.sync().map_err(error)?;
    Ok(name)
}

/// The next free name in the quarantine.
pub(super) fn quarantine_name(disk: &dyn Disk, what: &str) -> Result<String, OpenError> {
    let names = disk
        .names(QUARANTINE)
        .map_err(|source| OpenError::disk("list", QUARANTINE, source))?;
    let last = names
        .iter()
        .filter_map(|name| name.split('-').next()?.parse::<u64>().ok())
        .max()
        .unwrap_or(0);
    Ok(format!("{QUARANTINE}/{}-{what}", last.saturating_add(1)))
}

fn restore_mirror(
    disk: &dyn Disk,
    compared: &Compared,
    mirror: Option<Box<dyn Mirror>>,
    repairs: &mut Vec<Repair>,
) -> Result<Box<dyn Mirror>, OpenError> {
    let fault = match (&compared.mirror, mirror) {
        (
            MirrorFound::Sound {
                blocks,
                beyond,
                marked,
            },
            Some(mut mirror),
        ) => {
            let complete = *blocks == compared.end.number && !*beyond && *marked;
            let result = if complete {
                Ok(())
            } else {
                tracing::debug!(
                    has = *blocks,
                    wanted = compared.end.number,
                    "sled follows the journal"
                );
                fill_mirror(disk, compared, mirror.as_mut(), *blocks)
            };
            match result {
                Ok(()) => return Ok(mirror),
                Err(Filling::Log(error)) => return Err(error),
                Err(Filling::Mirror(MirrorError::DiskFull)) => {
                    return Err(OpenError::DiskFull {
                        what: "sled".to_owned(),
                    });
                }
                Err(Filling::Mirror(error)) => Some(error.to_string()),
            }
        }
        (MirrorFound::Faulty(fault), _) => Some(fault.clone()),
        (MirrorFound::Missing | MirrorFound::Sound { .. }, _) => None,
    };
    let name = quarantine_name(disk, "sled")?;
    let moved = disk
        .set_mirror_aside(&name)
        .map_err(|source| OpenError::rename(SLED, &name, source))?;
    let mut mirror = disk
        .mirror(true)
        .and_then(|mirror| mirror.ok_or_else(|| MirrorError::Failed("not made".to_owned())))
        .map_err(OpenError::sled)?;
    fill_mirror(disk, compared, mirror.as_mut(), 0).map_err(|error| match error {
        Filling::Log(error) => error,
        Filling::Mirror(error) => OpenError::sled(error),
    })?;
    if fault.is_some() || compared.end.number > 0 {
        let fault = fault.unwrap_or_else(|| "the folder was missing".to_owned());
        repairs.push(Repair {
            copy: LogCopy::Sled,
            detail: format!("sled: {fault}; it was made anew from the journal"),
            quarantine: moved.then_some(name),
            restored: compared.end.seq,
        });
    }
    Ok(mirror)
}

enum Filling {
    Log(OpenError),
    Mirror(MirrorError),
}

/// Removes what is beyond the end from the mirror, and adds what it lacks from
/// the journal, which is whole by now.
fn fill_mirror(
    disk: &dyn Disk,
    compared: &Compared,
    mirror: &mut (dyn Mirror + 'static),
    has: u64,
) -> Result<(), Filling> {
    let key = compared.header.key();
    loop {
        let beyond = mirror
            .blocks(compared.end.number, BATCH)
            .map_err(Filling::Mirror)?;
        if beyond.is_empty() {
            break;
        }
        let removed = beyond
            .into_iter()
            .map(|(number, _)| (MirrorKey::Block(number), None));
        mirror.put(removed.collect()).map_err(Filling::Mirror)?;
    }
    let file = disk
        .open(JOURNAL)
        .map_err(|e| Filling::Log(journal_io(e)))?;
    let mut window = file.map(Window::new);
    let mut changes = vec![(
        MirrorKey::FileHeader,
        Some(compared.header.as_bytes().to_vec()),
    )];
    let mut failed = None;
    if has < compared.end.number {
        walk(&key, window.as_mut(), &mut MirrorBlocks::new(None), |met| {
            if met.block.number >= has && failed.is_none() {
                let block = met.block.bytes.to_vec();
                changes.push((MirrorKey::Block(met.block.number), Some(block)));
                if changes.len() >= BATCH {
                    failed = mirror.put(std::mem::take(&mut changes)).err();
                }
            }
            Ok(())
        })
        .map_err(Filling::Log)?;
    }
    if let Some(error) = failed {
        return Err(Filling::Mirror(error));
    }
    let marker = HeadMarker {
        blocks: compared.end.number,
        seq: Seq::new(compared.end.seq),
    };
    changes.push((MirrorKey::Head, Some(marker.to_bytes(&key))));
    mirror.put(changes).map_err(Filling::Mirror)?;
    mirror.sync().map_err(Filling::Mirror)
}
