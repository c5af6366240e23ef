//! Appends to the journal, and lets the mirror follow.
//!
//! The order is fixed: blocks are written to the journal, then synced, then
//! acknowledged, then put into the mirror. [`Writer`] has no thread and no
//! clock; [`super::Store`] gives it both, a simulation neither.
//!
//! Invariant: up to `length` the journal is whole. A write that fails is cut
//! off again; after a sync that fails nothing is written any more, for nobody
//! knows what the disk holds.

use std::collections::VecDeque;
use std::sync::Arc;

use super::block::{BlockWriter, FILE_HEADER, FileHeader, Hash, HeadMarker, Link, MAX_PAYLOAD};
use super::disk::{
    Disk, DiskFile, JOURNAL, Mirror, MirrorError, MirrorKey, NEW_JOURNAL, SLED, is_full, write_full,
};
use super::error::{AppendError, OpenError, Repair};
use super::presence::{Presence, journal_is_bare, presence_on};
use super::recover::{BATCH, Loss, compare, quarantine_name, restore};
use crate::events::stored::frame::{Frame, HEADER};
use crate::events::stored::{Form, MAX_BODY, encode_into};
use crate::events::{Event, Seq};

/// The events of one append in their stored form.
#[derive(Clone, Debug)]
pub struct Unit {
    first: Seq,
    events: Vec<Encoded>,
    bodies: Vec<u8>,
    decision: bool,
}

#[derive(Clone, Copy, Debug)]
struct Encoded {
    form: Form,
    time_ms: u64,
    /// Where its body ends.
    end: usize,
}

impl Unit {
    /// Encodes events that are to begin at `first`.
    pub fn encode(first: Seq, events: &[(u64, Event)]) -> Result<Unit, AppendError> {
        let mut unit = Unit {
            first,
            events: Vec::with_capacity(events.len()),
            bodies: Vec::new(),
            decision: false,
        };
        for (index, (time_ms, event)) in events.iter().enumerate() {
            let form = encode_into(event, &mut unit.bodies).map_err(|source| {
                let seq = Seq::new(first.get().saturating_add(index as u64));
                AppendError::NotStorable { seq, source }
            })?;
            unit.decision |= event.is_decision();
            let end = unit.bodies.len();
            unit.events.push(Encoded {
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
        Ok(unit)
    }

    pub fn first(&self) -> Seq {
        self.first
    }

    pub fn len(&self) -> u64 {
        self.events.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Bytes that it holds.
    pub fn size(&self) -> usize {
        self.bodies.len() + self.events.len() * HEADER
    }

    /// Whether it holds a decision, so that the mirror is to be synced after it.
    pub fn has_decision(&self) -> bool {
        self.decision
    }
}

/// Why the log takes nothing at present, or ever again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// What was not durable is gone; appends may go on once there is space.
    DiskFull,
    /// Nothing is written any more.
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
    /// Set until the journal has its name, which it gets with its first event inside.
    unnamed: Option<Arc<dyn Disk>>,
    mirror: Box<dyn Mirror>,
    header: FileHeader,
    key: Hash,
    /// Bytes of the journal that are whole and durable.
    length: u64,
    durable: Link,
    /// After the sealed blocks.
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
    /// Makes the log of a new run. Until its first commit it has no journal by name, so a
    /// process that ends before leaves no log.
    ///
    /// # Errors
    /// [`OpenError::Exists`] where there is a log, sound or damaged.
    pub fn create(disk: &Arc<dyn Disk>, run: &str, nonce: [u8; 16]) -> Result<Writer, OpenError> {
        let error = |source| OpenError::disk("write", NEW_JOURNAL, source);
        if presence_on(disk.as_ref())? == Presence::Log {
            return Err(OpenError::Exists);
        }
        // what an unfinished start left of sled may not open
        let name = quarantine_name(disk.as_ref(), "sled")?;
        disk.set_mirror_aside(&name)
            .map_err(|source| OpenError::rename(SLED, &name, source))?;
        let header = FileHeader::new(run, nonce);
        let key = header.key();
        let mut journal = disk.create(NEW_JOURNAL).map_err(error)?;
        write_full(journal.as_mut(), header.as_bytes(), 0).map_err(error)?;
        let mirror = new_mirror(disk.as_ref(), &header).map_err(OpenError::sled)?;
        Ok(Writer {
            journal,
            unnamed: Some(Arc::clone(disk)),
            mirror,
            length: FILE_HEADER as u64,
            durable: Link::start(&key),
            link: Link::start(&key),
            key,
            header,
            block: BlockWriter::new(),
            sealed: Vec::new(),
            sealed_bytes: 0,
            following: VecDeque::new(),
            mirror_dirty: false,
            refused: None,
        })
    }

    /// Opens a log: compares both copies and puts right what can be.
    ///
    /// # Errors
    /// Where nothing is chosen or repaired, nothing was changed.
    pub fn open(disk: &Arc<dyn Disk>) -> Result<(Writer, Vec<Repair>), OpenError> {
        Writer::open_with(disk, Loss::Refused)
    }

    /// As [`Writer::open`], also giving up what cannot be put right, if `loss` says so.
    pub(super) fn open_with(
        disk: &Arc<dyn Disk>,
        loss: Loss,
    ) -> Result<(Writer, Vec<Repair>), OpenError> {
        let journal = disk
            .open(JOURNAL)
            .map_err(|source| OpenError::disk("open", JOURNAL, source))?;
        let missing = journal.is_none();
        presence_on(disk.as_ref())?.expect_log()?;
        if loss == Loss::Refused && journal_is_bare(disk.as_ref())? {
            // sled may be the only copy, and drops what is damaged in it when it is opened
            look_at_sled(disk.as_ref(), journal)?;
        }
        let journal = disk
            .open(JOURNAL)
            .map_err(|source| OpenError::disk("open", JOURNAL, source))?;
        let (mut mirror, unopened) = match disk.mirror(false) {
            Ok(mirror) => (mirror, None),
            Err(error) => (None, Some(error)),
        };
        let compared = compare(
            journal,
            match unopened {
                Some(error) => Err(error),
                None => Ok(mirror.as_deref_mut()),
            },
            loss,
        )?;
        // the journal is made first: a log that never had an event has one
        if missing && compared.end.number == 0 && loss == Loss::Refused {
            return Err(OpenError::Damaged {
                sound: Seq::FIRST,
                what: "there is no journal, and sled holds no event".to_owned(),
            });
        }
        let restored = restore(disk.as_ref(), &compared, mirror)?;
        let writer = Writer {
            journal: restored.journal,
            unnamed: None,
            mirror: restored.mirror,
            key: compared.header.key(),
            header: compared.header,
            length: restored.length,
            durable: compared.end,
            link: compared.end,
            block: BlockWriter::new(),
            sealed: Vec::new(),
            sealed_bytes: 0,
            following: VecDeque::new(),
            mirror_dirty: false,
            refused: None,
        };
        Ok((writer, restored.repairs))
    }

    pub fn header(&self) -> &FileHeader {
        &self.header
    }

    /// The next event to be durable.
    pub fn head(&self) -> Seq {
        Seq::new(self.durable.seq)
    }

    /// The sequence number that the next event added gets.
    pub fn next(&self) -> Seq {
        Seq::new(self.link.seq.saturating_add(u64::from(self.block.count())))
    }

    /// Why nothing is written any more, if so.
    pub fn refusal(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Bytes added and not yet written.
    pub fn waiting(&self) -> usize {
        self.sealed_bytes + self.block.len()
    }

    /// Blocks that the mirror is behind by.
    pub fn mirror_behind(&self) -> usize {
        self.following.len()
    }

    /// Takes a unit into memory. It must begin at [`Writer::next`].
    pub fn add(&mut self, unit: &Unit) {
        if unit.size() > self.block.room() {
            self.seal();
        }
        let mut start = 0;
        for (index, event) in unit.events.iter().enumerate() {
            let body = unit.bodies.get(start..event.end).unwrap_or_default();
            start = event.end;
            let more = index + 1 < unit.events.len();
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

    /// Makes everything added durable in the journal.
    ///
    /// # Errors
    /// Then nothing added since the last commit is kept.
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

    /// Cuts a half-written group off again.
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

    /// Drops what is not durable.
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

    /// Brings the mirror up to what is durable; with `sync`, durably.
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

/// A second copy with a file header and no event.
fn new_mirror(disk: &dyn Disk, header: &FileHeader) -> Result<Box<dyn Mirror>, MirrorError> {
    let mirror = disk.mirror(true)?;
    let mut mirror = mirror.ok_or_else(|| MirrorError::Failed("it was not made".to_owned()))?;
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

/// Finds out on a copy of sled whether it gives a log.
///
/// # Errors
/// Those of [`compare`], and damage where it has no event after all.
fn look_at_sled(disk: &dyn Disk, journal: Option<Box<dyn DiskFile>>) -> Result<(), OpenError> {
    let mut copy = disk.mirror_to_read();
    let mirror = match &mut copy {
        Ok(mirror) => Ok(mirror.as_deref_mut()),
        Err(error) => Err(error.clone()),
    };
    let compared = compare(journal, mirror, Loss::Refused)?;
    if compared.end.number == 0 {
        return Err(OpenError::Damaged {
            sound: Seq::FIRST,
            what: "the journal has no event, and no event of sled can be read".to_owned(),
        });
    }
    Ok(())
}
