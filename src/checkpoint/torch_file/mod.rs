//! Reads and writes `torch.save` archives without libtorch and without Python. Also
//! reads the format before PyTorch 1.6.
//!
//! A `torch.save` file is a zip of uncompressed records: a pickle (`data.pkl`) that
//! describes the value, and one raw little-endian record per tensor storage
//! (`data/<key>`). [`read`] interprets a small allow-listed part of the pickle
//! language; everything else becomes an opaque value with its name. [`write`] makes
//! the same format, with the same bytes for the same value, because the log has the
//! hashes of checkpoints.
//!
//! Invariant: no input makes [`read`] run foreign code, panic, or take more memory
//! than a small multiple of the file's size.

mod archive;
mod arena;
mod error;
mod global;
mod legacy;
mod numpy;
mod other;
mod pickle_read;
mod pickle_write;
mod unfold;
mod value;
mod view;

pub use archive::ARCHIVE_BYTES_MAX;
pub use error::{ReadError, WriteError};
pub use other::other_format;
pub use value::{DEPTH_MAX, DType, Loaded, Tensor, TensorError, Value};

/// Reads a `torch.save` archive.
///
/// # Errors
/// What is wrong with the bytes; see [`ReadError`].
pub fn read(bytes: &[u8]) -> Result<Loaded, ReadError> {
    if legacy::is_legacy(bytes) {
        return legacy::read(bytes);
    }
    if let Some(what) = other_format(bytes) {
        return Err(ReadError::OtherFormat { what });
    }
    let archive = archive::Archive::parse(bytes)?;
    archive.check_version()?;
    archive.check_byte_order()?;
    pickle_read::unpickle(&archive, bytes.len())
}

/// Writes `value` as a `torch.save` archive with its records in the folder `<name>/`.
///
/// [`Value::OrderedDict`] becomes a `collections.OrderedDict`, like a PyTorch
/// `state_dict()`, and [`Value::Dict`] a plain dict. `torch.load(weights_only=True)`
/// can read the result. The same value gives the same bytes.
///
/// # Errors
/// Opaque values, nesting deeper than [`DEPTH_MAX`], and archives larger than
/// [`ARCHIVE_BYTES_MAX`].
pub fn write(name: &str, value: &Value) -> Result<Vec<u8>, WriteError> {
    let (pickle, storages) = pickle_write::pickle(value)?;
    archive::write(name, &pickle, &storages)
}

#[cfg(test)]
mod tests;
