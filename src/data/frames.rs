//! All frames of a dataset in memory, one byte a channel, as the files hold them.
//!
//! A path is an HDF5 file, an `.npz` or `.npy` file, or a folder of PNGs. Each is one recording, or several: a folder's
//! subfolders, an HDF5 file's groups. A recording becomes one segment, and no window runs from one into the next.
//!
//! A file's header is believed only as far as its length allows: what it claims is checked before memory is asked for.
//!
//! Invariant: the segments follow each other without gaps and cover all frames, and every frame has the same size.

use super::advice::{self, Kind};
use super::error::{DataError, Format, shorten};
use super::{hdf5, image, numpy, sniff};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes of a pixel: red, green, blue.
pub const CHANNELS: usize = 3;

/// Frames `[count, height, width, 3]`, uint8.
#[derive(Clone, PartialEq, Eq)]
pub struct Frames {
    height: usize,
    width: usize,
    bytes: Vec<u8>,
    segments: Vec<Range<usize>>,
    recordings: Vec<Recording>,
    passed_over: Vec<PassedOver>,
}

/// Frames that follow each other in time, and where they came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// The file or folder; for one of several arrays in a file, `file:/group/frames`.
    pub path: String,
    pub frames: usize,
    /// Names of the first and the last image of a folder.
    pub first: Option<String>,
    pub last: Option<String>,
    /// Numbers missing between their names.
    pub missing: u64,
}

/// What lies beside the frames and was not read, or was never written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// The folder or file it is in.
    pub path: String,
    pub why: String,
    pub count: u64,
    /// The name of one of them.
    pub example: String,
}

/// What has been read so far.
#[derive(Debug, Default)]
pub(super) struct Loading {
    pub bytes: Vec<u8>,
    pub recordings: Vec<Recording>,
    pub passed_over: Vec<PassedOver>,
}

impl Frames {
    /// Reads the files and folders in the given order; every frame must be `frame_size` pixels high and wide.
    ///
    /// # Errors
    /// The first [`DataError`] met: a path that is missing, unreadable or damaged, or that holds something else than
    /// `uint8 [frames, frame_size, frame_size, 3]`.
    pub fn load<P: AsRef<Path>>(paths: &[P], frame_size: usize) -> Result<Self, DataError> {
        if paths.is_empty() {
            return Err(DataError::NothingNamed);
        }
        let mut loading = Loading::default();
        for path in paths {
            read_path(path.as_ref(), frame_size, &mut loading)?;
        }
        let mut first = 0;
        let segments = loading.recordings.iter().map(|recording| {
            first += recording.frames;
            first - recording.frames..first
        });
        Ok(Self {
            height: frame_size,
            width: frame_size,
            segments: segments.collect(),
            bytes: loading.bytes,
            recordings: loading.recordings,
            passed_over: loading.passed_over,
        })
    }

    /// Frames from memory, one segment; `None` unless `bytes` is a whole number of frames and at least one.
    pub fn from_bytes(height: usize, width: usize, bytes: Vec<u8>) -> Option<Self> {
        let frame_bytes = height.checked_mul(width)?.checked_mul(CHANNELS)?;
        if frame_bytes == 0 || bytes.is_empty() || !bytes.len().is_multiple_of(frame_bytes) {
            return None;
        }
        let count = bytes.len() / frame_bytes;
        Some(Self {
            height,
            width,
            bytes,
            segments: std::iter::once(0..count).collect(),
            recordings: Vec::new(),
            passed_over: Vec::new(),
        })
    }

    /// Number of frames.
    pub fn count(&self) -> usize {
        self.bytes
            .len()
            .checked_div(self.frame_bytes())
            .unwrap_or(0)
    }

    /// Pixels from top to bottom.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Pixels from left to right.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes of one frame, `height * width * 3`.
    pub fn frame_bytes(&self) -> usize {
        self.height * self.width * CHANNELS
    }

    /// All frames, `[count, height, width, 3]` in C order.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// One frame, `[height, width, 3]`; `None` past the end.
    pub fn frame(&self, index: usize) -> Option<&[u8]> {
        self.bytes
            .chunks_exact(self.frame_bytes().max(1))
            .nth(index)
    }

    /// Which frames belong to each recording, in the order the files were named.
    pub fn segments(&self) -> &[Range<usize>] {
        &self.segments
    }

    /// Where the frames came from, one entry a segment; empty for frames from memory.
    pub fn recordings(&self) -> &[Recording] {
        &self.recordings
    }

    /// What was not read.
    pub fn passed_over(&self) -> &[PassedOver] {
        &self.passed_over
    }

    /// BLAKE3 of height, width, the number of segments and their lengths (each u64, little-endian) and all bytes. It
    /// depends on the frames alone: not on a file's format, compression or name.
    pub fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for number in [self.height, self.width, self.segments.len()] {
            hasher.update(&(number as u64).to_le_bytes());
        }
        for segment in &self.segments {
            hasher.update(&(segment.len() as u64).to_le_bytes());
        }
        hasher.update(&self.bytes);
        hasher.finalize()
    }
}

impl fmt::Debug for Frames {
    /// Without the bytes: there are millions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = (self.count(), self.height, self.width);
        f.debug_struct("Frames")
            .field("size", &size)
            .field("segments", &self.segments)
            .finish()
    }
}

#[cfg(test)]
impl Frames {
    /// The same frames as if they came from files of these lengths.
    pub(super) fn with_segments(mut self, lengths: &[usize]) -> Self {
        assert_eq!(lengths.iter().sum::<usize>(), self.count());
        let mut first = 0;
        self.segments = lengths
            .iter()
            .map(|&length| {
                first += length;
                first - length..first
            })
            .collect();
        self
    }
}

/// A file about to be read: what every reader needs for its checks and its errors.
pub(super) struct Source<'a> {
    pub path: &'a Path,
    pub format: Format,
    pub frame_size: usize,
}

impl Source<'_> {
    /// Checks a claimed shape and asks for the memory; answers how many frames there are.
    ///
    /// `most` is how many bytes of frames the file can hold at its length.
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
        // The size of a frame is the config's by now, so only the count can be absurd.
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

    /// Bytes of one frame as the config expects it.
    pub fn frame_bytes(&self) -> u64 {
        let side = self.frame_size as u64;
        side.saturating_mul(side).saturating_mul(CHANNELS as u64)
    }

    /// Fails unless a frame of this size is what the config expects.
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

    /// Room for `bytes` more; an error where `Vec` would abort the process.
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

    /// `found` is the type in the file's own words.
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

    /// Runs a reader; if it fails on a file that is plainly of another kind, the error says so.
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

    /// Runs a foreign parser. A panic inside it (an overflow or an index past the end on a damaged file) becomes an
    /// error; nothing that it could have left half done is looked at again.
    pub fn guarded<T>(&self, parse: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(parse))
            .unwrap_or_else(|_| Err(self.damaged("the parser gave up on its contents")))
    }
}

fn read_path(path: &Path, frame_size: usize, into: &mut Loading) -> Result<(), DataError> {
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(DataError::Missing {
                path: path.to_owned(),
            });
        }
        Err(source) => {
            return Err(DataError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    if found.is_dir() {
        return image::read_folder(path, frame_size, into);
    }
    if !found.is_file() {
        return Err(DataError::NoFile {
            path: path.to_owned(),
        });
    }
    let ending = path
        .extension()
        .map(|ending| ending.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    let source = |format| Source {
        path,
        format,
        frame_size,
    };
    let before = into.bytes.len();
    let (format, read): (_, fn(&Source<'_>, u64, &mut Loading) -> _) = match ending.as_str() {
        "h5" | "hdf5" => (Format::Hdf5, hdf5::read),
        "npz" => (Format::Npz, numpy::read_npz),
        "npy" => (Format::Npy, numpy::read_npy),
        _ => {
            return Err(DataError::UnknownFormat {
                path: PathBuf::from(path),
                found: ending,
                looks: sniff::look(path).filter(|(looks, _)| *looks != "a PNG"),
            });
        }
    };
    let source = source(format);
    source.known(|| source.guarded(|| read(&source, found.len(), into)))?;
    debug_assert!(before < into.bytes.len());
    Ok(())
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
    fn absurd_claims_are_refused_before_memory_is_asked_for() {
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

    #[test]
    fn frames_from_memory_are_whole_frames() {
        assert!(Frames::from_bytes(2, 2, vec![0; 12]).is_some());
        for (height, width, bytes) in [(2, 2, 13), (2, 2, 0), (0, 2, 12), (usize::MAX, 2, 12)] {
            assert!(Frames::from_bytes(height, width, vec![0; bytes]).is_none());
        }
    }
}
