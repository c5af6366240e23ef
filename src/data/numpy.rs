//! Frames from NumPy files: an `.npy` array, or the array `frames` of an `.npz` archive, or its only array.
//!
//! The files are untrusted input: headers are bounded before they are parsed, their claims are checked against what the
//! file can hold before memory is allocated, and pickled arrays are refused.

use super::advice::{Kind, Range};
use super::error::DataError;
use super::source::{Loading, Recording, Source};
use npyz::{DType, Endianness, NpyHeader, Order, TypeChar, TypeStr};
use std::fs::File;
use std::io::{BufReader, Read};

const NAME: &str = "frames";

/// The header of a plain array takes about a hundred bytes. NumPy itself refuses more than 10,000.
const HEADER_BYTES_MAX: usize = 10_000;

/// The header of a plain array has two opening brackets, that of a record one more per field. The parser recurses, so
/// their number is limited.
const HEADER_BRACKETS_MAX: usize = 64;

/// Deflate expands one byte to at most 1032.
const MOST_COMPRESSION: u128 = 1100;

/// An archive of arrays has a few; their names are listed in errors.
const ENTRIES_MAX: usize = 10_000;

/// How much of an array of another type is read to find the range of its values.
const RANGE_BYTES_MAX: u64 = 1 << 30;

/// How many bytes after an array are counted.
const BEHIND_BYTES_MAX: u64 = 1 << 30;

pub(super) fn read_npy(
    source: &Source<'_>,
    file_bytes: u64,
    into: &mut Loading,
) -> Result<(), DataError> {
    let file = File::open(source.path).map_err(|error| source.io(error))?;
    let most = u128::from(file_bytes);
    read_array(source, BufReader::new(file), file_bytes, most, into)
}

pub(super) fn read_npz(
    source: &Source<'_>,
    file_bytes: u64,
    into: &mut Loading,
) -> Result<(), DataError> {
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
        // Entries that macOS adds to archives.
        .filter(|name| {
            !name
                .split('/')
                .any(|part| part == "__MACOSX" || part.starts_with("._"))
        })
        .map(str::to_owned)
        .collect();
    let name = match names.as_slice() {
        [only] => only,
        several if several.iter().any(|name| name == NAME) => NAME,
        _ => {
            return Err(DataError::NoFrames {
                path: source.path.to_owned(),
                found: names,
                hint: "name the array of frames when you save it: `np.savez(path, frames=frames)`"
                    .to_owned(),
            });
        }
    };
    let entry = archive
        .by_name(&format!("{name}.npy"))
        .map_err(|error| source.damaged(error))?;
    let most = u128::from(file_bytes) * MOST_COMPRESSION;
    read_array(source, entry, file_bytes, most, into)
}

/// Reads one array to the end of `from`. `most` is how many bytes of data it can have.
fn read_array(
    source: &Source<'_>,
    mut from: impl Read,
    file_bytes: u64,
    most: u128,
    into: &mut Loading,
) -> Result<(), DataError> {
    let header = read_header(source, &mut from)?;
    let shape = header.shape();
    let kind = kind(&header.dtype());
    if kind != Kind::Uint8 {
        let range = match header.dtype() {
            DType::Plain(found) => range(&found, shape, &mut from),
            DType::Array(..) | DType::Record(_) => None,
        };
        return Err(source.wrong_type(&header.dtype().descr(), &kind, shape, range));
    }
    let frames = source.admit(shape, file_bytes, most, &mut into.bytes)?;
    let wanted = shape.iter().product::<u64>();
    if header.order() == Order::Fortran {
        let mut columns = Vec::new();
        source.reserve(wanted, &mut columns)?;
        read_exactly(source, &mut from, wanted, &mut columns)?;
        append_transposed(&columns, shape, &mut into.bytes);
    } else {
        read_exactly(source, &mut from, wanted, &mut into.bytes)?;
    }
    // The checksum of an archive's entry is only compared at its end.
    refuse_more(source, &mut from)?;
    into.recordings.push(Recording {
        path: source.path.display().to_string(),
        frames: frames as usize,
        first: None,
        last: None,
        missing: 0,
    });
    Ok(())
}

fn read_exactly(
    source: &Source<'_>,
    from: &mut impl Read,
    wanted: u64,
    into: &mut Vec<u8>,
) -> Result<(), DataError> {
    let read = from
        .take(wanted)
        .read_to_end(into)
        .map_err(|error| source.damaged(error))?;
    if read as u64 != wanted {
        return Err(source.damaged(format!("it has {read} bytes of frames, expected {wanted}")));
    }
    Ok(())
}

fn refuse_more(source: &Source<'_>, from: &mut impl Read) -> Result<(), DataError> {
    let mut start = Vec::new();
    let behind = from
        .take(6)
        .read_to_end(&mut start)
        .map_err(|error| source.damaged(error))?;
    if behind == 0 {
        return Ok(());
    }
    let rest = std::io::copy(&mut from.take(BEHIND_BYTES_MAX), &mut std::io::sink())
        .map_err(|error| source.damaged(error))?;
    Err(DataError::BytesBehind {
        path: source.path.to_owned(),
        found: behind as u64 + rest,
        another: start == b"\x93NUMPY",
    })
}

/// Appends an array in Fortran order (the first index varies fastest) in C order (the last one does).
fn append_transposed(columns: &[u8], shape: &[u64], into: &mut Vec<u8>) {
    let &[count, height, width, channels] = shape else {
        return;
    };
    let [count, height, width, channels] =
        [count, height, width, channels].map(|side| side as usize);
    let start = into.len();
    into.resize(start + columns.len(), 0);
    let frame = height * width * channels;
    // A block of frames at a time, so that the output stays in the cache.
    const BLOCK: usize = 64;
    for block in (0..count).step_by(BLOCK) {
        let frames = BLOCK.min(count - block);
        for pixel in 0..frame {
            let (row, column, channel) = (
                pixel / (width * channels),
                pixel / channels % width,
                pixel % channels,
            );
            let from = block + count * (row + height * (column + width * channel));
            for n in 0..frames {
                into[start + (block + n) * frame + pixel] = columns[from + n];
            }
        }
    }
}

fn kind(found: &DType) -> Kind {
    let plain = match found {
        DType::Plain(plain) => plain,
        DType::Array(..) => return Kind::Other,
        DType::Record(fields) => {
            return Kind::Record(fields.iter().map(|field| field.name.clone()).collect());
        }
    };
    let bits = plain.size_field().saturating_mul(8);
    match plain.type_char() {
        TypeChar::Uint if bits == 8 => Kind::Uint8,
        TypeChar::Uint => Kind::Integer {
            bits,
            signed: false,
        },
        TypeChar::Int => Kind::Integer { bits, signed: true },
        TypeChar::Bool => Kind::Bool,
        TypeChar::Float => Kind::Float,
        TypeChar::Object => Kind::Object,
        TypeChar::ByteStr | TypeChar::UnicodeStr | TypeChar::RawData => Kind::Text,
        TypeChar::Complex | TypeChar::TimeDelta | TypeChar::DateTime | _ => Kind::Other,
    }
}

/// The range of the values; `None` for damaged files and for types other than numbers of at most 8 bytes.
fn range(found: &TypeStr, shape: &[u64], from: &mut impl Read) -> Option<Range> {
    let size = usize::try_from(found.size_field()).ok()?;
    let big = found.endianness() == Endianness::Big;
    let wanted = shape
        .iter()
        .try_fold(size as u64, |product, &side| product.checked_mul(side))?;
    let mut range = Range::NONE;
    range.partial = RANGE_BYTES_MAX < wanted;
    let mut from = from.take(wanted.min(RANGE_BYTES_MAX));
    let mut piece = vec![0; 1 << 20];
    let kind = kind(&DType::Plain(found.clone()));
    let mut kept = 0;
    loop {
        let read = from.read(piece.get_mut(kept..)?).ok()?;
        if read == 0 {
            return Some(range);
        }
        let filled = kept + read;
        let whole = filled.checked_sub(filled.checked_rem(size)?)?;
        range.add_all(&kind, size, big, piece.get_mut(..whole)?)?;
        piece.copy_within(whole..filled, 0);
        kept = filled - whole;
    }
}

/// Reads the header: magic `\x93NUMPY`, version, length of the text, text. It is bounded here and parsed by `npyz`.
fn read_header(source: &Source<'_>, from: &mut impl Read) -> Result<NpyHeader, DataError> {
    let mut header = vec![0; 10];
    from.read_exact(&mut header)
        .map_err(|error| source.damaged(error))?;
    if !header.starts_with(b"\x93NUMPY") {
        return Err(source.damaged("it does not begin like a NumPy array"));
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
    if opening > HEADER_BRACKETS_MAX {
        return Err(source.damaged("its header is not that of one plain array"));
    }
    blank_long_suffixes(&mut header[text_start..]);
    source.guarded(|| {
        NpyHeader::from_reader(header.as_slice()).map_err(|error| source.damaged(error))
    })
}

/// Removes the suffix of lengths such as `24L`, which NumPy on Python 2 wrote and NumPy still reads.
fn blank_long_suffixes(text: &mut [u8]) {
    for place in 1..text.len().saturating_sub(1) {
        if let [digit, b'L', b',' | b')' | b' '] = text[place - 1..=place + 1]
            && digit.is_ascii_digit()
        {
            text[place] = b' ';
        }
    }
}
