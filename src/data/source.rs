//! What every reader needs: the file that it reads, and what was read so far.
//!
//! Invariant: memory for frames is allocated only after their claimed size was checked against the length of the file.

use std::path::Path;

use super::advice::{self, Kind};
use super::error::{DataError, Format, shorten};
use super::sniff;

/// Bytes per pixel: red, green, blue.
pub const CHANNELS: usize = 3;

/// Consecutive frames, and their origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// The file or folder; for one of several arrays in a file, `file:/group/frames`.
    pub path: String,
    pub frames: usize,
    /// The names of the first and the last image of a folder.
    pub first: Option<String>,
    pub last: Option<String>,
    /// How many numbers are missing between these names.
    pub missing: u64,
}

/// Something other than frames that was skipped, or frames that were never written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// The folder or file that contains it.
    pub path: String,
    pub why: String,
    pub count: u64,
    /// The name of one example.
    pub example: String,
}

/// What has been read so far.
#[derive(Debug, Default)]
pub(super) struct Loading {
    pub bytes: Vec<u8>,
    pub recordings: Vec<Recording>,
    pub passed_over: Vec<PassedOver>,
}

/// A file to read: what readers need for their checks and errors.
pub(super) struct Source<'a> {
    pub path: &'a Path,
    pub format: Format,
    pub frame_size: usize,
}

impl Source<'_> {
    /// Checks a claimed shape and reserves the memory; returns the number of frames.
    ///
    /// `most` is how many bytes of frames a file of this length can hold.
    pub fn admit(
        &self,
        shape: &[u64],
        file_bytes: u64,
        most: u128,
        into: &mut Vec<u8>,
    ) -> Result<u64, DataError> {
        let &[count, height, width, channels] = shape else {
            return Err(self.wrong_shape(shape));
        };
        if channels != CHANNELS as u64 || count == 0 || height == 0 || width == 0 {
            return Err(self.wrong_shape(shape));
        }
        self.check_size(height, width)?;
        // The size of a frame was checked, so only the count can be absurd.
        let claimed = u128::from(count).saturating_mul(u128::from(self.frame_bytes()));
        if claimed > most {
            let path = self.path.to_owned();
            return Err(DataError::ClaimsTooMuch {
                path,
                format: self.format,
                claimed,
                file_bytes,
            });
        }
        let bytes = u64::try_from(claimed).unwrap_or(u64::MAX);
        self.reserve(bytes, into)?;
        Ok(count)
    }

    /// Bytes of one frame of the config's size.
    pub fn frame_bytes(&self) -> u64 {
        let side = self.frame_size as u64;
        side.saturating_mul(side).saturating_mul(CHANNELS as u64)
    }

    /// Fails unless this is the config's frame size.
    pub fn check_size(&self, height: u64, width: u64) -> Result<(), DataError> {
        let expected = self.frame_size;
        if height == expected as u64 && width == expected as u64 {
            return Ok(());
        }
        Err(DataError::FrameSize {
            path: self.path.to_owned(),
            found: (height, width),
            expected,
        })
    }

    /// Reserves `bytes` more; returns an error where `Vec` would abort the process.
    pub fn reserve(&self, bytes: u64, into: &mut Vec<u8>) -> Result<(), DataError> {
        let no_memory = || DataError::NoMemory {
            path: self.path.to_owned(),
            needed: bytes,
        };
        let additional = usize::try_from(bytes).map_err(|_| no_memory())?;
        into.try_reserve_exact(additional).map_err(|_| no_memory())
    }

    pub fn damaged(&self, found: impl ToString) -> DataError {
        let found = shorten(&found.to_string(), 300);
        DataError::Damaged {
            path: self.path.to_owned(),
            format: self.format,
            found,
        }
    }

    pub fn io(&self, source: std::io::Error) -> DataError {
        DataError::Io {
            path: self.path.to_owned(),
            source,
        }
    }

    pub fn wrong_shape(&self, found: &[u64]) -> DataError {
        DataError::WrongShape {
            path: self.path.to_owned(),
            found: found.iter().copied().take(8).collect(),
            hint: advice::for_shape(found, self.frame_size),
        }
    }

    /// `found` is the type as the file spells it.
    pub fn wrong_type(
        &self,
        found: &str,
        kind: &Kind,
        shape: &[u64],
        range: Option<advice::Range>,
    ) -> DataError {
        let mut more = range.map_or_else(String::new, |range| format!("; found {range}"));
        if !advice::shape_fits(shape) {
            let shown: Vec<u64> = shape.iter().copied().take(8).collect();
            more += &format!("; they have shape {shown:?}, expected [frames, height, width, 3]");
        }
        DataError::WrongType {
            path: self.path.to_owned(),
            found: shorten(found, 60),
            more,
            hint: advice::for_type(kind, shape, range.as_ref(), self.frame_size),
        }
    }

    /// Runs a reader. If it fails on a file that is recognized as another format, the error says which.
    pub fn known(&self, read: impl FnOnce() -> Result<(), DataError>) -> Result<(), DataError> {
        let error = match read() {
            Err(error @ DataError::Damaged { .. }) => error,
            other => return other,
        };
        if let Some(found) = sniff::emptiness(self.path) {
            return Err(self.damaged(found));
        }
        match sniff::look(self.path) {
            Some((looks, hint)) if !self.format.is_named(looks) => Err(DataError::OtherFormat {
                path: self.path.to_owned(),
                format: self.format,
                looks,
                hint,
            }),
            Some(_) | None => Err(error),
        }
    }

    /// Runs a third-party parser. A panic inside it (an overflow or an index past the end on a damaged file) becomes an
    /// error, after which its state is not used again.
    pub fn guarded<T>(&self, parse: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(parse))
            .unwrap_or_else(|_| Err(self.damaged("its contents made the parser fail")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_a_parser_is_an_error_of_its_file() {
        let source = Source {
            path: Path::new("a.h5"),
            format: Format::Hdf5,
            frame_size: 4,
        };
        let found = source.guarded::<()>(|| panic!("an index past the end"));
        assert!(matches!(
            found,
            Err(DataError::Damaged {
                format: Format::Hdf5,
                ..
            })
        ));
    }

    #[test]
    fn absurd_claims_are_refused_before_memory_is_allocated() {
        let side = u32::MAX as usize;
        let source = Source {
            path: Path::new("a.h5"),
            format: Format::Hdf5,
            frame_size: side,
        };
        let mut bytes = Vec::new();
        let shape = [u64::MAX, side as u64, side as u64, 3];
        let found = source.admit(&shape, 1, 1100, &mut bytes);
        assert!(matches!(found, Err(DataError::ClaimsTooMuch { .. })));
        let found = source.admit(&shape, 1, u128::MAX, &mut bytes);
        assert!(matches!(found, Err(DataError::NoMemory { .. })));
        assert_eq!(bytes.capacity(), 0);
    }
}
