//! The bytes of a journal: a file header, then blocks, each chained to the one before.
//!
//! File header, [`FILE_HEADER`] bytes. It is the same in every format, so that a
//! newer format is not mistaken for damage:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | magic |
//! | 8 | 2 + 2 | format, major and minor |
//! | 12 | 4 | 0 |
//! | 16 | 16 | nonce of the log |
//! | 32 | 32 | version of tinygate that made it, UTF-8, padded with 0 |
//! | 64 | 96 | label: the run's name (cut off if longer), UTF-8, padded with 0 |
//! | 160 | 32 | BLAKE3 of bytes 0 to 160 |
//!
//! Block, at most [`MAX_BLOCK`] bytes:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 4 | magic |
//! | 4 | 32 | hash: keyed BLAKE3 of all that follows |
//! | 36 | 2 | length of the payload |
//! | 38 | 2 | 0 |
//! | 40 | 4 | CRC-32 of bytes 36 to 40 and 44 to 104 |
//! | 44 | 4 | events that end in it |
//! | 48 | 8 | number of the block, from 0 |
//! | 56 | 8 | sequence number of the event that its first frame belongs to |
//! | 64 | 8 | blocks that were durable when this one was made |
//! | 72 | 32 | hash of the block before; of the first: BLAKE3 of the file header |
//! | 104 | | payload: frames |
//!
//! The key is BLAKE3 of the file header, so a block of another log is not valid
//! in this one. Integers are little-endian.
//!
//! An append either fits into the rest of a block or begins a new one, so an
//! append that a crash left unfinished is removed in whole blocks.

use super::version::UnknownVersion;
use tinygate_events::Seq;
use tinygate_events::stored::frame::{self, Frame, FrameError};

pub const FILE_HEADER: usize = 192;
pub const MAX_BLOCK: usize = 8192;
pub const BLOCK_HEADER: usize = 104;
pub const MAX_PAYLOAD: usize = MAX_BLOCK - BLOCK_HEADER;

/// The format of file and blocks of this build.
pub const MAJOR: u16 = 1;
pub const MINOR: u16 = 0;

/// The first bytes of a log's file.
pub const FILE_MAGIC: [u8; 8] = *b"TGJRNL\x1a\n";
pub(super) const BLOCK_MAGIC: [u8; 4] = *b"TGBK";
/// Bytes of the file header that its hash covers.
const HASHED: usize = FILE_HEADER - 32;
const VERSION_BYTES: usize = 32;
const LABEL_BYTES: usize = 96;

pub type Hash = [u8; 32];

/// The header of a journal, which identifies its log and its format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHeader {
    bytes: [u8; FILE_HEADER],
}

/// Why bytes are not a valid file header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("the file ends after {found} bytes, within its header of {FILE_HEADER}")]
    Short { found: usize },
    #[error("it does not begin like a journal")]
    Magic,
    #[error("the file header does not give its own hash")]
    Hash,
    #[error("{0}")]
    NewerVersion(UnknownVersion),
}

impl FileHeader {
    /// The header of a new log. `nonce` distinguishes logs of the same name.
    pub fn new(run: &str, nonce: [u8; 16]) -> FileHeader {
        FileHeader::with_format(MAJOR, run, nonce)
    }

    fn with_format(major: u16, run: &str, nonce: [u8; 16]) -> FileHeader {
        let mut start = Vec::with_capacity(FILE_HEADER);
        start.extend(FILE_MAGIC);
        start.extend(major.to_le_bytes());
        start.extend(MINOR.to_le_bytes());
        start.extend([0; 4]);
        start.extend(nonce);
        start.extend(padded::<VERSION_BYTES>(env!("CARGO_PKG_VERSION")));
        start.extend(padded::<LABEL_BYTES>(run));
        let hash = blake3::hash(&start);
        start.extend(hash.as_bytes());
        let mut bytes = [0; FILE_HEADER];
        for (to, from) in bytes.iter_mut().zip(start) {
            *to = from;
        }
        FileHeader { bytes }
    }

    /// Reads the header at the start of a journal.
    pub fn read(bytes: &[u8]) -> Result<FileHeader, HeaderError> {
        let magic = bytes.get(..FILE_MAGIC.len()).unwrap_or(bytes);
        if !FILE_MAGIC.starts_with(magic) {
            return Err(HeaderError::Magic);
        }
        let Some(bytes) = bytes.first_chunk::<FILE_HEADER>() else {
            return Err(HeaderError::Short { found: bytes.len() });
        };
        let (start, hash) = bytes.split_at(HASHED);
        if blake3::hash(start).as_bytes() != hash {
            return Err(HeaderError::Hash);
        }
        let header = FileHeader { bytes: *bytes };
        // Only an intact header is trusted to state a version.
        let major = header.major();
        if major != MAJOR {
            return Err(HeaderError::NewerVersion(UnknownVersion {
                what: "log format".to_owned(),
                found: u32::from(major),
                known: u32::from(MAJOR),
                written_by: Some(header.written_by()),
            }));
        }
        Ok(header)
    }

    /// Whether `bytes`, which are shorter than a header, are the start of one in this build's
    /// format. Checks the magic, the format, the texts, and as much of the hash as is present.
    pub fn is_begun(bytes: &[u8]) -> bool {
        let begins = |from: usize, want: &[u8]| {
            let found = bytes.get(from..).unwrap_or_default();
            found.iter().zip(want).all(|(a, b)| a == b)
        };
        let is_text = |from: usize, to: usize| {
            let found = bytes.get(from..to.min(bytes.len())).unwrap_or_default();
            let end = found.iter().position(|byte| *byte == 0);
            let (text, padding) = found.split_at(end.unwrap_or(found.len()));
            // The last character may be incomplete.
            let valid = std::str::from_utf8(text).map_or_else(
                |error| error.error_len().is_none() && bytes.len() < to,
                |text| !text.chars().any(char::is_control),
            );
            valid && padding.iter().all(|byte| *byte == 0)
        };
        let mut format = [0; 8];
        for (to, from) in format
            .iter_mut()
            .zip(MAJOR.to_le_bytes().into_iter().chain(MINOR.to_le_bytes()))
        {
            *to = from;
        }
        let hash = bytes.get(..HASHED).map(blake3::hash);
        bytes.len() < FILE_HEADER
            && begins(0, &FILE_MAGIC)
            && begins(8, &format)
            && is_text(32, 64)
            && is_text(64, HASHED)
            && hash.is_none_or(|hash| begins(HASHED, hash.as_bytes()))
    }

    /// The header that differs from `bytes` in one byte and matches its own hash, if one
    /// exists. Tries about ten thousand candidates.
    pub fn corrected(bytes: &[u8]) -> Option<[u8; FILE_HEADER]> {
        let mut bytes = *bytes.first_chunk::<FILE_HEADER>()?;
        let (start, hash) = bytes.split_at(HASHED);
        let computed = *blake3::hash(start).as_bytes();
        let wrong = hash.iter().zip(&computed).filter(|(a, b)| a != b);
        if wrong.count() == 1 {
            bytes[HASHED..].copy_from_slice(&computed);
            return Some(bytes);
        }
        for at in 0..HASHED {
            let damaged = bytes[at];
            for byte in 0..=u8::MAX {
                bytes[at] = byte;
                let (start, hash) = bytes.split_at(HASHED);
                if blake3::hash(start).as_bytes() == hash {
                    return Some(bytes);
                }
            }
            bytes[at] = damaged;
        }
        None
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn major(&self) -> u16 {
        u16::from_le_bytes([self.bytes[8], self.bytes[9]])
    }

    /// Version of tinygate that created the log.
    pub fn written_by(&self) -> String {
        text(&self.bytes[32..64])
    }

    /// The run's name, truncated to 96 bytes.
    pub fn label(&self) -> String {
        text(&self.bytes[64..160])
    }

    pub(super) fn key(&self) -> Hash {
        *blake3::hash(&self.bytes).as_bytes()
    }
}

/// `text` in `N` bytes, truncated between characters.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut at = 0;
    for character in text.chars() {
        let end = at + character.len_utf8();
        let Some(place) = bytes.get_mut(at..end) else {
            break;
        };
        character.encode_utf8(place);
        at = end;
    }
    bytes
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .trim_end_matches('\0')
        .to_owned()
}

/// A position in the chain: what the next block must match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Number of the next block, which is also the number of blocks before it.
    pub number: u64,
    /// Sequence number of the event at the start of the next block.
    pub seq: u64,
    /// Hash of the previous block.
    pub hash: Hash,
}

impl Link {
    pub fn start(key: &Hash) -> Link {
        Link {
            number: 0,
            seq: 0,
            hash: *key,
        }
    }
}

/// A block with a valid hash, borrowed from the bytes that hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    pub number: u64,
    pub first: u64,
    pub count: u32,
    /// Blocks that were durable when this one was written.
    pub durable: u64,
    pub previous: Hash,
    pub hash: Hash,
    /// The whole block.
    pub bytes: &'a [u8],
}

/// Why bytes are not a valid block, or not the next one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error("the block ends after {found} of {needed} bytes")]
    Short { needed: usize, found: usize },
    #[error("no block begins here")]
    Magic,
    #[error("the block's header does not give its checksum")]
    Header,
    #[error("the block does not give its own hash")]
    Hash,
    #[error("found block {found} where block {expected} should be")]
    Number { expected: u64, found: u64 },
    #[error("block {number} continues with event {found}, expected {expected}")]
    First {
        number: u64,
        expected: u64,
        found: u64,
    },
    #[error("block {number} is not chained to the previous block")]
    Chain { number: u64 },
    #[error("block {number} states that {count} events end in it, but {found} do")]
    Count { number: u64, count: u32, found: u64 },
    #[error("block {number}: {error}")]
    Frame { number: u64, error: FrameError },
}

impl<'a> Block<'a> {
    /// Reads the block at the start of `bytes` and checks its hash.
    pub fn read(bytes: &'a [u8], key: &Hash) -> Result<Block<'a>, BlockError> {
        let length = block_length(bytes)?;
        let Some(whole) = bytes.get(..length) else {
            return Err(BlockError::Short {
                needed: length,
                found: bytes.len(),
            });
        };
        let mut fields = Fields(whole.get(4..).unwrap_or_default());
        let hash: Hash = fields.take();
        if block_hash(whole, key) != hash {
            return Err(BlockError::Hash);
        }
        let _length_and_checksum: [u8; 8] = fields.take();
        let count = u32::from_le_bytes(fields.take());
        let number = u64::from_le_bytes(fields.take());
        let first = u64::from_le_bytes(fields.take());
        let durable = u64::from_le_bytes(fields.take());
        let previous = fields.take();
        Ok(Block {
            number,
            first,
            count,
            durable,
            previous,
            hash,
            bytes: whole,
        })
    }

    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(BLOCK_HEADER..).unwrap_or_default()
    }

    /// Checks that the block is the next one.
    pub fn follows(&self, link: &Link) -> Result<(), BlockError> {
        if self.number != link.number {
            return Err(BlockError::Number {
                expected: link.number,
                found: self.number,
            });
        }
        if self.previous != link.hash {
            return Err(BlockError::Chain {
                number: self.number,
            });
        }
        if self.first != link.seq {
            return Err(BlockError::First {
                number: self.number,
                expected: link.seq,
                found: self.first,
            });
        }
        Ok(())
    }

    /// The position after this block.
    pub fn link(&self) -> Link {
        Link {
            number: self.number.saturating_add(1),
            seq: self.first.saturating_add(u64::from(self.count)),
            hash: self.hash,
        }
    }

    /// Checks every frame's checksum and the count of events. Returns whether an append
    /// ends with the block.
    pub fn check_frames(&self) -> Result<bool, BlockError> {
        let number = self.number;
        let mut rest = self.payload();
        let (mut found, mut closed) = (0, false);
        while !rest.is_empty() {
            let (frame, after) =
                Frame::read(rest).map_err(|error| BlockError::Frame { number, error })?;
            found += u64::from(frame.last);
            closed = frame.closes();
            rest = after;
        }
        if found != u64::from(self.count) {
            return Err(BlockError::Count {
                number,
                count: self.count,
                found,
            });
        }
        Ok(closed)
    }
}

impl BlockError {
    /// The version that this build does not know, if that is the reason.
    pub fn newer(&self) -> Option<(u32, u32)> {
        match self {
            BlockError::Frame {
                error: FrameError::NewerVersion { found, known },
                ..
            } => Some((*found, *known)),
            BlockError::Short { .. }
            | BlockError::Magic
            | BlockError::Header
            | BlockError::Hash
            | BlockError::Number { .. }
            | BlockError::First { .. }
            | BlockError::Chain { .. }
            | BlockError::Count { .. }
            | BlockError::Frame { .. } => None,
        }
    }
}

/// Takes fixed-size parts off the front. Returns zeros past the end; callers check the
/// length first.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((part, rest)) => {
                self.0 = rest;
                *part
            }
            None => [0; N],
        }
    }
}

/// Length of the block at the start of `bytes`, if its header is intact.
fn block_length(bytes: &[u8]) -> Result<usize, BlockError> {
    let Some(header) = bytes.first_chunk::<BLOCK_HEADER>() else {
        return Err(BlockError::Short {
            needed: BLOCK_HEADER,
            found: bytes.len(),
        });
    };
    if header.first_chunk() != Some(&BLOCK_MAGIC) {
        return Err(BlockError::Magic);
    }
    let payload = usize::from(u16::from_le_bytes([header[36], header[37]]));
    let sum = u32::from_le_bytes([header[40], header[41], header[42], header[43]]);
    if sum != header_checksum(header)
        || header[38..40] != [0, 0]
        || !(frame::HEADER..=MAX_PAYLOAD).contains(&payload)
    {
        return Err(BlockError::Header);
    }
    Ok(BLOCK_HEADER + payload)
}

fn header_checksum(header: &[u8; BLOCK_HEADER]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[36..40]);
    hasher.update(&header[44..]);
    hasher.finalize()
}

fn block_hash(block: &[u8], key: &Hash) -> Hash {
    *blake3::keyed_hash(key, block.get(36..).unwrap_or_default()).as_bytes()
}

/// A block that is being filled.
#[derive(Clone, Debug)]
pub struct BlockWriter {
    bytes: Vec<u8>,
    count: u32,
}

impl BlockWriter {
    pub fn new() -> BlockWriter {
        let mut bytes = Vec::with_capacity(MAX_BLOCK);
        bytes.resize(BLOCK_HEADER, 0);
        BlockWriter { bytes, count: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.len() == BLOCK_HEADER
    }

    /// Events that end in it so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of frames so far.
    pub fn len(&self) -> usize {
        self.bytes.len().saturating_sub(BLOCK_HEADER)
    }

    /// Bytes that are left for frames.
    pub fn room(&self) -> usize {
        MAX_BLOCK.saturating_sub(self.bytes.len())
    }

    /// Adds a frame. It must fit.
    pub fn push(&mut self, frame: &Frame<'_>) {
        frame.write(&mut self.bytes);
        self.count += u32::from(frame.last);
    }

    /// Seals the block at its position in the chain and empties the writer. Returns the
    /// block's bytes and the position after it.
    pub fn seal(&mut self, link: &Link, durable: u64, key: &Hash) -> (Vec<u8>, Link) {
        let BlockWriter { mut bytes, count } = std::mem::replace(self, BlockWriter::new());
        let mut header = [0; BLOCK_HEADER];
        header[..4].copy_from_slice(&BLOCK_MAGIC);
        // At most MAX_PAYLOAD.
        let payload = (bytes.len() - BLOCK_HEADER) as u16;
        header[36..38].copy_from_slice(&payload.to_le_bytes());
        header[44..48].copy_from_slice(&count.to_le_bytes());
        header[48..56].copy_from_slice(&link.number.to_le_bytes());
        header[56..64].copy_from_slice(&link.seq.to_le_bytes());
        header[64..72].copy_from_slice(&durable.to_le_bytes());
        header[72..].copy_from_slice(&link.hash);
        let sum = header_checksum(&header);
        header[40..44].copy_from_slice(&sum.to_le_bytes());
        bytes[..BLOCK_HEADER].copy_from_slice(&header);
        let hash = block_hash(&bytes, key);
        bytes[4..36].copy_from_slice(&hash);
        let after = Link {
            number: link.number + 1,
            seq: link.seq + u64::from(count),
            hash,
        };
        (bytes, after)
    }
}

/// The head of the log, stored with the blocks in sled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadMarker {
    pub blocks: u64,
    pub seq: Seq,
}

impl HeadMarker {
    pub fn to_bytes(self, key: &Hash) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(48);
        bytes.extend(self.blocks.to_le_bytes());
        bytes.extend(self.seq.get().to_le_bytes());
        let hash = blake3::keyed_hash(key, &bytes);
        bytes.extend(hash.as_bytes());
        bytes
    }

    /// Whether `bytes` are the marker of any log without an event.
    pub fn is_of_no_event(bytes: &[u8]) -> bool {
        bytes.len() == 48 && bytes.iter().take(16).all(|byte| *byte == 0)
    }

    /// `None` if `bytes` are not a marker of this log.
    pub fn read(bytes: &[u8], key: &Hash) -> Option<HeadMarker> {
        let (start, hash) = bytes.split_at_checked(16)?;
        if blake3::keyed_hash(key, start).as_bytes() != hash {
            return None;
        }
        let mut fields = Fields(start);
        Some(HeadMarker {
            blocks: u64::from_le_bytes(fields.take()),
            seq: Seq::new(u64::from_le_bytes(fields.take())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygate_events::stored::Form;

    fn one_block(link: &Link, key: &Hash, more: bool) -> (Vec<u8>, Link) {
        let mut writer = BlockWriter::new();
        writer.push(&Frame {
            form: Form {
                kind: 112,
                version: 1,
            },
            time_ms: 5,
            first: true,
            last: true,
            more,
            body: &[1, 0, 0, 0],
        });
        writer.seal(link, 0, key)
    }

    #[test]
    fn a_sealed_block_reads_back() {
        let key = FileHeader::new("r", [1; 16]).key();
        let (bytes, after) = one_block(&Link::start(&key), &key, false);
        let block = Block::read(&bytes, &key).unwrap();
        assert_eq!(block.follows(&Link::start(&key)), Ok(()));
        assert_eq!(block.check_frames(), Ok(true));
        assert_eq!(block.link(), after);
        let (second, _) = one_block(&after, &key, true);
        let second = Block::read(&second, &key).unwrap();
        assert_eq!(second.check_frames(), Ok(false));
        assert!(second.follows(&Link::start(&key)).is_err());
    }

    #[test]
    fn a_block_only_follows_its_predecessor() {
        let key = FileHeader::new("r", [1; 16]).key();
        let (_, link) = one_block(&Link::start(&key), &key, false);
        let (bytes, _) = one_block(&link, &key, false);
        let block = Block::read(&bytes, &key).unwrap();
        assert_eq!(block.follows(&link), Ok(()));
        let mut other = link;
        other.hash[0] ^= 1;
        assert_eq!(block.follows(&other), Err(BlockError::Chain { number: 1 }));
        for (seq, number) in [(0, 1), (2, 1), (1, 0), (1, 2)] {
            let other = Link {
                number,
                seq,
                ..link
            };
            let error = if number == 1 {
                BlockError::First {
                    number: 1,
                    expected: seq,
                    found: 1,
                }
            } else {
                BlockError::Number {
                    expected: number,
                    found: 1,
                }
            };
            assert_eq!(block.follows(&other), Err(error));
        }
    }

    /// Otherwise a log whose last block has a damaged, longer length would look as if it
    /// ended in an unfinished write, and would lose that block silently.
    #[test]
    fn a_damaged_length_is_not_an_unfinished_write() {
        let key = FileHeader::new("r", [1; 16]).key();
        let (mut bytes, _) = one_block(&Link::start(&key), &key, false);
        bytes[37] ^= 0x10;
        assert_eq!(Block::read(&bytes, &key), Err(BlockError::Header));
    }

    #[test]
    fn every_flipped_bit_of_a_block_is_detected() {
        let key = FileHeader::new("r", [1; 16]).key();
        let (bytes, _) = one_block(&Link::start(&key), &key, false);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Block::read(&damaged, &key).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_head_marker_reads_back_or_is_rejected() {
        let key = FileHeader::new("r", [1; 16]).key();
        let marker = HeadMarker {
            blocks: 3,
            seq: Seq::new(9),
        };
        let bytes = marker.to_bytes(&key);
        assert_eq!(HeadMarker::read(&bytes, &key), Some(marker));
        let other = FileHeader::new("r", [2; 16]).key();
        assert_eq!(HeadMarker::read(&bytes, &other), None);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(HeadMarker::read(&damaged, &key), None, "bit {bit}");
        }
    }

    #[test]
    fn a_block_of_another_log_is_rejected() {
        let ours = FileHeader::new("r", [1; 16]).key();
        let other = FileHeader::new("r", [2; 16]).key();
        let (bytes, _) = one_block(&Link::start(&other), &other, false);
        assert_eq!(Block::read(&bytes, &ours), Err(BlockError::Hash));
    }

    #[test]
    fn file_headers() {
        let header = FileHeader::new(&"é".repeat(80), [7; 16]);
        assert_eq!(header.label(), "é".repeat(48));
        assert_eq!(header.written_by(), env!("CARGO_PKG_VERSION"));
        assert_eq!(FileHeader::read(header.as_bytes()).as_ref(), Ok(&header));
        for bit in 0..FILE_HEADER * 8 {
            let mut damaged = header.bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(
                FileHeader::read(&damaged),
                Err(HeaderError::Magic | HeaderError::Hash)
            ));
        }
        let newer = FileHeader::with_format(2, "r", [0; 16]);
        assert!(matches!(
            FileHeader::read(newer.as_bytes()),
            Err(HeaderError::NewerVersion(UnknownVersion {
                found: 2,
                known: 1,
                ..
            }))
        ));
    }
}
