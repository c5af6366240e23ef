//! The header before every stored body, read and written by hand.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 1 + 1 | format, major and minor |
//! | 2 | 2 | kind |
//! | 4 | 2 | version of the kind |
//! | 6 | 1 | flags: 1 first, 2 last fragment, 4 more events of the same append follow |
//! | 7 | 1 | 0 |
//! | 8 | 8 | milliseconds since 1970 UTC |
//! | 16 | 4 | length of the body |
//! | 20 | 4 | CRC-32 of bytes 0 to 20 and the body |
//!
//! Integers are little-endian. An event that is too long for a block is split into several
//! frames with the same kind, version and time; a frame with a whole event has both the
//! first and the last flag.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use super::{Form, MAX_BODY, StoredError, decode};
use crate::Event;

pub const HEADER: usize = 24;

/// The frame format of this build. New kinds, and new versions of kinds, do not change it.
pub const MAJOR: u8 = 1;
pub const MINOR: u8 = 0;

const FIRST: u8 = 1;
const LAST: u8 = 2;
const MORE: u8 = 4;

/// A frame, borrowed from the bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub form: Form,
    pub time_ms: u64,
    /// Begins an event.
    pub first: bool,
    /// Ends an event.
    pub last: bool,
    /// Another event of the same append follows.
    pub more: bool,
    pub body: &'a [u8],
}

/// Why bytes are not a valid frame, or frames not a valid event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame needs {needed} bytes, but only {found} are left")]
    Short { needed: usize, found: usize },
    #[error("the frame format is {found}, but this build knows only up to {known}")]
    NewerVersion { found: u32, known: u32 },
    #[error("the frame's checksum is {found:08x}, but its bytes give {computed:08x}")]
    Checksum { found: u32, computed: u32 },
    #[error("{0}")]
    Malformed(&'static str),
    #[error("a fragmented event has more than {limit} bytes")]
    TooLarge { limit: usize },
    #[error(transparent)]
    Stored(#[from] StoredError),
}

impl<'a> Frame<'a> {
    /// Appends the frame to `out`. The body must be at most [`MAX_BODY`] long.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let flags = [(self.first, FIRST), (self.last, LAST), (self.more, MORE)];
        let flags = flags
            .iter()
            .fold(0, |all, (set, flag)| if *set { all | flag } else { all });
        out.extend([MAJOR, MINOR]);
        out.extend(self.form.kind.to_le_bytes());
        out.extend(self.form.version.to_le_bytes());
        out.extend([flags, 0]);
        out.extend(self.time_ms.to_le_bytes());
        // A body has at most 64 MiB.
        out.extend((self.body.len() as u32).to_le_bytes());
        let checksum = checksum(&out[start..], self.body);
        out.extend(checksum.to_le_bytes());
        out.extend(self.body);
    }

    /// Reads the frame at the start of `bytes`, and returns what follows it.
    pub fn read(bytes: &'a [u8]) -> Result<(Frame<'a>, &'a [u8]), FrameError> {
        let raw = Raw::read(bytes)?;
        let computed = checksum(raw.covered, raw.body);
        if raw.checksum != computed {
            return Err(FrameError::Checksum {
                found: raw.checksum,
                computed,
            });
        }
        // The version is only meaningful if the bytes are intact.
        if raw.major != MAJOR {
            return Err(match raw.major {
                0 => FrameError::Malformed("frame formats start at 1"),
                major => FrameError::NewerVersion {
                    found: u32::from(major),
                    known: u32::from(MAJOR),
                },
            });
        }
        if raw.zero != 0 || raw.flags & !(FIRST | LAST | MORE) != 0 {
            return Err(FrameError::Malformed("the frame has unknown flags"));
        }
        Ok((raw.frame(), raw.rest))
    }

    /// As [`Frame::read`], but without verifying the checksum, for bytes whose hash was
    /// verified. `None` for any other error.
    pub fn skim(bytes: &'a [u8]) -> Option<(Frame<'a>, &'a [u8])> {
        let raw = Raw::read(bytes).ok()?;
        let known = raw.major == MAJOR && raw.zero == 0;
        (known && raw.flags & !(FIRST | LAST | MORE) == 0).then(|| (raw.frame(), raw.rest))
    }

    /// Whether an append ends with this frame, so that a log may end here.
    pub fn closes(&self) -> bool {
        self.last && !self.more
    }
}

/// The raw fields of a frame.
struct Raw<'a> {
    major: u8,
    form: Form,
    flags: u8,
    zero: u8,
    time_ms: u64,
    checksum: u32,
    /// The part of the header that the checksum covers.
    covered: &'a [u8],
    body: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Raw<'a> {
    fn read(bytes: &'a [u8]) -> Result<Raw<'a>, FrameError> {
        let short = |needed| FrameError::Short {
            needed,
            found: bytes.len(),
        };
        let (header, rest) = bytes
            .split_first_chunk::<HEADER>()
            .ok_or_else(|| short(HEADER))?;
        #[rustfmt::skip]
        let [
            major, _minor, k0, k1, v0, v1, flags, zero,
            t0, t1, t2, t3, t4, t5, t6, t7,
            l0, l1, l2, l3, c0, c1, c2, c3,
        ] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let (body, rest) = rest
            .split_at_checked(length)
            .ok_or_else(|| short(HEADER.saturating_add(length)))?;
        Ok(Raw {
            major,
            form: Form {
                kind: u16::from_le_bytes([k0, k1]),
                version: u16::from_le_bytes([v0, v1]),
            },
            flags,
            zero,
            time_ms: u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
            checksum: u32::from_le_bytes([c0, c1, c2, c3]),
            covered: header.split_at(HEADER - 4).0,
            body,
            rest,
        })
    }

    fn frame(&self) -> Frame<'a> {
        Frame {
            form: self.form,
            time_ms: self.time_ms,
            first: self.flags & FIRST != 0,
            last: self.flags & LAST != 0,
            more: self.flags & MORE != 0,
            body: self.body,
        }
    }
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(body);
    hasher.finalize()
}

/// A whole event in its stored form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent<'a> {
    pub form: Form,
    pub time_ms: u64,
    /// Another event of the same append follows.
    pub more: bool,
    pub body: Cow<'a, [u8]>,
}

impl StoredEvent<'_> {
    pub fn decode(&self) -> Result<Event, StoredError> {
        decode(self.form, &self.body)
    }
}

/// Joins fragments into events. Buffers at most [`MAX_BODY`] bytes.
#[derive(Debug, Default)]
pub struct Assembler {
    begun: Option<(Form, u64)>,
    body: Vec<u8>,
}

impl Assembler {
    /// Whether an event has begun but not ended.
    pub fn is_open(&self) -> bool {
        self.begun.is_some()
    }

    /// Takes the next frame, and returns the event that it completes, if any.
    pub fn push<'a>(&mut self, frame: &Frame<'a>) -> Result<Option<StoredEvent<'a>>, FrameError> {
        let head = (frame.form, frame.time_ms);
        match self.begun {
            None if !frame.first => {
                return Err(FrameError::Malformed("a fragment has no beginning"));
            }
            Some(_) if frame.first => {
                return Err(FrameError::Malformed("an event starts inside another"));
            }
            Some(begun) if begun != head => {
                return Err(FrameError::Malformed("a fragment belongs to another event"));
            }
            None | Some(_) => {}
        }
        if self.body.len().saturating_add(frame.body.len()) > MAX_BODY {
            return Err(FrameError::TooLarge { limit: MAX_BODY });
        }
        if frame.first && frame.last {
            return Ok(Some(StoredEvent {
                form: frame.form,
                time_ms: frame.time_ms,
                more: frame.more,
                body: Cow::Borrowed(frame.body),
            }));
        }
        self.begun = Some(head);
        self.body.extend_from_slice(frame.body);
        if !frame.last {
            return Ok(None);
        }
        self.begun = None;
        Ok(Some(StoredEvent {
            form: frame.form,
            time_ms: frame.time_ms,
            more: frame.more,
            body: Cow::Owned(core::mem::take(&mut self.body)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: bool, last: bool, body: &[u8]) -> Frame<'_> {
        Frame {
            form: Form {
                kind: 112,
                version: 1,
            },
            time_ms: 1_700_000_000_000,
            first,
            last,
            more: false,
            body,
        }
    }

    fn written(frame: &Frame<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        frame.write(&mut out);
        out
    }

    #[test]
    fn the_layout_is_fixed() {
        let bytes = written(&frame(true, true, &[3, 0, 0, 0]));
        let expected = [
            1, 0, 112, 0, 1, 0, 3, 0, // format, kind, version, flags
            0, 104, 229, 207, 139, 1, 0, 0, // time
            4, 0, 0, 0, 23, 225, 42, 60, // length, checksum
            3, 0, 0, 0,
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_detected() {
        let bytes = written(&frame(true, true, &[3, 1, 4, 1, 5]));
        assert!(Frame::read(&bytes).unwrap().1.is_empty());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(
                Frame::read(&damaged),
                Err(FrameError::Checksum { .. } | FrameError::Short { .. })
            ));
        }
        for length in 0..bytes.len() {
            assert!(matches!(
                Frame::read(&bytes[..length]),
                Err(FrameError::Short { .. })
            ));
        }
    }

    #[test]
    fn a_newer_format_is_not_damage() {
        let mut bytes = written(&frame(true, true, &[7]));
        bytes[0] = 2;
        let sum = checksum(&bytes[..20], &bytes[24..]);
        bytes[20..24].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(
            Frame::read(&bytes),
            Err(FrameError::NewerVersion { found: 2, known: 1 })
        );
    }

    #[track_caller]
    fn check(name: &str, frames: &[Frame<'_>], want: Result<&[&[u8]], FrameError>) {
        let mut assembler = Assembler::default();
        let mut events = Vec::new();
        for frame in frames {
            match assembler.push(frame) {
                Ok(event) => events.extend(event.map(|event| event.body.into_owned())),
                Err(error) => return assert_eq!(Err(error), want, "{name}"),
            }
        }
        let want: Vec<Vec<u8>> = want.unwrap().iter().map(|body| body.to_vec()).collect();
        assert_eq!(events, want, "{name}");
    }

    #[test]
    fn fragments_make_events() {
        let wrong = |what| Err(FrameError::Malformed(what));
        let (begin, middle, end) = (
            frame(true, false, &[1]),
            frame(false, false, &[2]),
            frame(false, true, &[3]),
        );
        let whole = frame(true, true, &[4]);
        let mut foreign = end;
        foreign.time_ms += 1;
        check("one whole event", &[whole], Ok(&[&[4]]));
        check("two fragments", &[begin, end, whole], Ok(&[&[1, 3], &[4]]));
        check("three fragments", &[begin, middle, end], Ok(&[&[1, 2, 3]]));
        check("a missing end", &[begin, middle], Ok(&[]));
        check("no beginning", &[end], wrong("a fragment has no beginning"));
        check(
            "a middle after an end",
            &[whole, middle],
            wrong("a fragment has no beginning"),
        );
        check(
            "an event in an event",
            &[begin, whole],
            wrong("an event starts inside another"),
        );
        check(
            "two beginnings",
            &[begin, begin],
            wrong("an event starts inside another"),
        );
        check(
            "another event's end",
            &[begin, foreign],
            wrong("a fragment belongs to another event"),
        );
    }

    #[test]
    fn fragments_are_bounded() {
        let part = vec![0; 1 << 20];
        let mut assembler = Assembler::default();
        assembler.push(&frame(true, false, &part)).unwrap();
        for _ in 1..64 {
            assembler.push(&frame(false, false, &part)).unwrap();
        }
        assert_eq!(
            assembler.push(&frame(false, true, &[0])),
            Err(FrameError::TooLarge { limit: MAX_BODY })
        );
    }
}
