//! Frames from a folder of PNGs. The pictures of one folder are one recording, in the order of their names
//! ([`names`]). Each subfolder with pictures is another recording, after that of its parent.
//!
//! Gray is repeated to RGB, an alpha channel is dropped, a palette is resolved. Everything else in the folder is skipped and
//! counted.

use super::error::{DataError, Format, shorten};
use super::names;
use super::source::{Loading, PassedOver, Recording, Source};
use png::{BitDepth, ColorType, Decoder, Limits, Transformations};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// What decoding one picture may allocate in addition to its pixels, whose number is checked first.
const DECODER_BYTES_MAX: usize = 64 << 20;

/// How deeply folders may be nested: links can make a folder its own subfolder.
const DEPTH_MAX: usize = 16;

/// Extensions of other picture formats: in a folder of PNGs each was probably meant to be a frame.
const OTHER_PICTURES: [&str; 28] = [
    "apng", "avif", "bmp", "dds", "exr", "gif", "hdr", "heic", "heif", "ico", "jfif", "jp2", "jpe",
    "jpeg", "jpg", "jxl", "pbm", "pcx", "pgm", "pnm", "ppm", "qoi", "raw", "svg", "tga", "tif",
    "tiff", "webp",
];

/// Extensions of array files, which must be given as paths themselves.
const ARRAYS: [&str; 4] = ["h5", "hdf5", "npy", "npz"];

/// Folders and files that operating systems and synchronizers add.
const SYSTEM_FILES: [&str; 7] = [
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "__MACOSX",
    "@eaDir",
    "$RECYCLE.BIN",
    "System Volume Information",
];

pub(super) fn read_folder(
    folder: &Path,
    frame_size: usize,
    into: &mut Loading,
) -> Result<(), DataError> {
    let mut found = Found::default();
    visit(folder, 0, &mut found)?;
    if found.recordings.is_empty() {
        return Err(empty(folder, &found));
    }
    // One reservation for all pictures: one for each would copy everything each time.
    let all = Source {
        path: folder,
        format: Format::Png,
        frame_size,
    };
    let pictures = found
        .recordings
        .iter()
        .map(|(_, pictures, _)| pictures.len() as u64);
    let bytes = all.frame_bytes().saturating_mul(pictures.sum());
    all.reserve(bytes, &mut into.bytes)?;
    for (folder, pictures, missing) in &found.recordings {
        read_recording(folder, pictures, *missing, frame_size, into)?;
    }
    into.passed_over.extend(found.passed_over());
    Ok(())
}

/// The contents of a folder and its subfolders.
#[derive(Default)]
struct Found {
    /// Folders with their pictures in order, and how many numbers are missing between them.
    recordings: Vec<(PathBuf, Vec<PathBuf>, u64)>,
    /// Skipped entries by folder and reason: how many, and an example.
    others: BTreeMap<(PathBuf, String), (u64, String)>,
    /// Canonical paths of the folders visited.
    seen: BTreeSet<PathBuf>,
}

impl Found {
    fn pass_over(&mut self, folder: &Path, why: String, path: &Path) {
        let (count, example) = self
            .others
            .entry((folder.to_owned(), why))
            .or_insert_with(|| (0, name(path)));
        *count += 1;
        if name(path) < *example {
            *example = name(path);
        }
    }

    fn passed_over(self) -> impl Iterator<Item = PassedOver> {
        self.others
            .into_iter()
            .map(|((path, why), (count, example))| PassedOver {
                path: path.display().to_string(),
                why,
                count,
                example,
            })
    }
}

/// The result of visiting a folder.
#[derive(Clone, Copy)]
enum Visited {
    Now,
    /// Visited before under another name.
    Before,
    TooDeep,
}

fn visit(folder: &Path, depth: usize, found: &mut Found) -> Result<Visited, DataError> {
    let io = |source| DataError::Io {
        path: folder.to_owned(),
        source,
    };
    let known = std::fs::canonicalize(folder).map_err(io)?;
    if found.seen.contains(&known) {
        return Ok(Visited::Before);
    }
    if depth > DEPTH_MAX {
        return Ok(Visited::TooDeep);
    }
    found.seen.insert(known);
    let (mut pictures, mut subfolders) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if is_hidden(&path) {
            found.pass_over(folder, "hidden or made by the system".to_owned(), &path);
        } else if path.is_dir() {
            subfolders.push(path);
        } else {
            let ending = ending(&path);
            let why = if OTHER_PICTURES.contains(&ending.as_str()) {
                format!("picture, but no PNG (.{ending})")
            } else if ARRAYS.contains(&ending.as_str()) {
                format!("file of arrays (.{ending})")
            } else if ending == "png" && path.is_file() {
                pictures.push(path);
                continue;
            } else {
                "no picture".to_owned()
            };
            found.pass_over(folder, why, &path);
        }
    }
    if !pictures.is_empty() {
        let missing = names::sort(&mut pictures);
        found
            .recordings
            .push((folder.to_owned(), pictures, missing));
    }
    names::sort_folders(&mut subfolders);
    for subfolder in subfolders {
        let before = found.recordings.len();
        let why = match visit(&subfolder, depth + 1, found)? {
            Visited::Now if found.recordings.len() == before => "folder without a PNG",
            Visited::Now => continue,
            Visited::Before => "another name of a folder that is read",
            Visited::TooDeep => "folder that lies too deep in others",
        };
        found.pass_over(folder, why.to_owned(), &subfolder);
    }
    Ok(Visited::Now)
}

fn is_hidden(path: &Path) -> bool {
    let name = name(path);
    name.starts_with('.')
        || SYSTEM_FILES
            .iter()
            .any(|system| system.eq_ignore_ascii_case(&name))
}

fn ending(path: &Path) -> String {
    path.extension()
        .map(|ending| ending.to_string_lossy().to_lowercase())
        .unwrap_or_default()
}

fn name(path: &Path) -> String {
    path.file_name()
        .map(|name| shorten(&name.to_string_lossy(), 200))
        .unwrap_or_default()
}

fn empty(folder: &Path, found: &Found) -> DataError {
    let mut by_why: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for ((_, why), (count, example)) in &found.others {
        by_why.entry(why).or_insert((0, example)).0 += count;
    }
    let listed: Vec<String> = by_why
        .iter()
        .map(|(why, (count, example))| format!("{count} x {why}, `{example}`"))
        .collect();
    let has = |start: &str| by_why.keys().any(|why| why.starts_with(start));
    let hint = if has("picture") {
        "convert the pictures to PNG, with ImageMagick: `mogrify -format png *.jpg`"
    } else if has("file of arrays") {
        "give the files themselves in `data.path`, as a list"
    } else {
        "a folder is a sequence of PNGs; give other files as paths themselves"
    };
    DataError::EmptyFolder {
        path: folder.to_owned(),
        found: if listed.is_empty() {
            "it is empty".to_owned()
        } else {
            format!("it has {}", listed.join("; "))
        },
        hint: hint.to_owned(),
    }
}

fn read_recording(
    folder: &Path,
    pictures: &[PathBuf],
    missing: u64,
    frame_size: usize,
    into: &mut Loading,
) -> Result<(), DataError> {
    for path in pictures {
        let source = Source {
            path,
            format: Format::Png,
            frame_size,
        };
        source.known(|| source.guarded(|| read_picture(&source, &mut into.bytes)))?;
    }
    into.recordings.push(Recording {
        path: folder.display().to_string(),
        frames: pictures.len(),
        first: pictures.first().map(|path| name(path)),
        last: pictures.last().map(|path| name(path)),
        missing,
    });
    Ok(())
}

fn read_picture(source: &Source<'_>, into: &mut Vec<u8>) -> Result<(), DataError> {
    let file = File::open(source.path).map_err(|error| source.io(error))?;
    let mut decoder = Decoder::new_with_limits(
        BufReader::new(file),
        Limits {
            bytes: DECODER_BYTES_MAX,
        },
    );
    // Palettes become colours and 1 to 4 bits become 8. 16 bits are refused below, because rounding would lose data.
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(|error| source.damaged(error))?;
    if let Some(animation) = reader.info().animation_control()
        && 1 < animation.num_frames
    {
        return Err(DataError::Animated {
            path: source.path.to_owned(),
            frames: animation.num_frames,
        });
    }
    source.check_size(
        u64::from(reader.info().height),
        u64::from(reader.info().width),
    )?;
    let (color, depth) = reader.output_color_type();
    if depth != BitDepth::Eight {
        let found = format!("{}-bit", depth as u8);
        return Err(DataError::PixelType {
            path: source.path.to_owned(),
            found,
        });
    }
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| source.damaged("its size overflows"))?;
    let mut pixels = Vec::new();
    source.reserve(size as u64, &mut pixels)?;
    pixels.resize(size, 0);
    reader
        .next_frame(&mut pixels)
        .map_err(|error| source.damaged(error))?;
    // Checks what follows the pixels, and that the file is complete.
    reader.finish().map_err(|error| source.damaged(error))?;
    match color {
        ColorType::Rgb => into.extend_from_slice(&pixels),
        ColorType::Rgba => into.extend(
            pixels
                .chunks_exact(4)
                .flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]),
        ),
        ColorType::Grayscale => into.extend(pixels.iter().flat_map(|&gray| [gray; 3])),
        ColorType::GrayscaleAlpha => {
            into.extend(pixels.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]))
        }
        ColorType::Indexed => {
            return Err(DataError::PixelType {
                path: source.path.to_owned(),
                found: "palette".to_owned(),
            });
        }
    }
    Ok(())
}
