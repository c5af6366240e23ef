//! Reads a log without a lock: an exported file, or the journal of a run,
//! also while another process writes it.
//!
//! Events are returned in order, once their append is complete. Reading stops at the
//! first fault and reports its position. Memory is bounded by the largest append.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;

use super::append::Append;
use super::block::{Block, BlockError, FILE_HEADER, FileHeader, Hash, HeaderError, Link};
use super::disk::{DiskFile, JOURNAL};
use super::error::{ReadError, ReadErrorKind};
use super::journal::{Seen, Window};
use super::real_file::RealFile;
use super::version::UnknownVersion;
use tinygate_events::stored::StoredError;
use tinygate_events::stored::frame::{Frame, FrameError, StoredEvent};
use tinygate_events::{Record, Seq};

/// A log that is read from its start.
pub struct LogFile {
    window: Window,
    header: FileHeader,
}

/// Bytes after the last complete append: an append in progress or an unfinished one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    pub offset: u64,
    /// Bytes from there to the end of the file.
    pub bytes: u64,
}

impl LogFile {
    /// Opens an exported file or a run directory.
    ///
    /// # Errors
    /// [`ReadErrorKind::NotALog`], [`ReadErrorKind::Empty`] for a file of 0
    /// bytes, [`ReadErrorKind::NewerVersion`], or damage of the file header.
    pub fn open(path: &Path) -> Result<LogFile, ReadError> {
        let path = if path.is_dir() {
            path.join(JOURNAL)
        } else {
            path.to_owned()
        };
        let file = File::open(&path).map_err(|error| {
            at_start(if error.kind() == io::ErrorKind::NotFound {
                ReadErrorKind::NotALog {
                    what: format!("`{}` does not exist", path.display()),
                }
            } else {
                ReadErrorKind::Io(error)
            })
        })?;
        LogFile::new(Box::new(RealFile(file)))
    }

    /// Opens the journal in `file`.
    pub fn new(file: Box<dyn DiskFile>) -> Result<LogFile, ReadError> {
        let mut window = Window::new(file);
        let bytes = window
            .header()
            .map_err(|error| at_start(ReadErrorKind::Io(error)))?;
        if bytes.is_empty() {
            return Err(at_start(ReadErrorKind::Empty));
        }
        let header = FileHeader::read(bytes).map_err(|error| {
            at_start(match error {
                HeaderError::NewerVersion(found) => ReadErrorKind::NewerVersion(found),
                HeaderError::Magic => ReadErrorKind::NotALog {
                    what: error.to_string(),
                },
                HeaderError::Short { .. } | HeaderError::Hash => ReadErrorKind::Damaged {
                    what: error.to_string(),
                },
            })
        })?;
        Ok(LogFile { window, header })
    }

    /// Whether a file begins with a header and a complete append. Returns the file too.
    pub(super) fn starts_with_append(mut window: Window) -> (bool, Box<dyn DiskFile>) {
        let header = window.header().map(FileHeader::read);
        let Ok(Ok(header)) = header else {
            return (false, window.into_file());
        };
        let mut records = LogFile { window, header }.records();
        let found = matches!(records.next_append(), Ok(Some(_)));
        (found, records.window.into_file())
    }

    pub fn header(&self) -> &FileHeader {
        &self.header
    }

    /// Every event from the start.
    pub fn records(self) -> LogRecords {
        let key = self.header.key();
        LogRecords {
            window: self.window,
            header: self.header,
            link: Link::start(&key),
            key,
            offset: FILE_HEADER as u64,
            ready: VecDeque::new(),
            failed: None,
            ended: false,
        }
    }
}

fn at_start(kind: ReadErrorKind) -> ReadError {
    ReadError {
        seq: Seq::FIRST,
        offset: 0,
        kind,
    }
}

/// The events of a log. `None` means that there are no more yet; the next call checks
/// whether the file has grown. After an error it stays `None`.
pub struct LogRecords {
    window: Window,
    header: FileHeader,
    key: Hash,
    /// After the last complete append.
    link: Link,
    offset: u64,
    ready: VecDeque<Record>,
    /// The position after the events in `ready`.
    failed: Option<ReadError>,
    ended: bool,
}

impl LogRecords {
    /// The bytes after the last event, if they are not an event yet.
    pub fn tail(&self) -> Result<Option<Tail>, ReadError> {
        let length = self.window.len().map_err(|error| self.io(error))?;
        Ok((length > self.offset).then(|| Tail {
            offset: self.offset,
            bytes: length - self.offset,
        }))
    }

    /// Sequence number of the first event of the next append.
    pub fn next_seq(&self) -> Seq {
        Seq::new(self.link.seq)
    }

    /// Offset after the last complete append that was read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Skips to the append that holds `seq` without decoding the events before it. Every
    /// block is still checked. Earlier events of the same append are returned too.
    pub fn skip_to(&mut self, seq: Seq) -> Result<(), ReadError> {
        loop {
            let (link, offset) = (self.link, self.offset);
            match self.next_append()? {
                Some(_) if self.link.seq > seq.get() => {
                    (self.link, self.offset) = (link, offset);
                    return Ok(());
                }
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    /// Calls `visit` with every event in its stored form, without decoding it. Returns at
    /// the end of the log or at its first fault.
    ///
    /// # Errors
    /// Also those of `visit`, reported as damage of the event's kind.
    pub fn visit_stored(
        &mut self,
        mut visit: impl FnMut(Seq, &StoredEvent<'_>) -> Result<(), StoredError>,
    ) -> Result<(), ReadError> {
        loop {
            let offset = self.offset;
            let Some(append) = self.next_append()? else {
                return Ok(());
            };
            let visited = append.each_event(&mut visit);
            visited.map_err(|(seq, error)| self.fault(seq, offset, error))?;
        }
    }

    /// The next blocks up to the end of an append; `None` if the log ends here so far.
    fn next_append(&mut self) -> Result<Option<Append>, ReadError> {
        let (mut link, mut offset) = (self.link, self.offset);
        let mut append = Append::new(link.seq);
        loop {
            let seen = self.window.see(offset, &self.key);
            let block = match seen {
                Ok(Seen::Block(block)) => block,
                Ok(Seen::End | Seen::Torn) => {
                    self.window.forget();
                    return Ok(None);
                }
                Ok(Seen::Damaged(error)) => {
                    return Err(damaged(&self.header, &self.link, offset, &error));
                }
                Err(error) => return Err(self.io(error)),
            };
            let closed = block
                .follows(&link)
                .and_then(|()| ends_append(&block))
                .map_err(|error| damaged(&self.header, &self.link, offset, &error))?;
            append.push(&block);
            link = block.link();
            offset += block.bytes.len() as u64;
            if closed {
                (self.link, self.offset) = (link, offset);
                return Ok(Some(append));
            }
            append
                .check_size()
                .map_err(|(seq, error)| self.fault(seq, offset, error))?;
        }
    }

    fn fill(&mut self) -> Result<(), ReadError> {
        let offset = self.offset;
        let Some(append) = self.next_append()? else {
            return Ok(());
        };
        let ready = &mut self.ready;
        let read = append.each_event(|seq, stored| {
            ready.push_back(Record {
                seq,
                time_ms: stored.time_ms,
                event: stored.decode()?,
            });
            Ok(())
        });
        read.map_err(|(seq, error)| self.fault(seq, offset, error))
    }

    fn fault(&self, seq: Seq, offset: u64, error: FrameError) -> ReadError {
        ReadError {
            seq,
            offset,
            kind: frame_fault(&self.header, error),
        }
    }

    fn io(&self, error: io::Error) -> ReadError {
        ReadError {
            seq: Seq::new(self.link.seq),
            offset: self.offset,
            kind: ReadErrorKind::Io(error),
        }
    }
}

impl Iterator for LogRecords {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Result<Record, ReadError>> {
        if self.ready.is_empty() && self.failed.is_none() && !self.ended {
            self.failed = self.fill().err();
        }
        if let Some(record) = self.ready.pop_front() {
            return Some(Ok(record));
        }
        let error = self.failed.take()?;
        self.ended = true;
        Some(Err(error))
    }
}

/// Decodes records from the blocks of a log that the caller reads in order.
///
/// Like [`LogRecords`], it stops with an error at an event that cannot be decoded.
pub(super) struct RecordFeed<F> {
    visit: F,
    append: Append,
    /// Where the append and the next block begin in an intact journal.
    begun: u64,
    offset: u64,
    ended: bool,
}

impl<F: FnMut(Result<Record, ReadError>)> RecordFeed<F> {
    pub fn new(visit: F) -> RecordFeed<F> {
        RecordFeed {
            visit,
            append: Append::new(0),
            begun: FILE_HEADER as u64,
            offset: FILE_HEADER as u64,
            ended: false,
        }
    }

    /// Takes the next block; `closed` is whether an append ends with it.
    pub fn push(&mut self, header: &FileHeader, block: &Block<'_>, closed: bool) {
        if self.ended {
            return;
        }
        if self.append.is_empty() {
            self.append = Append::new(block.first);
            self.begun = self.offset;
        }
        self.append.push(block);
        self.offset += block.bytes.len() as u64;
        let visit = &mut self.visit;
        let read = if closed {
            let append = std::mem::replace(&mut self.append, Append::new(0));
            append.each_event(|seq, stored| {
                visit(Ok(Record {
                    seq,
                    time_ms: stored.time_ms,
                    event: stored.decode()?,
                }));
                Ok(())
            })
        } else {
            self.append.check_size()
        };
        if let Err((seq, error)) = read {
            self.ended = true;
            visit(Err(ReadError {
                seq,
                offset: self.begun,
                kind: frame_fault(header, error),
            }));
        }
    }
}

/// Whether an append ends with the block. The checksums of its frames are only checked
/// when they are read.
fn ends_append(block: &Block<'_>) -> Result<bool, BlockError> {
    let mut rest = block.payload();
    let (mut events, mut closed) = (0, false);
    while !rest.is_empty() {
        let Some((frame, after)) = Frame::skim(rest) else {
            return block.check_frames();
        };
        events += u32::from(frame.last);
        closed = frame.closes();
        rest = after;
    }
    if events == block.count {
        Ok(closed)
    } else {
        block.check_frames()
    }
}

fn damaged(header: &FileHeader, link: &Link, offset: u64, error: &BlockError) -> ReadError {
    let kind = match error.newer() {
        Some((found, known)) => newer(header, "frame format".to_owned(), found, known),
        None => ReadErrorKind::Damaged {
            what: error.to_string(),
        },
    };
    ReadError {
        seq: Seq::new(link.seq),
        offset,
        kind,
    }
}

fn frame_fault(header: &FileHeader, error: FrameError) -> ReadErrorKind {
    match error {
        FrameError::NewerVersion { found, known } => {
            newer(header, "frame format".to_owned(), found, known)
        }
        FrameError::Stored(StoredError::NewerVersion { what, found, known }) => {
            newer(header, what, found, known)
        }
        error @ (FrameError::Short { .. }
        | FrameError::Checksum { .. }
        | FrameError::Malformed(_)
        | FrameError::TooLarge { .. }
        | FrameError::Stored(_)) => ReadErrorKind::Damaged {
            what: error.to_string(),
        },
    }
}

/// The header names the build that created the log; a later one may have continued it.
fn newer(header: &FileHeader, what: String, found: u32, known: u32) -> ReadErrorKind {
    let written_by = header.written_by();
    ReadErrorKind::NewerVersion(UnknownVersion {
        what,
        found,
        known,
        written_by: (written_by != env!("CARGO_PKG_VERSION")).then_some(written_by),
    })
}
