//! The zip archive of a `torch.save` file: reads and writes the few zip structures that
//! PyTorch uses.
//!
//! Layout, all little-endian (PKWARE APPNOTE 6.3.10): local header and data per
//! record, then the central directory, then the end records. Like PyTorch, the reader
//! accepts up to 64 KiB of comment or other bytes after them, and the writer pads each
//! record's extra field so that its data begins at a multiple of 64 bytes and can be
//! mapped into memory.
//!
//! Invariant: every record that is returned is within the file, overlaps no other, is
//! uncompressed, and has the checksum in the directory, unless the archive was written
//! without checksums.

use std::collections::BTreeMap;

use super::error::{ReadError, WriteError};

/// The largest archive that is read or written, in bytes. A larger zip would need 64-bit
/// fields, but no model here is that large.
pub const ARCHIVE_BYTES_MAX: u64 = 0xFFFF_FFFE;

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;

const LOCAL_BYTES: usize = 30;
const CENTRAL_BYTES: usize = 46;
const END_BYTES: usize = 22;
const END_64_BYTES: usize = 56;
const LOCATOR_64_BYTES: usize = 20;

/// `torch.serialization.config.save.storage_alignment`'s default.
const ALIGNMENT: usize = 64;
/// PyTorch's file format: 3 is written, 1 to 10 are read.
const VERSION_WRITTEN: &[u8] = b"3\n";
const VERSION_MAX: u32 = 10;
const FOLDER_BYTES_MAX: usize = 255;
/// Bit 11 of a record's flags: its name is UTF-8.
const FLAG_UTF8: u16 = 1 << 11;
const FLAG_ENCRYPTED: u16 = 1;
/// How far from the file's end the end record may begin, as in PyTorch: the record
/// itself and the longest comment.
const TAIL_BYTES: usize = END_BYTES + u16::MAX as usize;
/// 1980-01-01, the earliest date in a zip: a real time would change the hash.
const DATE: u16 = (1 << 5) | 1;

/// The records of an archive, by their names in the common folder.
pub struct Archive<'a> {
    records: BTreeMap<&'a str, &'a [u8]>,
}

impl<'a> Archive<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ReadError> {
        if bytes.len() as u64 > ARCHIVE_BYTES_MAX {
            let limit = ARCHIVE_BYTES_MAX;
            return Err(ReadError::Limit {
                what: "the size of the file in bytes",
                limit,
            });
        }
        if u32_at(bytes, 0) != Some(LOCAL) {
            return Err(ReadError::NotAnArchive);
        }
        let directory = Directory::find(bytes)?;
        let mut entries = directory.entries(bytes)?;
        check_overlap(&mut entries)?;
        let records = strip_folder(&entries)?;
        // With `torch.serialization.set_crc32_options(False)` every checksum is 0.
        if entries.iter().any(|entry| entry.sum != 0) {
            for entry in &entries {
                entry.check_sum()?;
            }
        }
        Ok(Self { records })
    }

    pub fn record(&self, name: &str) -> Option<&'a [u8]> {
        self.records.get(name).copied()
    }

    pub fn required(&self, name: &str) -> Result<&'a [u8], ReadError> {
        let record = name.to_owned();
        self.record(name).ok_or(ReadError::MissingRecord { record })
    }

    pub fn check_version(&self) -> Result<(), ReadError> {
        let text = self.required("version")?;
        let version = std::str::from_utf8(text).ok();
        let version = version.and_then(|text| text.trim_ascii().parse::<u32>().ok());
        match version {
            Some(1..=VERSION_MAX) => Ok(()),
            Some(version) => Err(ReadError::unsupported(format!(
                "file format {version}, expected 1 to {VERSION_MAX}"
            ))),
            None => Err(ReadError::damaged("record `version` is not a number")),
        }
    }

    /// PyTorch before 2.1 wrote no byte order; such files count as little-endian.
    pub fn check_byte_order(&self) -> Result<(), ReadError> {
        match self.record("byteorder") {
            None | Some(b"little") => Ok(()),
            Some(b"big") => Err(ReadError::unsupported(
                "big-endian tensors; save them on a little-endian machine",
            )),
            Some(_) => Err(ReadError::damaged(
                "record `byteorder` is neither `little` nor `big`",
            )),
        }
    }
}

/// The position of the central directory.
struct Directory {
    start: usize,
    end: usize,
    count: usize,
}

impl Directory {
    fn find(bytes: &[u8]) -> Result<Self, ReadError> {
        let end_at = find_end(bytes).ok_or(ReadError::Truncated)?;
        let short = |at| u16_at(bytes, end_at + at).map(u64::from);
        let long = |at| u32_at(bytes, end_at + at).map(u64::from);
        let (disk, count) = (short(4), short(10));
        let (size, start) = (long(12), long(16));
        if disk != Some(0) || short(6) != Some(0) || short(8) != count {
            return Err(ReadError::damaged("its end record contradicts itself"));
        }
        let mut found = (count, size, start);
        let mut after = end_at;
        if let Some(at) = find_end_64(bytes, end_at)? {
            let wide = |offset| u64_at(bytes, at + offset);
            let exact = (wide(32), wide(40), wide(48));
            let agrees = |short: Option<u64>, exact, unknown| short == exact || short == unknown;
            if wide(24) != exact.0
                || !agrees(count, exact.0, Some(0xFFFF))
                || !agrees(size, exact.1, Some(0xFFFF_FFFF))
                || !agrees(start, exact.2, Some(0xFFFF_FFFF))
            {
                return Err(ReadError::damaged("its two end records disagree"));
            }
            found = exact;
            after = at;
        }
        let (Some(count), Some(size), Some(start)) = found else {
            return Err(ReadError::Truncated);
        };
        if start.checked_add(size) != Some(after as u64) {
            return Err(ReadError::damaged(
                "its table of records is not where the end record says",
            ));
        }
        if count > size / CENTRAL_BYTES as u64 {
            return Err(ReadError::damaged(
                "its table has fewer records than its end record says",
            ));
        }
        // The casts are exact: the values are at most `after`, which is a `usize`.
        Ok(Self {
            start: start as usize,
            end: after,
            count: count as usize,
        })
    }

    fn entries<'a>(&self, bytes: &'a [u8]) -> Result<Vec<Entry<'a>>, ReadError> {
        let mut entries = Vec::with_capacity(self.count);
        let mut at = self.start;
        for _ in 0..self.count {
            let (entry, next) = Entry::parse(bytes, at, self)?;
            entries.push(entry);
            at = next;
        }
        if at != self.end {
            return Err(ReadError::damaged(
                "its table has more records than its end record says",
            ));
        }
        Ok(entries)
    }
}

/// The last end record. What follows it (a comment, bytes of a bad download) is ignored.
fn find_end(bytes: &[u8]) -> Option<usize> {
    let last = bytes.len().checked_sub(END_BYTES)?;
    let first = bytes.len().saturating_sub(TAIL_BYTES);
    (first..=last)
        .rev()
        .find(|&at| u32_at(bytes, at) == Some(END))
}

/// The 64-bit end record, which PyTorch always writes and other tools rarely do.
fn find_end_64(bytes: &[u8], end_at: usize) -> Result<Option<usize>, ReadError> {
    let Some(locator) = end_at.checked_sub(LOCATOR_64_BYTES) else {
        return Ok(None);
    };
    if u32_at(bytes, locator) != Some(LOCATOR_64) {
        return Ok(None);
    }
    let at = locator.checked_sub(END_64_BYTES);
    let at = at.filter(|&at| {
        u32_at(bytes, at) == Some(END_64)
            && u64_at(bytes, locator + 8) == Some(at as u64)
            && u64_at(bytes, at + 4) == Some(END_64_BYTES as u64 - 12)
    });
    at.map(Some)
        .ok_or_else(|| ReadError::damaged("its 64-bit end record is not where it should be"))
}

/// One record, on which the central directory and its local header agree.
struct Entry<'a> {
    name: &'a str,
    data: &'a [u8],
    sum: u32,
    /// From the first byte of the local header to the end of the data.
    start: usize,
    end: usize,
}

impl<'a> Entry<'a> {
    fn parse(
        bytes: &'a [u8],
        at: usize,
        directory: &Directory,
    ) -> Result<(Self, usize), ReadError> {
        let bad = || ReadError::damaged("an entry of its table of records is malformed");
        let short = |offset| u16_at(bytes, at + offset).map(usize::from);
        let long = |offset| u32_at(bytes, at + offset);
        if long(0) != Some(CENTRAL) {
            return Err(bad());
        }
        let name_bytes = short(28).ok_or_else(bad)?;
        let extra_and_comment = short(30)
            .zip(short(32))
            .map(|(extra, comment)| extra + comment);
        let name_at = at + CENTRAL_BYTES;
        let next = name_at + name_bytes + extra_and_comment.ok_or_else(bad)?;
        if next > directory.end {
            return Err(bad());
        }
        let name = bytes.get(name_at..name_at + name_bytes).ok_or_else(bad)?;
        let name = std::str::from_utf8(name).map_err(|_| bad())?;

        let flags = u16_at(bytes, at + 8).ok_or_else(bad)?;
        let method = short(10).ok_or_else(bad)?;
        let (packed, size) = (long(20).ok_or_else(bad)?, long(24).ok_or_else(bad)?);
        if flags & FLAG_ENCRYPTED != 0 {
            return Err(ReadError::unsupported(format!("encrypted record `{name}`")));
        }
        if name.contains("/code/") {
            return Err(ReadError::unsupported(
                "a TorchScript archive; save the model's `state_dict()` with `torch.save`",
            ));
        }
        if method != 0 || packed != size {
            return Err(ReadError::unsupported(format!(
                "compressed record `{name}`; `torch.save` stores records as they are"
            )));
        }
        let start = long(42).ok_or_else(bad)? as usize;
        let data_at = local_data_at(bytes, start, name)?;
        let end = data_at.checked_add(size as usize);
        let end = end.filter(|&end| end <= directory.start);
        let data = end.and_then(|end| bytes.get(data_at..end));
        let (Some(end), Some(data)) = (end, data) else {
            let what = format!("record `{name}` reaches past the records' end");
            return Err(ReadError::damaged(what));
        };
        let sum = long(16).ok_or_else(bad)?;
        let entry = Self {
            name,
            data,
            sum,
            start,
            end,
        };
        Ok((entry, next))
    }

    fn check_sum(&self) -> Result<(), ReadError> {
        let found = crc32fast::hash(self.data);
        if found == self.sum {
            return Ok(());
        }
        Err(ReadError::Checksum {
            record: self.name.to_owned(),
            expected: self.sum,
            found,
        })
    }
}

/// Where the data begins of the record with the local header at `start`. The sizes in
/// the header are not read, because PyTorch writes them after the data.
fn local_data_at(bytes: &[u8], start: usize, name: &str) -> Result<usize, ReadError> {
    let found = u32_at(bytes, start) == Some(LOCAL);
    let name_at = start.saturating_add(LOCAL_BYTES);
    let end = u16_at(bytes, start.saturating_add(26)).map(|length| name_at + usize::from(length));
    let same = end.and_then(|end| bytes.get(name_at..end)) == Some(name.as_bytes());
    let extra = u16_at(bytes, start.saturating_add(28));
    match (end, extra) {
        (Some(end), Some(extra)) if found && same => Ok(end + usize::from(extra)),
        _ => Err(ReadError::damaged(format!(
            "record `{name}` is not where its table says"
        ))),
    }
}

fn check_overlap(entries: &mut [Entry<'_>]) -> Result<(), ReadError> {
    entries.sort_by_key(|entry| entry.start);
    let pairs = entries.iter().zip(entries.iter().skip(1));
    match pairs.into_iter().find(|(a, b)| a.end > b.start) {
        Some((a, b)) => Err(ReadError::damaged(format!(
            "records `{}` and `{}` overlap",
            a.name, b.name
        ))),
        None => Ok(()),
    }
}

/// Removes the folder that all records share, which PyTorch names after the file.
fn strip_folder<'a>(entries: &[Entry<'a>]) -> Result<BTreeMap<&'a str, &'a [u8]>, ReadError> {
    let mut folder = None;
    let mut records = BTreeMap::new();
    for entry in entries {
        let parts = entry.name.split_once('/');
        let (prefix, name) = parts.ok_or_else(|| {
            ReadError::damaged(format!("record `{}` is not in a folder", entry.name))
        })?;
        if *folder.get_or_insert(prefix) != prefix {
            return Err(ReadError::damaged("its records are in several folders"));
        }
        if records.insert(name, entry.data).is_some() {
            let record = name.to_owned();
            return Err(ReadError::DuplicateRecord { record });
        }
    }
    Ok(records)
}

/// Writes an archive with a pickle and its tensors' storages, in PyTorch's order.
pub fn write(folder: &str, pickle: &[u8], storages: &[&[u8]]) -> Result<Vec<u8>, WriteError> {
    if folder.is_empty() || folder.len() > FOLDER_BYTES_MAX || folder.contains('/') {
        let name = folder.to_owned();
        return Err(WriteError::Name { name });
    }
    let mut out = Writer::default();
    let mut record = |name: &str, data: &[u8]| out.record(&format!("{folder}/{name}"), data);
    record("data.pkl", pickle)?;
    record(".format_version", b"1")?;
    record(".storage_alignment", ALIGNMENT.to_string().as_bytes())?;
    record("byteorder", b"little")?;
    for (key, storage) in storages.iter().enumerate() {
        record(&format!("data/{key}"), storage)?;
    }
    record("version", VERSION_WRITTEN)?;
    out.finish()
}

/// Writes any records, for tests of invalid archives.
#[cfg(test)]
pub fn write_records(records: &[(&str, &[u8])]) -> Result<Vec<u8>, WriteError> {
    let mut out = Writer::default();
    for (name, data) in records {
        out.record(name, data)?;
    }
    out.finish()
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    count: u64,
}

impl Writer {
    fn record(&mut self, name: &str, data: &[u8]) -> Result<(), WriteError> {
        let start = fit_u32(self.bytes.len())?;
        let size = fit_u32(data.len())?;
        let sum = crc32fast::hash(data);
        let too_long = |_| WriteError::Name {
            name: name.to_owned(),
        };
        let name_bytes = u16::try_from(name.len()).map_err(too_long)?;
        // An extra field has a header of 4 bytes: its tag `FB` and its length.
        let data_at = self.bytes.len() + LOCAL_BYTES + name.len() + 4;
        let padding = data_at.next_multiple_of(ALIGNMENT) - data_at;

        put_u32(&mut self.bytes, LOCAL);
        put_u16(&mut self.bytes, 0); // version needed
        put_common(&mut self.bytes, sum, size, name_bytes);
        put_u16(&mut self.bytes, 4 + padding as u16);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b"FB");
        put_u16(&mut self.bytes, padding as u16);
        self.bytes.resize(self.bytes.len() + padding, b'Z');
        self.bytes.extend_from_slice(data);

        put_u32(&mut self.directory, CENTRAL);
        put_u16(&mut self.directory, 0); // made by
        put_u16(&mut self.directory, 0); // version needed
        put_common(&mut self.directory, sum, size, name_bytes);
        put_u16(&mut self.directory, 0); // extra
        put_u16(&mut self.directory, 0); // comment
        put_u16(&mut self.directory, 0); // disk
        put_u16(&mut self.directory, 0); // internal attributes
        put_u32(&mut self.directory, 0); // external attributes
        put_u32(&mut self.directory, start);
        self.directory.extend_from_slice(name.as_bytes());
        self.count += 1;
        Ok(())
    }

    /// Like PyTorch, also writes the 64-bit end record, whose count is not limited to
    /// 65535.
    fn finish(mut self) -> Result<Vec<u8>, WriteError> {
        let start = self.bytes.len();
        let size = self.directory.len();
        self.bytes.append(&mut self.directory);
        let end_64 = self.bytes.len() as u64;
        put_u32(&mut self.bytes, END_64);
        put_u64(&mut self.bytes, END_64_BYTES as u64 - 12);
        put_u16(&mut self.bytes, 45); // made by version 4.5
        put_u16(&mut self.bytes, 45);
        put_u32(&mut self.bytes, 0);
        put_u32(&mut self.bytes, 0);
        put_u64(&mut self.bytes, self.count);
        put_u64(&mut self.bytes, self.count);
        put_u64(&mut self.bytes, size as u64);
        put_u64(&mut self.bytes, start as u64);
        put_u32(&mut self.bytes, LOCATOR_64);
        put_u32(&mut self.bytes, 0);
        put_u64(&mut self.bytes, end_64);
        put_u32(&mut self.bytes, 1);
        let count = u16::try_from(self.count).unwrap_or(u16::MAX);
        put_u32(&mut self.bytes, END);
        put_u16(&mut self.bytes, 0);
        put_u16(&mut self.bytes, 0);
        put_u16(&mut self.bytes, count);
        put_u16(&mut self.bytes, count);
        put_u32(&mut self.bytes, fit_u32(size)?);
        put_u32(&mut self.bytes, fit_u32(start)?);
        put_u16(&mut self.bytes, 0); // comment
        fit_u32(self.bytes.len())?;
        Ok(self.bytes)
    }
}

/// The fields that a local header and a directory entry share, in their order.
fn put_common(out: &mut Vec<u8>, sum: u32, size: u32, name_bytes: u16) {
    put_u16(out, FLAG_UTF8);
    put_u16(out, 0); // stored
    put_u16(out, 0); // time
    put_u16(out, DATE);
    put_u32(out, sum);
    put_u32(out, size);
    put_u32(out, size);
    put_u16(out, name_bytes);
}

fn fit_u32(value: usize) -> Result<u32, WriteError> {
    let limit = ARCHIVE_BYTES_MAX;
    let fits = u32::try_from(value).ok();
    fits.filter(|&value| u64::from(value) <= limit)
        .ok_or(WriteError::TooLarge { limit })
}

fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}
