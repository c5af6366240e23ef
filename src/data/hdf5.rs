//! Frames from an HDF5 file: the dataset `frames`, uint8 `[frames, height, width, 3]`, however chunked or compressed.
//!
//! The file is foreign input. Its claims are checked against its length before anything is allocated, rows are read a
//! bounded piece at a time, and a panic in the parser is an error of the file.

use super::error::{DataError, shorten};
use super::frames::Source;
use hdf5_pure::{DType, Dataset, File};

const NAME: &str = "frames";

/// Deflate's limit is 1032 bytes out of one; lzf's is far below. A file that claims more holds no such data.
const MOST_COMPRESSION: u128 = 1100;

/// A chunk is decoded whole, so this bounds what a damaged chunk shape can ask for.
const CHUNK_BYTES_MAX: u64 = 1 << 30;

/// How much is decoded at once.
const PIECE_BYTES: u64 = 64 << 20;

pub(super) fn read(
    source: &Source<'_>,
    file_bytes: u64,
    into: &mut Vec<u8>,
) -> Result<(), DataError> {
    let before = into.len();
    let read = source.guarded(|| read_rows(source, file_bytes, into));
    if read.is_err() {
        into.truncate(before);
    }
    read
}

fn read_rows(source: &Source<'_>, file_bytes: u64, into: &mut Vec<u8>) -> Result<(), DataError> {
    let file = match File::open_streaming(source.path) {
        Ok(file) => file,
        Err(hdf5_pure::Error::Io(error)) => return Err(source.io(error)),
        Err(error) => return Err(source.damaged(error)),
    };
    let names = file
        .root()
        .datasets()
        .map_err(|error| source.damaged(error))?;
    if !names.iter().any(|name| name == NAME) {
        return Err(DataError::NoFrames {
            path: source.path.to_owned(),
            found: names,
        });
    }
    let dataset = file.dataset(NAME).map_err(|error| source.damaged(error))?;
    let shape = dataset.shape().map_err(|error| source.damaged(error))?;
    let found = dataset.dtype().map_err(|error| source.damaged(error))?;
    if !matches!(found, DType::U8) {
        let found = shorten(&found.to_string(), 60);
        return Err(DataError::WrongType {
            path: source.path.to_owned(),
            found,
        });
    }
    let most = u128::from(file_bytes) * MOST_COMPRESSION;
    let count = source.admit(&shape, file_bytes, most, into)?;
    check_chunks(source, &dataset, file_bytes)?;
    let rows = rows_at_once(source, &dataset, most)?;
    let row_bytes = source.frame_bytes();
    let mut row = 0;
    while row < count {
        let wanted = rows.min(count - row);
        let piece = dataset
            .read_raw_rows(row, wanted)
            .map_err(|error| source.damaged(error))?;
        if piece.len() as u64 != wanted * row_bytes {
            return Err(source.damaged(format!(
                "frames {row} and on are {} bytes, expected {}",
                piece.len(),
                wanted * row_bytes
            )));
        }
        into.extend_from_slice(&piece);
        row += wanted;
    }
    Ok(())
}

/// Every stored chunk lies within the file: the parser asks for the memory before it
/// reads. Of one kind of index it cannot list the chunks; those are left to it.
fn check_chunks(source: &Source<'_>, dataset: &Dataset, file_bytes: u64) -> Result<(), DataError> {
    for chunk in dataset.chunks().unwrap_or_default() {
        let end = chunk.address.checked_add(chunk.storage_size);
        if end.is_none_or(|end| file_bytes < end) {
            return Err(source.damaged(format!(
                "a chunk of {} bytes is said to lie at byte {}, the file has {file_bytes}",
                chunk.storage_size, chunk.address
            )));
        }
    }
    Ok(())
}

/// A piece is a whole number of chunks along the first dimension where it can be, so that none is decoded twice.
fn rows_at_once(source: &Source<'_>, dataset: &Dataset, most: u128) -> Result<u64, DataError> {
    let row_bytes = source.frame_bytes();
    let rows = (PIECE_BYTES / row_bytes).max(1);
    let Some(chunk) = dataset
        .chunk_shape()
        .map_err(|error| source.damaged(error))?
    else {
        return Ok(rows);
    };
    let chunk_bytes = chunk
        .iter()
        .try_fold(1_u64, |product, &side| product.checked_mul(side));
    let limit = most.min(u128::from(CHUNK_BYTES_MAX));
    if chunk_bytes.is_none_or(|bytes| bytes == 0 || limit < u128::from(bytes)) {
        return Err(source.damaged(format!(
            "its chunks have shape {chunk:?}, expected at most {limit} bytes each"
        )));
    }
    let chunk_rows = chunk.first().copied().unwrap_or(1).max(1);
    Ok((rows / chunk_rows).max(1).saturating_mul(chunk_rows))
}
