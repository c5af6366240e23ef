//! The picture of a gate: true frames next to predicted ones, as a PNG for people.
//!
//! A row is a sample; for each frame it shows the truth to the left of its prediction. Every pixel is drawn twice as
//! wide and high, so that a ball of one pixel is visible, and dark lines separate the cells.
//!
//! The file contains only the frames: no time, no text. It is written under a temporary name, synced and renamed, so a
//! picture that exists is complete.
//!
//! Invariant: [`Grid::split`] returns the bytes that were drawn.

use ::png::{BitDepth, ColorType, Compression, Decoder, Encoder, Filter, Limits};
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::advice::{Advice, Hint};
use crate::durable;

const CHANNELS: usize = 3;
/// Drawn pixels per pixel.
const SCALE: usize = 2;
/// Drawn pixels between two cells and around the grid.
const GAP: usize = 4;
const GAP_COLOR: u8 = 32;
/// The most memory for reading a picture, far more than for any that is written here.
const READ_BYTES_MAX: usize = 256 << 20;

/// Why a picture could not be drawn, written or read.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error(
        "{found} bytes of frames, expected {expected} (rows {rows} * frames {frames} * height {height} * width {width} * 3)"
    )]
    Shape {
        found: usize,
        expected: u128,
        rows: usize,
        frames: usize,
        height: usize,
        width: usize,
    },
    #[error("the picture would be too large to address in memory")]
    Vast,
    #[error("the picture is {found_width}x{found_height} pixels, expected {width}x{height}")]
    Size {
        found_width: usize,
        found_height: usize,
        width: usize,
        height: usize,
    },
    #[error("the picture `{}` cannot be written", path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the picture `{}` cannot be encoded", path.display())]
    Encode {
        path: PathBuf,
        source: ::png::EncodingError,
    },
    #[error("the picture `{}` cannot be read: {found}", path.display())]
    Read { path: PathBuf, found: String },
}

impl Advice for PictureError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            PictureError::Vast => vec![Hint::text("draw fewer samples")],
            PictureError::Shape { .. }
            | PictureError::Size { .. }
            | PictureError::Write { .. }
            | PictureError::Encode { .. }
            | PictureError::Read { .. } => Vec::new(),
        }
    }
}

/// The layout of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Number of samples.
    pub rows: usize,
    /// Frames per sample.
    pub frames: usize,
    /// Height of a frame in pixels.
    pub height: usize,
    /// Width of a frame in pixels.
    pub width: usize,
}

/// A picture in memory: RGB, `[height, width, 3]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pub rgb: Vec<u8>,
}

impl Grid {
    /// Draws `truth` and `prediction`, both uint8 `[rows, frames, height, width, 3]`.
    ///
    /// # Errors
    /// Byte strings of another length, or a picture too large to address.
    pub fn draw(&self, truth: &[u8], prediction: &[u8]) -> Result<Picture, PictureError> {
        self.check(truth)?;
        self.check(prediction)?;
        let (width, height) = self.size().ok_or(PictureError::Vast)?;
        let mut picture = Picture {
            width,
            height,
            rgb: vec![GAP_COLOR; width * height * CHANNELS],
        };
        for (frames, side) in [(truth, 0), (prediction, 1)] {
            for (cell, frame) in frames.chunks_exact(self.frame_bytes()).enumerate() {
                let (top, left) = self.corner(cell, side);
                for (place, pixel) in frame.chunks_exact(CHANNELS).enumerate() {
                    let (y, x) = (
                        top + place / self.width * SCALE,
                        left + place % self.width * SCALE,
                    );
                    for (dy, dx) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                        let at = ((y + dy) * width + x + dx) * CHANNELS;
                        picture.rgb[at..at + CHANNELS].copy_from_slice(pixel);
                    }
                }
            }
        }
        Ok(picture)
    }

    /// The truth and the prediction that [`Self::draw`] drew.
    ///
    /// # Errors
    /// A picture of another size, or one too large to address.
    pub fn split(&self, picture: &Picture) -> Result<(Vec<u8>, Vec<u8>), PictureError> {
        let (width, height) = self.size().ok_or(PictureError::Vast)?;
        if (picture.width, picture.height) != (width, height)
            || picture.rgb.len() != width * height * CHANNELS
        {
            return Err(PictureError::Size {
                found_width: picture.width,
                found_height: picture.height,
                width,
                height,
            });
        }
        let side = |side| {
            let mut frames = Vec::with_capacity(self.rows * self.frames * self.frame_bytes());
            for cell in 0..self.rows * self.frames {
                let (top, left) = self.corner(cell, side);
                for place in 0..self.height * self.width {
                    let (y, x) = (
                        top + place / self.width * SCALE,
                        left + place % self.width * SCALE,
                    );
                    let at = (y * width + x) * CHANNELS;
                    frames.extend_from_slice(&picture.rgb[at..at + CHANNELS]);
                }
            }
            frames
        };
        Ok((side(0), side(1)))
    }

    fn check(&self, frames: &[u8]) -> Result<(), PictureError> {
        let &Self {
            rows,
            frames: per_row,
            height,
            width,
        } = self;
        let expected = [per_row, height, width, CHANNELS]
            .iter()
            .fold(rows as u128, |product, &side| {
                product.saturating_mul(side as u128)
            });
        if expected == frames.len() as u128 && expected > 0 {
            return Ok(());
        }
        Err(PictureError::Shape {
            found: frames.len(),
            expected,
            rows,
            frames: per_row,
            height,
            width,
        })
    }

    fn frame_bytes(&self) -> usize {
        self.height * self.width * CHANNELS
    }

    /// Width and height of the picture; `None` if it is too large to address.
    fn size(&self) -> Option<(usize, usize)> {
        let cell = |side: usize| side.checked_mul(SCALE)?.checked_add(GAP);
        let width = self
            .frames
            .checked_mul(2)?
            .checked_mul(cell(self.width)?)?
            .checked_add(GAP)?;
        let height = self
            .rows
            .checked_mul(cell(self.height)?)?
            .checked_add(GAP)?;
        width.checked_mul(height)?.checked_mul(CHANNELS)?;
        Some((width, height))
    }

    /// Top and left of a frame's truth (side 0) or prediction (side 1).
    fn corner(&self, cell: usize, side: usize) -> (usize, usize) {
        let (row, column) = (cell / self.frames, cell % self.frames * 2 + side);
        (
            GAP + row * (self.height * SCALE + GAP),
            GAP + column * (self.width * SCALE + GAP),
        )
    }
}

impl Picture {
    /// Writes the picture and returns the BLAKE3 hash of the file. The file appears complete or not at all.
    ///
    /// # Errors
    /// Those of the file system, after which an existing file is unchanged.
    pub fn write(&self, path: &Path) -> Result<blake3::Hash, PictureError> {
        let bytes = self.encode().map_err(|source| PictureError::Encode {
            path: path.to_owned(),
            source,
        })?;
        let write = |source| PictureError::Write {
            path: path.to_owned(),
            source,
        };
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let written = put(&temporary, &bytes).and_then(|()| std::fs::rename(&temporary, path));
        if let Err(error) = written {
            // Best effort: the first error is reported.
            let _ = std::fs::remove_file(&temporary);
            return Err(write(error));
        }
        // The rename is durable once the folder is.
        if let Some(folder) = path.parent() {
            durable::sync_folder(folder).map_err(write)?;
        }
        Ok(blake3::hash(&bytes))
    }

    /// BLAKE3 hash of the visible picture: width and height as 32-bit little-endian numbers, then the pixels from the top
    /// left, three bytes each (red, green, blue). It does not depend on the file's compression.
    pub fn pixels(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for side in [self.width, self.height] {
            // Longer sides are impossible in a PNG.
            let side = u32::try_from(side).unwrap_or(u32::MAX);
            hasher.update(&side.to_le_bytes());
        }
        hasher.update(&self.rgb);
        hasher.finalize()
    }

    /// Reads an 8-bit RGB picture.
    ///
    /// # Errors
    /// A file that is missing, damaged, too large or not 8-bit RGB.
    pub fn read(path: &Path) -> Result<Self, PictureError> {
        let failed = |found: String| PictureError::Read {
            path: path.to_owned(),
            found,
        };
        let file = File::open(path).map_err(|error| failed(error.to_string()))?;
        let decoder = Decoder::new_with_limits(
            BufReader::new(file),
            Limits {
                bytes: READ_BYTES_MAX,
            },
        );
        let mut reader = decoder
            .read_info()
            .map_err(|error| failed(error.to_string()))?;
        if reader.output_color_type() != (ColorType::Rgb, BitDepth::Eight) {
            return Err(failed("it is not 8-bit RGB".to_owned()));
        }
        let bytes = reader
            .output_buffer_size()
            .filter(|&bytes| bytes <= READ_BYTES_MAX);
        let mut rgb = vec![0; bytes.ok_or_else(|| failed("it is too large".to_owned()))?];
        let found = reader
            .next_frame(&mut rgb)
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            width: found.width as usize,
            height: found.height as usize,
            rgb,
        })
    }

    fn encode(&self) -> Result<Vec<u8>, ::png::EncodingError> {
        // The encoder refuses sides that are too long for a PNG, because the data do not match them.
        let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, side(self.width), side(self.height));
        encoder.set_color(ColorType::Rgb);
        encoder.set_depth(BitDepth::Eight);
        // Fixed, so that a change of the encoder's defaults does not change the files.
        encoder.set_compression(Compression::Balanced);
        encoder.set_filter(Filter::Up);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.rgb)?;
        writer.finish()?;
        Ok(bytes)
    }
}

fn put(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(bytes)?;
    file.into_inner()
        .map_err(std::io::IntoInnerError::into_error)?
        .sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid {
        rows: 2,
        frames: 3,
        height: 4,
        width: 5,
    };

    fn frames(salt: usize) -> Vec<u8> {
        (0..2 * 3 * 4 * 5 * CHANNELS)
            .map(|place| (place * 7 + salt) as u8)
            .collect()
    }

    #[test]
    fn the_hash_of_pixels_does_not_depend_on_compression() {
        let picture = Picture {
            width: 2,
            height: 1,
            rgb: vec![1, 2, 3, 4, 5, 6],
        };
        let hashed = [2, 0, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4, 5, 6];
        assert_eq!(picture.pixels(), blake3::hash(&hashed));
        let turned = Picture {
            width: 1,
            height: 2,
            ..picture.clone()
        };
        assert_ne!(turned.pixels(), picture.pixels(), "another shape");
        let folder = tempfile::tempdir().unwrap();
        let [ours, other] = ["ours.png", "other.png"].map(|name| folder.path().join(name));
        let ours_bytes = picture.write(&ours).unwrap();
        let mut encoder = Encoder::new(File::create(&other).unwrap(), 2, 1);
        encoder.set_color(ColorType::Rgb);
        encoder.set_compression(Compression::Fast);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&picture.rgb).unwrap();
        writer.finish().unwrap();
        assert_ne!(ours_bytes, blake3::hash(&std::fs::read(&other).unwrap()));
        for file in [ours, other] {
            assert_eq!(Picture::read(&file).unwrap().pixels(), picture.pixels());
        }
    }

    #[test]
    fn what_was_drawn_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate.png");
        let picture = GRID.draw(&frames(0), &frames(100)).unwrap();
        let hash = picture.write(&path).unwrap();
        assert_eq!(hash, blake3::hash(&std::fs::read(&path).unwrap()));
        let read = Picture::read(&path).unwrap();
        assert_eq!(read, picture);
        assert_eq!(GRID.split(&read).unwrap(), (frames(0), frames(100)));
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "a temporary file was left"
        );
    }

    #[test]
    fn the_same_frames_give_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let picture = GRID.draw(&frames(0), &frames(100)).unwrap();
        let first = picture.write(&folder.path().join("a.png")).unwrap();
        assert_eq!(picture.write(&folder.path().join("b.png")).unwrap(), first);
        assert_eq!(
            picture.write(&folder.path().join("a.png")).unwrap(),
            first,
            "over an existing one"
        );
        let other = GRID
            .draw(&frames(0), &frames(101))
            .unwrap()
            .write(&folder.path().join("c.png"))
            .unwrap();
        assert_ne!(other, first);
    }

    #[test]
    fn a_picture_is_two_pixels_a_pixel_with_the_truth_on_the_left() {
        let grid = Grid {
            rows: 1,
            frames: 1,
            height: 1,
            width: 1,
        };
        let picture = grid.draw(&[1, 2, 3], &[7, 8, 9]).unwrap();
        assert_eq!((picture.width, picture.height), (16, 10));
        let at = |y: usize, x: usize| &picture.rgb[(y * 16 + x) * 3..][..3];
        for (y, x) in [(4, 4), (4, 5), (5, 4), (5, 5)] {
            assert_eq!((at(y, x), at(y, x + 6)), (&[1, 2, 3][..], &[7, 8, 9][..]));
        }
        for (y, x) in [(0, 0), (3, 4), (6, 4), (4, 6), (4, 9), (4, 12), (9, 15)] {
            assert_eq!(at(y, x), [GAP_COLOR; 3]);
        }
    }

    #[test]
    fn wrong_sizes_and_bad_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            GRID.draw(&frames(0)[1..], &frames(0)),
            Err(PictureError::Shape { expected: 360, .. })
        ));
        let none = Grid { rows: 0, ..GRID };
        assert!(matches!(
            none.draw(&[], &[]),
            Err(PictureError::Shape { expected: 0, .. })
        ));
        let vast = Grid {
            rows: usize::MAX,
            frames: usize::MAX,
            height: usize::MAX,
            width: usize::MAX,
        };
        assert!(matches!(
            vast.draw(&[], &[]),
            Err(PictureError::Shape { .. })
        ));
        let square = Picture {
            width: 1,
            height: 1,
            rgb: vec![0; 3],
        };
        assert!(matches!(vast.split(&square), Err(PictureError::Vast)));
        let small = Picture {
            width: 1,
            height: 1,
            rgb: vec![0; 3],
        };
        assert!(matches!(
            GRID.split(&small),
            Err(PictureError::Size { width: 88, .. })
        ));
        let path = folder.path().join("no folder").join("gate.png");
        assert!(matches!(
            small.write(&path),
            Err(PictureError::Write { .. })
        ));
        assert!(matches!(
            Picture::read(&path),
            Err(PictureError::Read { .. })
        ));
        let path = folder.path().join("gate.png");
        small.write(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for end in 0..bytes.len() {
            std::fs::write(&path, &bytes[..end]).unwrap();
            let read = Picture::read(&path);
            // Only the end chunk follows the pixels, so a file without its end may be readable.
            assert!(
                read.is_err() || end + 12 >= bytes.len(),
                "read from {end} of {} bytes",
                bytes.len()
            );
        }
    }
}
