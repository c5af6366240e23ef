//! What can be wrong with a dataset: the place, what was found, what was expected, and what to do about it.

use std::fmt;
use std::path::PathBuf;

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

/// Why frames could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error(
        "no dataset is named; expected at least one path\nhint: name a .h5, .npz or .npy file or a folder of PNGs"
    )]
    NothingNamed,
    #[error("no file or folder `{}`\nhint: check `data.path`; in a config it starts at the config's folder, after `--set` at the working directory", path.display())]
    Missing { path: PathBuf },
    #[error("`{}` cannot be read\nhint: check that it is readable to you", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "`{}` is not a dataset: its name ends in `{found}`, expected .h5, .hdf5, .npz, .npy or a folder of PNGs\n\
         hint: convert the file, or rename it if it has the wrong ending",
        path.display()
    )]
    UnknownFormat { path: PathBuf, found: String },
    #[error(
        "`{}` cannot be read as {format}: {found}\n\
         hint: copy or make it again if it is truncated or damaged; if it is sound, save it anew with the library's defaults",
        path.display()
    )]
    Damaged {
        path: PathBuf,
        format: Format,
        found: String,
    },
    #[error(
        "`{}` has no array `frames`; it has {}\nhint: rename the array of frames to `frames`",
        path.display(), list(.found)
    )]
    NoFrames { path: PathBuf, found: Vec<String> },
    #[error(
        "`{}`: the frames have type {found}, expected uint8 (0 to 255)\nhint: save them with `.astype(\"uint8\")`",
        path.display()
    )]
    WrongType { path: PathBuf, found: String },
    #[error(
        "`{}`: the frames have shape {found:?}, expected [frames, height, width, 3] with no 0 in it{}\n\
         hint: RGB comes last; save the array transposed if it comes elsewhere",
        path.display(), if *.fortran { " in C order" } else { "" }
    )]
    WrongShape {
        path: PathBuf,
        found: Vec<u64>,
        fortran: bool,
    },
    #[error(
        "`{}` claims {claimed} bytes of frames, more than a {format} file of {file_bytes} bytes can hold\n\
         hint: the file is truncated or damaged; copy or make it again",
        path.display()
    )]
    ClaimsTooMuch {
        path: PathBuf,
        format: Format,
        claimed: u128,
        file_bytes: u64,
    },
    #[error("`{}`: no memory for {bytes} bytes of frames\nhint: use fewer frames or a machine with more memory", path.display())]
    NoMemory { path: PathBuf, bytes: u64 },
    #[error(
        "`{}`: the frames are {}x{} (height x width), expected {expected}x{expected} by `frame_size`\n\
         hint: frames are never resized here; resize them when the dataset is made, or set `frame_size`",
        path.display(), found.0, found.1
    )]
    FrameSize {
        path: PathBuf,
        found: (u64, u64),
        expected: usize,
    },
    #[error("`{}` has {found} pixels, expected 8-bit RGB, RGBA or gray\nhint: save the picture with 8 bits a channel", path.display())]
    PixelType { path: PathBuf, found: String },
    #[error("the folder `{}` has no .png file\nhint: a folder is a sequence of PNGs; name other files themselves", path.display())]
    EmptyFolder { path: PathBuf },
}

/// Why frames could not be cut into windows.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    #[error("`{name}` is 0, expected at least 1")]
    Zero { name: &'static str },
    #[error(
        "the dataset is too small: its longest file has {longest} frames, and one window spans {span} \
         (`context_length` {context_length}, `frame_stride` {frame_stride})\n\
         hint: use more frames, a shorter context or a smaller stride"
    )]
    NoWindow {
        longest: usize,
        span: usize,
        context_length: usize,
        frame_stride: usize,
    },
    #[error(
        "the dataset is too small: of {windows} windows {held_out} are held out and {training} are left to train on \
         (a window that shares frames with a held-out one is left out), expected at least one batch of {batch_size}\n\
         hint: use more frames, a smaller batch, a shorter context or a smaller stride"
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

/// At most ten names of at most sixty characters, so that a message stays readable whatever a file holds.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 10;
    if names.is_empty() {
        return "no arrays at its top level".to_owned();
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

/// At most `most` characters of what a foreign file or its parser says, on one line.
pub(super) fn shorten(text: &str, most: usize) -> String {
    text.chars()
        .take(most)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
