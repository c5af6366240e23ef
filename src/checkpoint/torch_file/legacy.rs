//! The format of `torch.save` before PyTorch 1.6, and of
//! `_use_new_zipfile_serialization=False` since: five pickles (a magic number, a
//! version, the machine's sizes, the value, the keys of the storages), then each
//! storage as a count of elements and their bytes.
//!
//! The value is read twice: the storages can only be found with the sizes of their
//! elements, which are in the value.

use std::collections::BTreeMap;

use super::error::ReadError;
use super::pickle_read::{ENDS_EARLY, Part, Storages};
use super::value::{Loaded, Value};

/// `LONG1` with 0x1950a86a20f9469cfc6c, which is in the first pickle.
const MAGIC: &[u8] = &[
    0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19,
];
/// The magic number is within this many bytes, after the protocol and perhaps a frame's
/// header.
const MAGIC_WITHIN: usize = 32;
const VERSION: i64 = 1001;

pub fn is_legacy(bytes: &[u8]) -> bool {
    let start = bytes.get(..MAGIC_WITHIN.min(bytes.len()));
    let start = start.unwrap_or_default();
    start.first() == Some(&0x80) && start.windows(MAGIC.len()).any(|part| part == MAGIC)
}

pub fn read(bytes: &[u8]) -> Result<Loaded, ReadError> {
    let mut none = Storages::Wanted(BTreeMap::new());
    let magic = part(bytes, 0, &mut none)?;
    let version = part(bytes, magic.end, &mut none)?;
    if version.loaded.value != Value::Int(VERSION) {
        return Err(ReadError::unsupported(format!(
            "version {:?} of the old format, expected {VERSION}",
            version.loaded.value
        )));
    }
    let system = part(bytes, version.end, &mut none)?;
    if system.loaded.value.get("little_endian") != Some(&Value::Bool(true)) {
        return Err(ReadError::unsupported(
            "big-endian tensors; save them on a little-endian machine",
        ));
    }
    let mut wanted = Storages::Wanted(BTreeMap::new());
    let dry = part(bytes, system.end, &mut wanted)?;
    let keys = part(bytes, dry.end, &mut none)?;
    let Storages::Wanted(widths) = wanted else {
        return Err(ReadError::damaged("its storages were not found"));
    };
    let storages = storages(bytes, keys.end, &keys.loaded.value, &widths)?;
    let mut known = Storages::Known(&storages);
    Ok(part(bytes, system.end, &mut known)?.loaded)
}

fn part<'a>(
    bytes: &'a [u8],
    at: usize,
    storages: &mut Storages<'_, 'a>,
) -> Result<Part, ReadError> {
    Part::read(bytes, at, storages, bytes.len()).map_err(|error| {
        // In this format a pickle that ends early means a truncated file.
        let cut = matches!(&error, ReadError::Pickle { what, .. } if *what == ENDS_EARLY);
        if cut { ReadError::Truncated } else { error }
    })
}

fn storages<'a>(
    bytes: &'a [u8],
    mut at: usize,
    keys: &Value,
    widths: &BTreeMap<String, usize>,
) -> Result<BTreeMap<String, &'a [u8]>, ReadError> {
    let keys = keys.as_items();
    let keys = keys.ok_or_else(|| ReadError::damaged("it has no list of storages"))?;
    let mut found = BTreeMap::new();
    for key in keys {
        let key = key.as_str();
        let key = key.ok_or_else(|| ReadError::damaged("a storage's key is not text"))?;
        let width = widths.get(key);
        let width =
            width.ok_or_else(|| ReadError::damaged("it lists a storage that no tensor uses"))?;
        let count = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>);
        let count = u64::from_le_bytes(*count.ok_or(ReadError::Truncated)?);
        let length = usize::try_from(count).ok();
        let length = length.and_then(|count| count.checked_mul(*width));
        let end = length.and_then(|length| at.checked_add(8)?.checked_add(length));
        let data = end.and_then(|end| bytes.get(at + 8..end));
        let (Some(end), Some(data)) = (end, data) else {
            return Err(ReadError::Truncated);
        };
        if found.insert(key.to_owned(), data).is_some() {
            let record = key.to_owned();
            return Err(ReadError::DuplicateRecord { record });
        }
        at = end;
    }
    Ok(found)
}
