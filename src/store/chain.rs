//! Reads the two copies of a log along its hash chain.
//!
//! [`walk`] follows the chain from one block to the next and takes each block
//! from whichever copy has it intact. [`Chains::read`] records what each copy
//! holds. Nothing here changes a copy or judges what is missing; [`super::compare`]
//! does.
//!
//! Memory is bounded by a window of the journal and a batch of sled's blocks.

use std::collections::VecDeque;
use std::fmt;
use std::io;

use super::block::{
    Block, BlockError, FILE_HEADER, FileHeader, Hash, HeadMarker, HeaderError, Link,
};
use super::disk::{DiskFile, JOURNAL, Mirror, MirrorError, MirrorKey};
use super::error::{ChainHead, OpenError};
use super::journal::{Seen, Window};
use super::version::UnknownVersion;
use tinygate_events::Seq;

/// Blocks that are read from sled, or written to it, at a time.
pub const BATCH: usize = 64;

/// How often a missing block is searched for in the whole journal.
const MAX_SEARCHES: u32 = 100;

/// An open mirror.
type OpenMirror<'a> = &'a mut (dyn Mirror + 'static);

/// What the two copies of a log hold.
#[derive(Clone, Debug)]
pub struct Chains {
    pub header: FileHeader,
    /// The position after the last complete append that the copies hold together.
    pub end: Link,
    /// The journal has the last block before `end`.
    pub journal_has_end: bool,
    /// The first block that neither copy has intact.
    pub missing: u64,
    /// The offset in the journal at which that block was searched for.
    pub missing_at: u64,
    pub journal: JournalChain,
    pub sled: SledChain,
    /// Both copies are sound but differ. The other fields are then meaningless.
    pub fork: Option<Fork>,
}

/// What the journal holds.
#[derive(Clone, Debug)]
pub struct JournalChain {
    /// `None` if there is no file.
    pub length: Option<u64>,
    /// Why its file header is not used.
    pub header_fault: Option<String>,
    /// At most up to the end of the log.
    pub row: Row,
    /// Why the chain stops; `None` if the file ends there.
    pub fault: Option<Fault>,
    /// A later block states that the missing one was durable.
    pub shows_durable: bool,
    /// The end of the events of later blocks; 0 if there are none.
    pub later_events: u64,
}

/// What sled holds.
#[derive(Clone, Debug)]
pub struct SledChain {
    /// There is no folder.
    pub missing: bool,
    /// Why it cannot be opened, or why a read failed.
    pub failure: Option<String>,
    pub has_header: bool,
    pub marker: Option<HeadMarker>,
    /// At most up to the end of the log.
    pub row: Row,
    /// The first damaged block in sled.
    pub fault: Option<String>,
    /// The number of its last block.
    pub highest: Option<u64>,
    /// The end of the events of its blocks from the missing one on; `None` if there are none.
    pub later_events: Option<u64>,
}

/// Where two sound copies diverge.
#[derive(Clone, Debug)]
pub struct Fork {
    /// First event of the first block that differs.
    pub seq: Seq,
    pub journal: ChainHead,
    pub sled: ChainHead,
}

impl Fork {
    fn with_events(mut self, in_journal: u64, in_sled: u64) -> Fork {
        self.journal.events = in_journal;
        self.sled.events = in_sled;
        self
    }
}

/// The position after consecutive blocks from the start of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub link: Link,
    /// Where the last of them ends in an intact journal.
    pub end: u64,
}

impl Row {
    pub fn start(key: &Hash) -> Row {
        Row {
            link: Link::start(key),
            end: FILE_HEADER as u64,
        }
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> u64 {
        self.link.number
    }

    fn is_next(&self, block: &Block<'_>) -> bool {
        self.link.number == block.number
    }

    fn after(&self, block: &Block<'_>) -> Row {
        Row {
            link: block.link(),
            end: self.end.saturating_add(block.bytes.len() as u64),
        }
    }
}

/// What the journal holds where the chain stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An unfinished write, or one in progress.
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

impl Chains {
    /// Reads both copies from the start. Calls `visit` with each block of the chain and whether
    /// an append ends with it. `mirror` is an error if sled cannot be opened.
    ///
    /// # Errors
    /// The chain has no start: no log, no file header that matches its hash, or a newer version.
    /// Also disk errors.
    pub fn read(
        journal: Option<Box<dyn DiskFile>>,
        mirror: Result<Option<OpenMirror<'_>>, MirrorError>,
        mut visit: impl FnMut(&FileHeader, &Block<'_>, bool),
    ) -> Result<Chains, OpenError> {
        let mut window = journal.map(Window::new);
        let mut source = SledSource::open(mirror)?;
        let (header, header_fault) = match agree_on_header(window.as_mut(), &mut source)? {
            Agreed::Header { header, fault } => (header, fault),
            Agreed::Forked { header, fork } => return Ok(Chains::forked(header, fork)),
        };
        let key = header.key();
        let marker = source
            .get(MirrorKey::Head)
            .and_then(|bytes| HeadMarker::read(&bytes, &key));
        let SledSource {
            mirror,
            missing,
            has_header,
            failure,
        } = source;
        let mut blocks = SledBlocks::new(mirror);

        let start = Row::start(&key);
        let (mut journal, mut sled) = (start, start);
        let mut kept = (start, start);
        let mut end = start.link;
        let mut journal_has_end = window.is_some();
        let stop = walk(&key, &start, window.as_mut(), &mut blocks, |step| {
            let Step { block, closed, .. } = &step;
            let after = journal.after(block);
            if step.in_journal && journal.is_next(block) && step.end == after.end {
                journal = after;
            }
            if step.in_sled && sled.is_next(block) {
                sled = sled.after(block);
            }
            visit(&header, block, *closed);
            if *closed {
                end = block.link();
                kept = (journal, sled);
                journal_has_end = step.in_journal;
            }
            Ok(())
        })?;
        if let Some(fork) = stop.fork {
            blocks.rewind();
            let in_journal = events_of_journal(&key, window.as_mut())?;
            let in_sled = events_of_sled(&key, &mut blocks)?;
            return Ok(Chains::forked(
                header,
                fork.with_events(in_journal, in_sled),
            ));
        }

        let missing_block = stop.link.number;
        let later = blocks.events_from(missing_block, &key);
        let (mut shows_durable, mut later_events) = (false, 0);
        if let Some(window) = window.as_mut() {
            let all = window.find(stop.offset, &key, |block| {
                shows_durable |= block.durable > missing_block;
                if block.number >= missing_block {
                    later_events = later_events.max(block.link().seq);
                }
                false
            });
            all.map_err(journal_io)?;
        }
        let length = window.as_ref().map(Window::len).transpose();
        Ok(Chains {
            end,
            journal_has_end,
            missing: missing_block,
            missing_at: stop.offset,
            journal: JournalChain {
                length: length.map_err(journal_io)?,
                header_fault,
                row: kept.0,
                fault: stop.journal,
                shows_durable,
                later_events,
            },
            sled: SledChain {
                missing,
                failure: failure.or(blocks.failure.take().map(|failure| failure.to_string())),
                has_header,
                marker,
                row: kept.1,
                fault: stop.sled,
                highest: blocks.highest,
                later_events: later,
            },
            fork: None,
            header,
        })
    }

    fn forked(header: FileHeader, fork: Fork) -> Chains {
        let start = Row::start(&header.key());
        Chains {
            header,
            end: start.link,
            journal_has_end: false,
            missing: 0,
            missing_at: start.end,
            journal: JournalChain {
                length: None,
                header_fault: None,
                row: start,
                fault: None,
                shows_durable: false,
                later_events: 0,
            },
            sled: SledChain {
                missing: false,
                failure: None,
                has_header: true,
                marker: None,
                row: start,
                fault: None,
                highest: None,
                later_events: None,
            },
            fork: Some(fork),
        }
    }
}

/// A block of the chain, and the copies that have it.
pub struct Step<'a> {
    pub block: Block<'a>,
    pub in_journal: bool,
    pub in_sled: bool,
    /// An append ends with it.
    pub closed: bool,
    /// Where it ends in the journal, if the journal has it.
    pub end: u64,
}

/// Where a walk stopped.
pub struct Stop {
    pub link: Link,
    offset: u64,
    /// Why the journal does not continue there; `None` if it ends.
    journal: Option<Fault>,
    /// The first damaged block in sled.
    sled: Option<String>,
    /// Both copies continue but differ. Their events are not counted yet.
    fork: Option<Fork>,
}

/// Walks the chain from `start`, using whichever copy has the next block.
pub fn walk(
    key: &Hash,
    start: &Row,
    mut journal: Option<&mut Window>,
    sled: &mut SledBlocks<'_>,
    mut visit: impl FnMut(Step<'_>) -> Result<(), OpenError>,
) -> Result<Stop, OpenError> {
    let Row {
        mut link,
        end: mut offset,
    } = *start;
    let mut sled_fault = None;
    let mut searches = 0;
    // Every block so far is in the journal at its expected offset.
    let mut in_place = true;
    loop {
        let (ours, fault) = match journal.as_mut() {
            Some(window) => sound(window.see(offset, key).map_err(journal_io)?, &link)?,
            None => (None, None),
        };
        let theirs = match sled
            .get(link.number)
            .map(|bytes| comes_next(Block::read(bytes, key)?, &link))
        {
            Some(Ok(block)) => Some(block),
            Some(Err(error)) => {
                newer(&error)?;
                sled_fault.get_or_insert_with(|| error.to_string());
                None
            }
            None => None,
        };
        let (in_journal, in_sled) = (ours.is_some(), theirs.is_some());
        let fork = match (&ours, &theirs) {
            (Some((ours, _)), Some((theirs, _))) if ours.hash != theirs.hash => Some(Fork {
                seq: Seq::new(link.seq),
                journal: ChainHead::new(ours.number, &ours.hash, 0),
                sled: ChainHead::new(theirs.number, &theirs.hash, 0),
            }),
            (Some(_) | None, Some(_) | None) => None,
        };
        let Some((block, closed)) = ours.or(theirs).filter(|_| fork.is_none()) else {
            let found = match journal.as_mut() {
                Some(window) if fork.is_none() && searches < MAX_SEARCHES => {
                    searches += 1;
                    find_next(window, offset, in_place, key, &link)?
                }
                Some(_) | None => None,
            };
            if let Some(found) = found {
                offset = found;
                in_place = false;
                continue;
            }
            return Ok(Stop {
                link,
                offset,
                journal: fault,
                sled: sled_fault,
                fork,
            });
        };
        offset += block.bytes.len() as u64;
        in_place &= in_journal;
        let next = block.link();
        visit(Step {
            block,
            in_journal,
            in_sled,
            closed,
            end: offset,
        })?;
        link = next;
    }
}

/// The next block, if it is elsewhere in the file: after `offset`, or before it if some bytes
/// there do not belong to a block at its expected offset.
fn find_next(
    window: &mut Window,
    offset: u64,
    in_place: bool,
    key: &Hash,
    link: &Link,
) -> Result<Option<u64>, OpenError> {
    let mut find = |from| {
        let found = window.find(from, key, |block| block.follows(link).is_ok());
        found.map_err(journal_io)
    };
    match find(offset.saturating_add(1))? {
        None if !in_place => find(FILE_HEADER as u64),
        found => Ok(found),
    }
}

/// The next block, and whether an append ends with it.
type Next<'a> = (Block<'a>, bool);

/// The block that was found, if it is the next one; otherwise why not.
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
        Some((found, known)) => Err(OpenError::NewerVersion(UnknownVersion {
            what: "frame format".to_owned(),
            found,
            known,
            written_by: None,
        })),
        None => Ok(()),
    }
}

pub fn journal_io(source: io::Error) -> OpenError {
    OpenError::disk("read", JOURNAL, source)
}

/// The number of events in complete appends that the journal holds by itself.
fn events_of_journal(key: &Hash, journal: Option<&mut Window>) -> Result<u64, OpenError> {
    count_events(key, journal, &mut SledBlocks::new(None))
}

/// The number of events in complete appends that sled holds by itself.
fn events_of_sled(key: &Hash, sled: &mut SledBlocks<'_>) -> Result<u64, OpenError> {
    count_events(key, None, sled)
}

fn count_events(
    key: &Hash,
    journal: Option<&mut Window>,
    sled: &mut SledBlocks<'_>,
) -> Result<u64, OpenError> {
    let mut end = 0;
    walk(key, &Row::start(key), journal, sled, |step| {
        if step.closed {
            end = step.block.link().seq;
        }
        Ok(())
    })?;
    Ok(end)
}

/// Sled's blocks in order, up to the first failure.
pub struct SledBlocks<'a> {
    mirror: Option<OpenMirror<'a>>,
    ready: VecDeque<(u64, Vec<u8>)>,
    next: u64,
    /// Nothing more can be read.
    done: bool,
    /// Highest number read.
    highest: Option<u64>,
    failure: Option<MirrorError>,
}

impl<'a> SledBlocks<'a> {
    pub fn new(mirror: Option<OpenMirror<'a>>) -> SledBlocks<'a> {
        SledBlocks {
            mirror,
            ready: VecDeque::new(),
            next: 0,
            done: false,
            highest: None,
            failure: None,
        }
    }

    /// Restarts at the first block.
    fn rewind(&mut self) {
        self.ready.clear();
        self.next = 0;
        self.done = self.failure.is_some();
    }

    /// The block with this number. Numbers must increase from call to call.
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

    /// Where the events of the blocks from `number` on end, according to the last intact one;
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
                self.failure = Some(error);
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

/// Sled before its blocks are read.
struct SledSource<'a> {
    mirror: Option<OpenMirror<'a>>,
    missing: bool,
    has_header: bool,
    failure: Option<String>,
}

impl<'a> SledSource<'a> {
    fn open(
        mirror: Result<Option<OpenMirror<'a>>, MirrorError>,
    ) -> Result<SledSource<'a>, OpenError> {
        let (mirror, failure) = match mirror {
            Ok(mirror) => (mirror, None),
            Err(MirrorError::InUse) => return Err(OpenError::SledInUse),
            Err(error @ MirrorError::DiskFull) => return Err(OpenError::sled(error)),
            Err(error @ MirrorError::Failed(_)) => (None, Some(error.to_string())),
        };
        Ok(SledSource {
            missing: mirror.is_none() && failure.is_none(),
            has_header: false,
            mirror,
            failure,
        })
    }

    fn get(&mut self, key: MirrorKey) -> Option<Vec<u8>> {
        match self.mirror.as_mut()?.get(key) {
            Ok(value) => value,
            Err(error) => {
                self.mirror = None;
                self.failure = Some(error.to_string());
                None
            }
        }
    }
}

/// The file header of both copies.
enum Agreed {
    Header {
        header: FileHeader,
        /// What is wrong with the journal's header.
        fault: Option<String>,
    },
    /// Both match their own hash but differ.
    Forked { header: FileHeader, fork: Fork },
}

fn agree_on_header(
    journal: Option<&mut Window>,
    sled: &mut SledSource<'_>,
) -> Result<Agreed, OpenError> {
    let mut journal = journal;
    let bytes = match journal.as_mut() {
        Some(window) => Some(window.header().map_err(journal_io)?.to_vec()),
        None => None,
    };
    let ours = bytes.as_deref().map(FileHeader::read);
    let their_bytes = sled.get(MirrorKey::FileHeader);
    let theirs = their_bytes.as_deref().map(FileHeader::read);
    for header in [&ours, &theirs] {
        if let Some(Err(HeaderError::NewerVersion(found))) = header {
            return Err(OpenError::NewerVersion(found.clone()));
        }
    }
    sled.has_header = matches!(theirs, Some(Ok(_)));
    let agreed = |header, fault: Option<HeaderError>| {
        let fault = fault.map(|error| error.to_string());
        Ok(Agreed::Header { header, fault })
    };
    match (ours, theirs) {
        (Some(Ok(ours)), Some(Ok(theirs))) if ours != theirs => {
            let (our_key, their_key) = (ours.key(), theirs.key());
            let in_journal = events_of_journal(&our_key, journal)?;
            let mut blocks = SledBlocks::new(sled.mirror.take());
            let in_sled = events_of_sled(&their_key, &mut blocks)?;
            Ok(Agreed::Forked {
                header: ours,
                fork: Fork {
                    seq: Seq::FIRST,
                    journal: ChainHead::new(0, &our_key, in_journal),
                    sled: ChainHead::new(0, &their_key, in_sled),
                },
            })
        }
        (Some(Ok(ours)), _) => agreed(ours, None),
        (Some(Err(error)), Some(Ok(theirs))) => agreed(theirs, Some(error)),
        (None, Some(Ok(theirs))) => agreed(theirs, None),
        (None, None) if sled.missing => Err(OpenError::NotALog { remains: false }),
        (ours, _) => {
            let corrected = [&bytes, &their_bytes]
                .into_iter()
                .flatten()
                .find_map(|bytes| FileHeader::corrected(bytes));
            match corrected.map(|bytes| FileHeader::read(&bytes)) {
                Some(Ok(header)) => return agreed(header, ours.and_then(Result::err)),
                Some(Err(HeaderError::NewerVersion(found))) => {
                    return Err(OpenError::NewerVersion(found));
                }
                Some(Err(_)) | None => {}
            }
            Err(no_header(ours.and_then(Result::err), sled))
        }
    }
}

/// Neither copy has an intact file header, or one with a single damaged byte.
fn no_header(journal: Option<HeaderError>, sled: &SledSource<'_>) -> OpenError {
    let journal = match journal {
        Some(error) => error.to_string(),
        None => "there is no journal".to_owned(),
    };
    let sled = match &sled.failure {
        Some(failure) => failure.clone(),
        None if sled.missing => "there is no sled folder".to_owned(),
        None => "its file header is missing or damaged".to_owned(),
    };
    OpenError::Damaged {
        sound: Seq::FIRST,
        what: format!("journal: {journal}; sled: {sled}"),
    }
}
