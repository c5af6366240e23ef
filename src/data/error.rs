//! Errors of datasets: where, what was found, what was expected, and what to do about it.

use std::fmt;
use std::path::PathBuf;

use crate::advice::{Advice, Hint};
use crate::numbers::bytes;

/// A kind of file that holds frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Hdf5,
    Npz,
    Npy,
    Png,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hdf5 => "HDF5",
            Self::Npz => "npz",
            Self::Npy => "npy",
            Self::Png => "PNG",
        })
    }
}

impl Format {
    /// Whether a file that looks like this has this format, so that it is only damaged.
    pub(super) fn is_named(self, looks: &str) -> bool {
        match self {
            Self::Hdf5 => looks == "an HDF5 file",
            Self::Npz => looks == "a zip archive",
            Self::Npy => looks == "an npy file",
            Self::Png => looks == "a PNG",
        }
    }
}

/// Why frames could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("no dataset is given; expected at least one path")]
    NothingNamed,
    #[error("no file or folder `{}`", path.display())]
    Missing { path: PathBuf },
    #[error("`{}` cannot be read", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("`{}` is a pipe or a device, expected a file or a folder", path.display())]
    NoFile { path: PathBuf },
    #[error(
        "`{}` is not a dataset: its name {}, expected .h5, .hdf5, .npz, .npy or a folder of PNGs{}",
        path.display(),
        if found.is_empty() { "has no extension".to_owned() } else { format!("ends in `{found}`") },
        looks.map_or_else(String::new, |(looks, _)| format!("; it looks like {looks}"))
    )]
    UnknownFormat {
        path: PathBuf,
        found: String,
        /// What its first bytes look like, and what to do about it.
        looks: Option<(&'static str, &'static str)>,
    },
    #[error("`{}` is not a valid {format} file; it looks like {looks}", path.display())]
    OtherFormat {
        path: PathBuf,
        format: Format,
        looks: &'static str,
        hint: &'static str,
    },
    #[error(
        "`{}` cannot be read as {format}: {found}", path.display()
    )]
    Damaged {
        path: PathBuf,
        format: Format,
        found: String,
    },
    #[error(
        "`{}` has no array `frames`; it has {}",
        path.display(), list(found)
    )]
    NoFrames {
        path: PathBuf,
        found: Vec<String>,
        hint: String,
    },
    #[error(
        "`{}`: the frames have type {found}, expected uint8 (0 to 255){more}",
        path.display()
    )]
    WrongType {
        path: PathBuf,
        found: String,
        /// The range of the values, and the shape if it is wrong, too.
        more: String,
        hint: String,
    },
    #[error(
        "`{}`: the frames have shape {found:?}, expected [frames, height, width, 3] without a 0",
        path.display()
    )]
    WrongShape {
        path: PathBuf,
        found: Vec<u64>,
        hint: String,
    },
    #[error(
        "`{}` has {found} bytes after the array of frames{}",
        path.display(), if *another { ", another array" } else { "" }
    )]
    BytesBehind {
        path: PathBuf,
        found: u64,
        /// Whether they begin like a NumPy array.
        another: bool,
    },
    #[error(
        "`{}` is marked as open for writing: a program is still writing it, or crashed while writing",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error(
        "`{}`: the frames are compressed with the HDF5 filter {filter}, which tinygate cannot read",
        path.display()
    )]
    Filter {
        path: PathBuf,
        filter: String,
        /// Whether it is not one of HDF5's own filters.
        plugin: bool,
    },
    #[error("`{}`: {found}", path.display())]
    Elsewhere {
        path: PathBuf,
        /// Where the frames are instead.
        found: String,
        array: String,
    },
    #[error(
        "`{}` cannot be searched for `frames` arrays: {found}",
        path.display()
    )]
    TooManyGroups { path: PathBuf, found: String },
    #[error(
        "`{}` has a format of HDF5 2 that tinygate cannot read (data layout version: {version})",
        path.display()
    )]
    NewerHdf5 { path: PathBuf, version: u8 },
    #[error(
        "`{}` claims {} of frames, more than a {format} file of {} can hold",
        path.display(),
        bytes(u64::try_from(*claimed).unwrap_or(u64::MAX)),
        bytes(*file_bytes)
    )]
    ClaimsTooMuch {
        path: PathBuf,
        format: Format,
        claimed: u128,
        file_bytes: u64,
    },
    #[error(
        "`{}`: not enough memory for {} of frames",
        path.display(),
        bytes(*needed)
    )]
    NoMemory { path: PathBuf, needed: u64 },
    #[error(
        "`{}`: the frames are {}x{} (height x width), expected {expected}x{expected} (`frame_size`)",
        path.display(), found.0, found.1
    )]
    FrameSize {
        path: PathBuf,
        found: (u64, u64),
        expected: usize,
    },
    #[error("`{}` has {found} pixels, expected 8-bit RGB, RGBA or gray", path.display())]
    PixelType { path: PathBuf, found: String },
    #[error(
        "`{}` is an animated PNG of {frames} frames, expected one picture per file",
        path.display()
    )]
    Animated { path: PathBuf, frames: u32 },
    #[error("the folder `{}` has no .png file; {found}", path.display())]
    EmptyFolder {
        path: PathBuf,
        found: String,
        hint: String,
    },
}

/// Why frames could not be cut into windows.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    #[error("`{name}` is 0, expected at least 1")]
    Zero { name: &'static str },
    #[error(
        "the dataset is too small: its longest recording has {longest} frames, and one window spans {span} \
         (`context_length` {context_length}, `frame_stride` {frame_stride})"
    )]
    NoWindow {
        longest: usize,
        span: usize,
        context_length: usize,
        frame_stride: usize,
    },
    #[error(
        "the dataset is too small: of {windows} windows {held_out} are held out and {training} remain for training \
         (a window that shares frames with a held-out one is not used), expected at least one batch of {batch_size}"
    )]
    TooFew {
        windows: usize,
        held_out: usize,
        training: usize,
        batch_size: usize,
    },
    #[error("there is no window {found}; there are {count}")]
    NoSuchWindow { found: usize, count: usize },
}

impl Advice for DataError {
    fn hints(&self) -> Vec<Hint> {
        let text: String = match self {
            Self::NothingNamed => "give a .h5, .npz or .npy file, or a folder of PNGs".into(),
            Self::Missing { .. } => {
                return vec![Hint::text("check `data.path`"), Hint::RelativePaths];
            }
            Self::Io { .. } => "check that you may read it".into(),
            Self::NoFile { .. } => "write the data to a file".into(),
            Self::UnknownFormat { found, looks, .. } => {
                looks.map_or_else(|| of_ending(found), |(_, hint)| hint).into()
            }
            Self::OtherFormat { hint, .. } => (*hint).into(),
            Self::Damaged { .. } => {
                "if it is truncated or damaged, copy or create it again; otherwise save it again with the library's \
                 defaults"
                    .into()
            }
            Self::NoFrames { hint, .. }
            | Self::WrongType { hint, .. }
            | Self::WrongShape { hint, .. }
            | Self::EmptyFolder { hint, .. } => hint.clone(),
            Self::BytesBehind { .. } => {
                "save each array to its own file, with `np.save` or `np.savez`".into()
            }
            Self::InUse { path } => format!(
                "close that program; if there is none, run `h5clear -s {}`, which is part of HDF5, and check the frames",
                path.display()
            ),
            Self::Filter { plugin, .. } => format!(
                "write them again with gzip, lzf or no compression, in Python with h5py{}: \
                 `g.create_dataset(\"frames\", data=f[\"frames\"][:], compression=\"gzip\")`",
                if *plugin { " and `import hdf5plugin`" } else { "" }
            ),
            Self::Elsewhere { array, .. } => format!(
                "copy the frames to their own file, in Python with h5py: \
                 `g.create_dataset(\"frames\", data=f[\"{array}\"][:])`"
            ),
            Self::TooManyGroups { .. } => {
                "copy the frames to their own file, as an array `frames` at the top level".into()
            }
            Self::NewerHdf5 { .. } => {
                "save it again with the library's defaults, without `libver=\"latest\"`".into()
            }
            Self::ClaimsTooMuch { .. } => {
                "the file is truncated or damaged; copy or create it again".into()
            }
            Self::NoMemory { .. } => "use fewer frames or a machine with more memory".into(),
            Self::FrameSize {
                found, expected, ..
            } => format!(
                "frames are never resized; {}",
                of_size(*found, *expected)
            ),
            Self::PixelType { .. } => {
                "save the picture with 8 bits per channel, with ImageMagick: `mogrify -depth 8 *.png`"
                    .into()
            }
            Self::Animated { path, .. } => format!(
                "save each of its frames as a PNG, with ffmpeg: `ffmpeg -i {} frame_%06d.png`",
                path.display()
            ),
        };
        vec![Hint::text(text)]
    }
}

impl Advice for WindowError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Zero { .. } | Self::NoSuchWindow { .. } => Vec::new(),
            Self::NoWindow { .. } => vec![Hint::text(
                "use more frames, a shorter context or a smaller stride",
            )],
            Self::TooFew { .. } => vec![Hint::text(
                "use more frames, a smaller batch, a shorter context or a smaller stride",
            )],
        }
    }
}

/// What to do about a file, by its extension.
fn of_ending(ending: &str) -> &'static str {
    match ending {
        "png" => "give the folder that contains it, which is read as a sequence of PNGs",
        "jpg" | "jpeg" | "bmp" | "webp" | "tif" | "tiff" => {
            "convert all frames to PNG and give their folder, with ImageMagick: `mogrify -format png *.jpg`"
        }
        "mp4" | "avi" | "mov" | "mkv" | "webm" | "gif" | "m4v" => {
            "save its frames as PNGs and give their folder, with ffmpeg: `ffmpeg -i VIDEO FOLDER/%06d.png`"
        }
        "zip" | "tar" | "gz" | "tgz" | "bz2" | "xz" | "zst" | "7z" => {
            "unpack it and give what it contains"
        }
        "pt" | "pth" | "pkl" | "pickle" => {
            "a pickle is never loaded; load it in Python and save the array with `np.save`"
        }
        _ => "convert the file, or rename it if it has the wrong extension",
    }
}

fn of_size((height, width): (u64, u64), expected: usize) -> String {
    if height == width {
        format!(
            "resize them when you create the dataset, or set `frame_size = {height}` (a multiple of `patch_size`)"
        )
    } else {
        format!(
            "they must be square: crop or pad them, and resize them to {expected}x{expected}, when you create the dataset"
        )
    }
}

/// At most ten names of at most sixty characters, so that a message stays readable whatever a file contains.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 10;
    if names.is_empty() {
        return "no arrays".to_owned();
    }
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{}`", shorten(name, 60)))
        .collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// At most `most` characters of a file's or a parser's text, on one line.
pub(super) fn shorten(text: &str, most: usize) -> String {
    text.chars()
        .take(most)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
