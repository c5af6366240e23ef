//! `torch.save` archives, read and written without libtorch and without Python.
//! The format before PyTorch 1.6 is read, too.
//!
//! A `torch.save` file is a zip of stored records: a pickle (`data.pkl`) that
//! describes the value, and one raw little-endian record per tensor storage
//! (`data/<key>`). [`read`] interprets a small allow-listed part of the pickle
//! language; everything else is recorded by name and kept as an opaque
//! value. [`write`] makes the same format, byte for byte the same for the same
//! value, because checkpoints are named by their hash.
//!
//! Invariant: no bytes make [`read`] run foreign code, panic, or take more memory
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
/// Says what is wrong with the bytes: see [`ReadError`].
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

/// Writes `value` as a `torch.save` archive whose records stand under `<name>/`.
///
/// [`Value::OrderedDict`] becomes a `collections.OrderedDict`, as a PyTorch
/// `state_dict()` is; [`Value::Dict`] a plain dict. `torch.load(weights_only=True)`
/// opens the result. The same value gives the same bytes.
///
/// # Errors
/// An opaque value cannot be written; nor can nesting deeper than [`DEPTH_MAX`],
/// or an archive over [`ARCHIVE_BYTES_MAX`].
pub fn write(name: &str, value: &Value) -> Result<Vec<u8>, WriteError> {
    let (pickle, storages) = pickle_write::pickle(value)?;
    archive::write(name, &pickle, &storages)
}

#[cfg(test)]
mod tests;
