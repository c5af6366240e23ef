//! What can be wrong with a dataset: the place, what was found, what was expected, and what to do about it.

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
    /// Whether a file that looks like this has this format and is damaged.
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
    #[error("no dataset is named; expected at least one path")]
    NothingNamed,
    #[error("no file or folder `{}`", path.display())]
    Missing { path: PathBuf },
    #[error("`{}` cannot be read", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("`{}` is neither a file nor a folder, but a pipe or a device", path.display())]
    NoFile { path: PathBuf },
    #[error(
        "`{}` is not a dataset: its name {}, expected .h5, .hdf5, .npz, .npy or a folder of PNGs{}",
        path.display(),
        if found.is_empty() { "has no ending".to_owned() } else { format!("ends in `{found}`") },
        looks.map_or_else(String::new, |(looks, _)| format!("; it looks like {looks}"))
    )]
    UnknownFormat {
        path: PathBuf,
        found: String,
        /// What it looks like by its first bytes, and what to do then.
        looks: Option<(&'static str, &'static str)>,
    },
    #[error("`{}` is no {format} file, it looks like {looks}", path.display())]
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
        /// Where the values lie, and the shape where it is wrong too.
        more: String,
        hint: String,
    },
    #[error(
        "`{}`: the frames have shape {found:?}, expected [frames, height, width, 3] with no 0 in it",
        path.display()
    )]
    WrongShape {
        path: PathBuf,
        found: Vec<u64>,
        hint: String,
    },
    #[error(
        "`{}` holds {found} bytes behind the array of frames{}",
        path.display(), if *another { ", another array" } else { "" }
    )]
    BytesBehind {
        path: PathBuf,
        found: u64,
        /// They begin as a NumPy array does.
        another: bool,
    },
    #[error(
        "`{}` is marked as open for writing: a program still writes it, or crashed while it did",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error(
        "`{}`: the frames are compressed with the HDF5 filter {filter}, which is not read here",
        path.display()
    )]
    Filter {
        path: PathBuf,
        filter: String,
        /// It is none of HDF5's own.
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
        "`{}` cannot be searched for arrays `frames`: {found}",
        path.display()
    )]
    TooManyGroups { path: PathBuf, found: String },
    #[error(
        "`{}` is written in a format of HDF5 2 that is not read here (data layout version: {version})",
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
        "`{}`: no memory for {} of frames",
        path.display(),
        bytes(*needed)
    )]
    NoMemory { path: PathBuf, needed: u64 },
    #[error(
        "`{}`: the frames are {}x{} (height x width), expected {expected}x{expected} by `frame_size`",
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
        "`{}` is an animated PNG of {frames} frames, expected one picture a file",
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
        "the dataset is too small: its longest file has {longest} frames, and one window spans {span} \
         (`context_length` {context_length}, `frame_stride` {frame_stride})"
    )]
    NoWindow {
        longest: usize,
        span: usize,
        context_length: usize,
        frame_stride: usize,
    },
    #[error(
        "the dataset is too small: of {windows} windows {held_out} are held out and {training} are left to train on \
         (a window that shares frames with a held-out one is left out), expected at least one batch of {batch_size}"
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
            Self::NothingNamed => "name a .h5, .npz or .npy file or a folder of PNGs".into(),
            Self::Missing { .. } => {
                return vec![Hint::text("check `data.path`"), Hint::RelativePaths];
            }
            Self::Io { .. } => "check that it is readable to you".into(),
            Self::NoFile { .. } => "write the data to a file".into(),
            Self::UnknownFormat { found, looks, .. } => {
                looks.map_or_else(|| of_ending(found), |(_, hint)| hint).into()
            }
            Self::OtherFormat { hint, .. } => (*hint).into(),
            Self::Damaged { .. } => {
                "copy or make it again if it is truncated or damaged; if it is sound, save it anew with the library's \
                 defaults"
                    .into()
            }
            Self::NoFrames { hint, .. }
            | Self::WrongType { hint, .. }
            | Self::WrongShape { hint, .. }
            | Self::EmptyFolder { hint, .. } => hint.clone(),
            Self::BytesBehind { .. } => {
                "save one array in a file of its own, with `np.save` or `np.savez`".into()
            }
            Self::InUse { path } => format!(
                "close that program; if there is none, run `h5clear -s {}`, which comes with HDF5, and check the frames",
                path.display()
            ),
            Self::Filter { plugin, .. } => format!(
                "write them anew with gzip, lzf or no compression, in Python with h5py{}: \
                 `g.create_dataset(\"frames\", data=f[\"frames\"][:], compression=\"gzip\")`",
                if *plugin { " and `import hdf5plugin`" } else { "" }
            ),
            Self::Elsewhere { array, .. } => format!(
                "copy the frames into a file of their own, in Python with h5py: \
                 `g.create_dataset(\"frames\", data=f[\"{array}\"][:])`"
            ),
            Self::TooManyGroups { .. } => {
                "copy the frames into a file of their own with an array `frames` at the top".into()
            }
            Self::NewerHdf5 { .. } => {
                "save it anew with the library's defaults, without `libver=\"latest\"`".into()
            }
            Self::ClaimsTooMuch { .. } => {
                "the file is truncated or damaged; copy or make it again".into()
            }
            Self::NoMemory { .. } => "use fewer frames or a machine with more memory".into(),
            Self::FrameSize {
                found, expected, ..
            } => format!(
                "frames are never resized here; {}",
                of_size(*found, *expected)
            ),
            Self::PixelType { .. } => {
                "save the picture with 8 bits a channel, with ImageMagick: `mogrify -depth 8 *.png`"
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

/// What to do about a file by the ending of its name.
fn of_ending(ending: &str) -> &'static str {
    match ending {
        "png" => "name the folder that holds it, which is read as a sequence of PNGs",
        "jpg" | "jpeg" | "bmp" | "webp" | "tif" | "tiff" => {
            "convert all frames to PNG and name their folder, with ImageMagick: `mogrify -format png *.jpg`"
        }
        "mp4" | "avi" | "mov" | "mkv" | "webm" | "gif" | "m4v" => {
            "save its frames as PNGs and name their folder, with ffmpeg: `ffmpeg -i VIDEO FOLDER/%06d.png`"
        }
        "zip" | "tar" | "gz" | "tgz" | "bz2" | "xz" | "zst" | "7z" => {
            "unpack it and name what is in it"
        }
        "pt" | "pth" | "pkl" | "pickle" => {
            "a pickle is never loaded; load it in Python and save the array with `np.save`"
        }
        _ => "convert the file, or rename it if it has the wrong ending",
    }
}

fn of_size((height, width): (u64, u64), expected: usize) -> String {
    if height == width {
        format!(
            "resize them when the dataset is made, or set `frame_size = {height}` (a multiple of `patch_size`)"
        )
    } else {
        format!(
            "they must be square: crop or pad them, and resize them to {expected}x{expected}, when the dataset is made"
        )
    }
}

/// At most ten names of at most sixty characters, so that a message stays readable whatever a file holds.
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

/// At most `most` characters of what a file or its parser says, on one line.
pub(super) fn shorten(text: &str, most: usize) -> String {
    text.chars()
        .take(most)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
