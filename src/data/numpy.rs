//! Frames from NumPy files: an `.npy` array, or an `.npz` archive's array `frames` (its only array, if it has one).
//!
//! The files are foreign input: a header is bounded before it is parsed, its claims are checked against what the file
//! can hold before memory is asked for, and pickled arrays are refused, never loaded.

use super::error::{DataError, shorten};
use super::frames::Source;
use npyz::{DType, NpyHeader, Order, TypeChar};
use std::fs::File;
use std::io::{BufReader, Read};

const NAME: &str = "frames";

/// A header of a plain array takes some hundred bytes; NumPy itself refuses above 10,000.
const HEADER_BYTES_MAX: usize = 10_000;

/// A plain array's header nests two deep; the parser recurses, so a deeper one is refused before it.
const HEADER_DEPTH_MAX: usize = 4;

/// Deflate makes at most 1032 bytes out of one.
const MOST_COMPRESSION: u128 = 1100;

/// An archive of arrays has a handful; the names are listed in an error.
const ENTRIES_MAX: usize = 10_000;

pub(super) fn read_npy(
    source: &Source<'_>,
    file_bytes: u64,
    into: &mut Vec<u8>,
) -> Result<(), DataError> {
    let file = File::open(source.path).map_err(|error| source.io(error))?;
    read_array(
        source,
        BufReader::new(file),
        file_bytes,
        u128::from(file_bytes),
        into,
    )
}

pub(super) fn read_npz(
    source: &Source<'_>,
    file_bytes: u64,
    into: &mut Vec<u8>,
) -> Result<(), DataError> {
    let before = into.len();
    let read = source.guarded(|| {
        let file = File::open(source.path).map_err(|error| source.io(error))?;
        let mut archive =
            zip::ZipArchive::new(BufReader::new(file)).map_err(|error| source.damaged(error))?;
        if archive.len() > ENTRIES_MAX {
            return Err(source.damaged(format!(
                "it has {} entries, expected at most {ENTRIES_MAX}",
                archive.len()
            )));
        }
        let names: Vec<String> = archive
            .file_names()
            .filter_map(|name| name.strip_suffix(".npy"))
            .map(str::to_owned)
            .collect();
        let name = match names.as_slice() {
            [only] => only,
            several if several.iter().any(|name| name == NAME) => NAME,
            _ => {
                return Err(DataError::NoFrames {
                    path: source.path.to_owned(),
                    found: names,
                });
            }
        };
        let entry = archive
            .by_name(&format!("{name}.npy"))
            .map_err(|error| source.damaged(error))?;
        read_array(
            source,
            entry,
            file_bytes,
            u128::from(file_bytes) * MOST_COMPRESSION,
            into,
        )
    });
    if read.is_err() {
        into.truncate(before);
    }
    read
}

/// Reads one array; `most` is how many bytes of data it can have.
fn read_array(
    source: &Source<'_>,
    mut from: impl Read,
    file_bytes: u64,
    most: u128,
    into: &mut Vec<u8>,
) -> Result<(), DataError> {
    let before = into.len();
    let header = read_header(source, &mut from)?;
    let is_u8 = match header.dtype() {
        DType::Plain(found) => found.type_char() == TypeChar::Uint && found.size_field() == 1,
        DType::Array(..) | DType::Record(_) => false,
    };
    if !is_u8 {
        let found = shorten(&header.dtype().descr(), 60);
        return Err(DataError::WrongType {
            path: source.path.to_owned(),
            found,
        });
    }
    if header.order() == Order::Fortran {
        return Err(DataError::WrongShape {
            path: source.path.to_owned(),
            found: header.shape().to_vec(),
            fortran: true,
        });
    }
    source.admit(header.shape(), file_bytes, most, into)?;
    let wanted = header.shape().iter().product::<u64>();
    let read = from
        .take(wanted)
        .read_to_end(into)
        .map_err(|error| source.damaged(error));
    let found = (into.len() - before) as u64;
    match read {
        Ok(_) if found == wanted => Ok(()),
        Ok(_) => {
            into.truncate(before);
            Err(source.damaged(format!(
                "it holds {found} bytes of frames, expected {wanted}"
            )))
        }
        Err(error) => {
            into.truncate(before);
            Err(error)
        }
    }
}

/// Magic `\x93NUMPY`, version, length of the text, text: read here as bytes and bounded, parsed by `npyz`.
fn read_header(source: &Source<'_>, from: &mut impl Read) -> Result<NpyHeader, DataError> {
    let mut header = vec![0; 10];
    from.read_exact(&mut header)
        .map_err(|error| source.damaged(error))?;
    if !header.starts_with(b"\x93NUMPY") {
        return Err(source.damaged("it does not begin as a NumPy array does"));
    }
    let mut text_bytes = usize::from(header[8]) | usize::from(header[9]) << 8;
    if header[6] >= 2 {
        let mut high = [0; 2];
        from.read_exact(&mut high)
            .map_err(|error| source.damaged(error))?;
        header.extend(high);
        text_bytes |= usize::from(high[0]) << 16 | usize::from(high[1]) << 24;
    }
    if text_bytes > HEADER_BYTES_MAX {
        return Err(source.damaged(format!(
            "its header is {text_bytes} bytes, expected at most {HEADER_BYTES_MAX}"
        )));
    }
    let text_start = header.len();
    header.resize(text_start + text_bytes, 0);
    from.read_exact(&mut header[text_start..])
        .map_err(|error| source.damaged(error))?;
    let opening = header[text_start..]
        .iter()
        .filter(|byte| b"([{".contains(byte))
        .count();
    if opening > HEADER_DEPTH_MAX {
        return Err(source.damaged("its header is not that of one plain array"));
    }
    source.guarded(|| {
        NpyHeader::from_reader(header.as_slice()).map_err(|error| source.damaged(error))
    })
}
