//! All frames of a dataset in memory, one byte per channel, as in the files.
//!
//! A path is an HDF5 file, an `.npz` or `.npy` file, or a folder of PNGs. Each is one recording, or several: a folder's
//! subfolders, an HDF5 file's groups. A recording becomes one segment, and no window crosses segments.
//!
//! A header's claims are checked against the file's length before memory is allocated.
//!
//! Invariant: the segments follow each other without gaps and cover all frames, and every frame has the same size.

use super::error::{DataError, Format};
use super::source::{CHANNELS, Loading, PassedOver, Recording, Source};
use super::{hdf5, image, numpy, sniff};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

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

impl Frames {
    /// Reads the files and folders in the given order. Every frame must be `frame_size` pixels high and wide.
    ///
    /// # Errors
    /// The first [`DataError`]: a path that is missing, unreadable or damaged, or contains something other than
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

    /// Frames from memory, as one segment; `None` unless `bytes` has one or more whole frames.
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

    /// Height of a frame in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width of a frame in pixels.
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

    /// The frames of each recording, in the order of the files.
    pub fn segments(&self) -> &[Range<usize>] {
        &self.segments
    }

    /// The origin of the frames, one entry per segment; empty for frames from memory.
    pub fn recordings(&self) -> &[Recording] {
        &self.recordings
    }

    /// What was skipped.
    pub fn passed_over(&self) -> &[PassedOver] {
        &self.passed_over
    }

    /// BLAKE3 hash of height, width, the number of segments, their lengths (each a little-endian u64) and all bytes. It
    /// depends only on the frames, not on a file's format, compression or name.
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
    /// Without the bytes, of which there are millions.
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
    /// The same frames, as if from recordings of these lengths.
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
    fn frames_from_memory_are_whole_frames() {
        assert!(Frames::from_bytes(2, 2, vec![0; 12]).is_some());
        for (height, width, bytes) in [(2, 2, 13), (2, 2, 0), (0, 2, 12), (usize::MAX, 2, 12)] {
            assert!(Frames::from_bytes(height, width, vec![0; bytes]).is_none());
        }
    }
}
