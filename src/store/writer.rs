//! Appends to the journal, and updates the mirror.
//!
//! The order is fixed: blocks are written to the journal, then synced, then
//! acknowledged, then written to the mirror. [`Writer`] has no thread and no clock;
//! [`super::worker`] provides both.
//!
//! Invariant: up to `length` the journal is intact. A failed write is cut off again.
//! After a failed sync nothing more is written, because the content of the disk is
//! unknown.

use std::collections::VecDeque;
use std::sync::Arc;

use super::block::{
    Block, BlockWriter, FILE_HEADER, FileHeader, Hash, HeadMarker, Link, MAX_PAYLOAD,
};
use super::chain::BATCH;
use super::compare::{Loss, compare, compare_only};
use super::disk::{
    Disk, DiskFile, JOURNAL, Mirror, MirrorError, MirrorKey, NEW_JOURNAL, SLED, is_full, write_full,
};
use super::error::{OpenError, Repair};
use super::event_log::AppendError;
use super::presence::{Content, content_on};
use super::restore::{Restored, quarantine_name, restore};
use tinygate_events::stored::frame::{Frame, HEADER};
use tinygate_events::stored::{Form, MAX_BODY, encode_into};
use tinygate_events::{Event, Seq};

/// The events of one append in their stored form, ready to be written.
#[derive(Clone, Debug)]
pub struct EncodedAppend {
    first: Seq,
    events: Vec<Encoded>,
    bodies: Vec<u8>,
    decision: bool,
}

#[derive(Clone, Copy, Debug)]
struct Encoded {
    form: Form,
    time_ms: u64,
    /// The end of its body.
    end: usize,
}

impl EncodedAppend {
    /// Encodes events whose first has the number `first`.
    pub fn encode(first: Seq, events: &[(u64, Event)]) -> Result<EncodedAppend, AppendError> {
        let mut append = EncodedAppend {
            first,
            events: Vec::with_capacity(events.len()),
            bodies: Vec::new(),
            decision: false,
        };
        for (index, (time_ms, event)) in events.iter().enumerate() {
            let form = encode_into(event, &mut append.bodies).map_err(|source| {
                let seq = Seq::new(first.get().saturating_add(index as u64));
                AppendError::NotStorable { seq, source }
            })?;
            append.decision |= event.is_decision();
            let end = append.bodies.len();
            append.events.push(Encoded {
                form,
                time_ms: *time_ms,
                end,
            });
            if end > MAX_BODY {
                return Err(AppendError::TooLarge {
                    bytes: end as u64,
                    limit: MAX_BODY as u64,
                });
            }
        }
        Ok(append)
    }

    pub fn first(&self) -> Seq {
        self.first
    }

    /// Number of events.
    pub fn count(&self) -> u64 {
        self.events.len() as u64
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.bodies.len() + self.events.len() * HEADER
    }

    /// Whether it holds a decision, after which the mirror must be synced.
    pub fn has_decision(&self) -> bool {
        self.decision
    }
}

/// Why the log rejects appends, for now or for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Events that were not durable are lost; appends work again once there is space.
    DiskFull,
    /// Nothing more is written.
    Refused(String),
}

impl Failure {
    pub fn at(self, head: Seq) -> AppendError {
        match self {
            Failure::DiskFull => AppendError::DiskFull { head },
            Failure::Refused(why) => AppendError::Refused { head, why },
        }
    }
}

pub struct Writer {
    journal: Box<dyn DiskFile>,
    /// Set until the journal gets its name, which happens with its first event.
    unnamed: Option<Arc<dyn Disk>>,
    mirror: Box<dyn Mirror>,
    header: FileHeader,
    key: Hash,
    /// Bytes of the journal that are intact and durable.
    length: u64,
    durable: Link,
    /// The position after the sealed blocks.
    link: Link,
    block: BlockWriter,
    /// Sealed, not yet written.
    sealed: Vec<Sealed>,
    sealed_bytes: usize,
    /// Durable in the journal, not yet in the mirror.
    following: VecDeque<Sealed>,
    mirror_dirty: bool,
    refused: Option<String>,
}

struct Sealed {
    bytes: Vec<u8>,
    after: Link,
}

impl Writer {
    /// Creates the log of a new run. Until the first commit the journal does not have its final
    /// name, so a process that ends before that leaves no log.
    ///
    /// # Errors
    /// [`OpenError::Exists`] if there is a log, sound or damaged.
    pub fn create(disk: &Arc<dyn Disk>, run: &str, nonce: [u8; 16]) -> Result<Writer, OpenError> {
        content_on(disk.as_ref())?.expect_none()?;
        Writer::create_new(disk, run, nonce)
    }

    /// Like [`Writer::create`], if there is no log.
    pub(super) fn create_new(
        disk: &Arc<dyn Disk>,
        run: &str,
        nonce: [u8; 16],
    ) -> Result<Writer, OpenError> {
        let error = |source| OpenError::disk("write", NEW_JOURNAL, source);
        // sled may fail to open files of a process that was killed while creating them.
        let name = quarantine_name(disk.as_ref(), "sled")?;
        disk.set_mirror_aside(&name)
            .map_err(|source| OpenError::rename(SLED, &name, source))?;
        let header = FileHeader::new(run, nonce);
        let mut journal = disk.create(NEW_JOURNAL).map_err(error)?;
        write_full(journal.as_mut(), header.as_bytes(), 0).map_err(error)?;
        let mirror = new_mirror(disk.as_ref(), &header).map_err(OpenError::sled)?;
        let end = Link::start(&header.key());
        Ok(Writer {
            unnamed: Some(Arc::clone(disk)),
            ..Writer::at(header, end, journal, FILE_HEADER as u64, mirror)
        })
    }

    /// Opens a log: compares both copies and repairs what can be repaired.
    ///
    /// # Errors
    /// Nothing was changed then.
    pub fn open(disk: &Arc<dyn Disk>) -> Result<(Writer, Vec<Repair>), OpenError> {
        let content = content_on(disk.as_ref())?;
        content.expect_log()?;
        Writer::open_content(disk, content, Loss::Refused, |_, _, _| {})
    }

    /// Opens the existing log described by `content`, and calls `visit` with each of its blocks.
    /// Gives up what cannot be repaired if `loss` allows it.
    pub(super) fn open_content(
        disk: &Arc<dyn Disk>,
        content: Content,
        loss: Loss,
        visit: impl FnMut(&FileHeader, &Block<'_>, bool),
    ) -> Result<(Writer, Vec<Repair>), OpenError> {
        if loss == Loss::Refused && content == Content::SledOnly {
            // sled is the only copy, and drops damaged data when it is opened.
            look_at_sled(disk.as_ref())?;
        }
        let journal = open_journal(disk.as_ref())?;
        let missing = journal.is_none();
        let (mut mirror, unopened) = match disk.mirror(false) {
            Ok(mirror) => (mirror, None),
            Err(error) => (None, Some(error)),
        };
        let opened = match unopened {
            Some(error) => Err(error),
            None => Ok(mirror.as_deref_mut()),
        };
        let verdict = compare(journal, opened, loss, visit)?;
        // The journal is created first, so even a log that never had an event has one.
        if missing && verdict.end.number == 0 && loss == Loss::Refused {
            return Err(OpenError::Damaged {
                sound: Seq::FIRST,
                what: "there is no journal, and sled holds no event".to_owned(),
            });
        }
        let Restored {
            journal,
            mirror,
            length,
            repairs,
        } = restore(disk.as_ref(), &verdict, mirror)?;
        let writer = Writer::at(verdict.header, verdict.end, journal, length, mirror);
        Ok((writer, repairs))
    }

    /// A writer whose log ends at `end`, in both copies.
    fn at(
        header: FileHeader,
        end: Link,
        journal: Box<dyn DiskFile>,
        length: u64,
        mirror: Box<dyn Mirror>,
    ) -> Writer {
        Writer {
            journal,
            unnamed: None,
            mirror,
            key: header.key(),
            header,
            length,
            durable: end,
            link: end,
            block: BlockWriter::new(),
            sealed: Vec::new(),
            sealed_bytes: 0,
            following: VecDeque::new(),
            mirror_dirty: false,
            refused: None,
        }
    }

    pub fn header(&self) -> &FileHeader {
        &self.header
    }

    /// The number of the first event that is not durable.
    pub fn head(&self) -> Seq {
        Seq::new(self.durable.seq)
    }

    /// The sequence number of the next event that is added.
    pub fn next(&self) -> Seq {
        Seq::new(self.link.seq.saturating_add(u64::from(self.block.count())))
    }

    /// Why nothing more is written, if so.
    pub fn refusal(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Bytes that were added but not written yet.
    pub fn waiting(&self) -> usize {
        self.sealed_bytes + self.block.len()
    }

    /// How many blocks the mirror lags behind.
    pub fn mirror_behind(&self) -> usize {
        self.following.len()
    }

    /// Adds an append in memory. It must begin at [`Writer::next`].
    pub fn add(&mut self, append: &EncodedAppend) {
        if append.size() > self.block.room() {
            self.seal();
        }
        let mut start = 0;
        for (index, event) in append.events.iter().enumerate() {
            let body = append.bodies.get(start..event.end).unwrap_or_default();
            start = event.end;
            let more = index + 1 < append.events.len();
            self.add_event(event, more, body);
        }
    }

    fn add_event(&mut self, event: &Encoded, more: bool, body: &[u8]) {
        let mut frame = Frame {
            form: event.form,
            time_ms: event.time_ms,
            first: true,
            last: true,
            more,
            body,
        };
        if HEADER + body.len() > self.block.room() {
            self.seal();
        }
        if HEADER + body.len() <= self.block.room() {
            self.block.push(&frame);
            return;
        }
        let mut parts = body.chunks(MAX_PAYLOAD - HEADER).peekable();
        frame.first = true;
        while let Some(part) = parts.next() {
            frame.last = parts.peek().is_none();
            frame.body = part;
            if HEADER + part.len() > self.block.room() {
                self.seal();
            }
            self.block.push(&frame);
            frame.first = false;
        }
    }

    fn seal(&mut self) {
        if self.block.is_empty() {
            return;
        }
        let (bytes, after) = self.block.seal(&self.link, self.durable.number, &self.key);
        self.link = after;
        self.sealed_bytes += bytes.len();
        self.sealed.push(Sealed { bytes, after });
    }

    /// Makes everything that was added durable in the journal.
    ///
    /// # Errors
    /// Everything added since the last commit is discarded.
    pub fn commit(&mut self) -> Result<(), Failure> {
        if let Some(why) = &self.refused {
            return Err(Failure::Refused(why.clone()));
        }
        self.seal();
        if self.sealed.is_empty() {
            return Ok(());
        }
        let mut group = Vec::with_capacity(self.sealed_bytes);
        for sealed in &self.sealed {
            group.extend_from_slice(&sealed.bytes);
        }
        if let Err(error) = write_full(self.journal.as_mut(), &group, self.length) {
            return Err(self.undo(&error));
        }
        if let Err(error) = self.journal.sync() {
            self.forget();
            return Err(self.refuse(format!("the journal could not be synced ({error})")));
        }
        if let Some(disk) = self.unnamed.take()
            && let Err(error) = disk.rename(NEW_JOURNAL, JOURNAL)
        {
            self.forget();
            let why = format!("`{NEW_JOURNAL}` could not be renamed to `{JOURNAL}` ({error})");
            return Err(self.refuse(why));
        }
        self.length += group.len() as u64;
        self.durable = self.link;
        self.sealed_bytes = 0;
        self.following.extend(self.sealed.drain(..));
        Ok(())
    }

    /// Cuts off a half-written group.
    fn undo(&mut self, error: &std::io::Error) -> Failure {
        self.forget();
        if let Err(cut) = self.journal.set_len(self.length) {
            return self.refuse(format!(
                "the journal could not be written ({error}), nor cut back ({cut})"
            ));
        }
        if is_full(error) {
            Failure::DiskFull
        } else {
            self.refuse(format!("the journal could not be written ({error})"))
        }
    }

    /// Discards what is not durable.
    fn forget(&mut self) {
        self.sealed.clear();
        self.sealed_bytes = 0;
        self.block = BlockWriter::new();
        self.link = self.durable;
    }

    fn refuse(&mut self, why: String) -> Failure {
        self.refused = Some(why.clone());
        Failure::Refused(why)
    }

    /// Copies durable blocks to the mirror; with `sync`, durably.
    pub fn follow(&mut self, sync: bool) -> Result<(), Failure> {
        if let Some(why) = &self.refused {
            return Err(Failure::Refused(why.clone()));
        }
        self.try_follow(sync)
            .map_err(|error| self.refuse(format!("sled could not be written ({error})")))
    }

    fn try_follow(&mut self, sync: bool) -> Result<(), MirrorError> {
        while !self.following.is_empty() {
            let batch: Vec<Sealed> = self
                .following
                .drain(..self.following.len().min(BATCH))
                .collect();
            let Some(last) = batch.last() else { break };
            let marker = HeadMarker {
                blocks: last.after.number,
                seq: Seq::new(last.after.seq),
            };
            let mut changes = vec![(MirrorKey::Head, Some(marker.to_bytes(&self.key)))];
            changes.extend(batch.into_iter().map(|sealed| {
                let number = sealed.after.number.saturating_sub(1);
                (MirrorKey::Block(number), Some(sealed.bytes))
            }));
            self.mirror.put(changes)?;
            self.mirror_dirty = true;
        }
        if sync && self.mirror_dirty {
            self.mirror.sync()?;
            self.mirror_dirty = false;
        }
        Ok(())
    }
}

/// Initializes a second copy with a file header and no event.
fn new_mirror(disk: &dyn Disk, header: &FileHeader) -> Result<Box<dyn Mirror>, MirrorError> {
    let mirror = disk.mirror(true)?;
    let mut mirror = mirror.ok_or_else(|| MirrorError::Failed("it was not created".to_owned()))?;
    let marker = HeadMarker {
        blocks: 0,
        seq: Seq::FIRST,
    };
    mirror.put(vec![
        (MirrorKey::FileHeader, Some(header.as_bytes().to_vec())),
        (MirrorKey::Head, Some(marker.to_bytes(&header.key()))),
    ])?;
    mirror.sync()?;
    Ok(mirror)
}

fn open_journal(disk: &dyn Disk) -> Result<Option<Box<dyn DiskFile>>, OpenError> {
    disk.open(JOURNAL)
        .map_err(|source| OpenError::disk("open", JOURNAL, source))
}

/// Checks on a copy of sled whether it holds a log.
///
/// # Errors
/// Those of [`compare`], and damage if it has no event.
fn look_at_sled(disk: &dyn Disk) -> Result<(), OpenError> {
    let journal = open_journal(disk)?;
    let mut copy = disk.mirror_to_read();
    let mirror = match &mut copy {
        Ok(mirror) => Ok(mirror.as_deref_mut()),
        Err(error) => Err(error.clone()),
    };
    let verdict = compare_only(journal, mirror, Loss::Refused)?;
    if verdict.end.number == 0 {
        return Err(OpenError::Damaged {
            sound: Seq::FIRST,
            what: "the journal has no event, and no event of sled can be read".to_owned(),
        });
    }
    Ok(())
}
