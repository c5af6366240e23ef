//! Frames from a folder of PNGs, in the order of their names; one folder is one recording.
//!
//! Names are compared as people number them: `frame_9` comes before `frame_10`. Gray becomes RGB by repeating it, an
//! alpha channel is dropped, a palette is looked up. Other files in the folder are passed over.

use super::error::{DataError, Format};
use super::frames::Source;
use png::{BitDepth, ColorType, Decoder, Limits, Transformations};
use std::cmp::Ordering;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// What decoding one picture may allocate besides its pixels, whose number is checked first.
const DECODER_BYTES_MAX: usize = 64 << 20;

pub(super) fn read_folder(
    folder: &Path,
    frame_size: usize,
    into: &mut Vec<u8>,
) -> Result<(), DataError> {
    let io = |source| DataError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path
            .extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("png"))
        {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(DataError::EmptyFolder {
            path: folder.to_owned(),
        });
    }
    paths.sort_by(|a, b| by_name(&name(a), &name(b)));
    let before = into.len();
    // Once for all: one reservation a picture would copy everything at each.
    let all = Source {
        path: folder,
        format: Format::Png,
        frame_size,
    };
    let bytes = all.frame_bytes().saturating_mul(paths.len() as u64);
    all.reserve(bytes, into)?;
    for path in paths {
        let source = Source {
            path: &path,
            format: Format::Png,
            frame_size,
        };
        let read = source.guarded(|| read_picture(&source, into));
        if read.is_err() {
            into.truncate(before);
            return read;
        }
    }
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
    // Palettes become colours and 1 to 4 bits become 8; 16 bits are refused below, because rounding would lose data.
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(|error| source.damaged(error))?;
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

fn name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Runs of digits compare as numbers, all else byte by byte; names equal in that way compare as bytes.
fn by_name(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    loop {
        let order = match (left.first(), right.first()) {
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (number_left, number_right) = (digits(&mut left), digits(&mut right));
                number_left
                    .len()
                    .cmp(&number_right.len())
                    .then_with(|| number_left.cmp(number_right))
            }
            (Some(x), Some(y)) => {
                (left, right) = (&left[1..], &right[1..]);
                x.cmp(y)
            }
            (None, None) => return a.cmp(b),
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Takes the digits in front off `text` and answers them without leading zeros.
fn digits<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    *text = rest;
    let start = number
        .iter()
        .position(|&byte| byte != b'0')
        .unwrap_or(number.len());
    &number[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, a: &str, b: &str, want: Ordering) {
        assert_eq!(by_name(a, b), want, "{name}");
        assert_eq!(by_name(b, a), want.reverse(), "{name}, the other way round");
    }

    #[test]
    fn names_sort_as_people_number_them() {
        check(
            "nine before ten",
            "frame_9.png",
            "frame_10.png",
            Ordering::Less,
        );
        check(
            "padded numbers as ever",
            "frame_0009.png",
            "frame_0010.png",
            Ordering::Less,
        );
        check(
            "text before the number decides first",
            "a_10.png",
            "b_9.png",
            Ordering::Less,
        );
        check(
            "the second number decides when the first is equal",
            "1_2.png",
            "1_10.png",
            Ordering::Less,
        );
        check("padding decides last", "01.png", "1.png", Ordering::Less);
        check(
            "a number longer than any integer",
            "1",
            "100000000000000000000000000",
            Ordering::Less,
        );
        check("the same name", "7.png", "7.png", Ordering::Equal);
        check("a prefix comes first", "frame", "frame1", Ordering::Less);
    }
}
