//! Loading frames from files written by h5py, NumPy and libpng, and the errors for other files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::path::{Path, PathBuf};
use tinygate::data::{DataError, Format, Frames};
use tinygate_testing::hints;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/data")
        .join(name)
}

/// The content of the small fixtures: `[5, 4, 4, 3]`.
fn expected() -> Vec<u8> {
    (0..5 * 4 * 4 * 3)
        .map(|place| (place * 7 % 256) as u8)
        .collect()
}

/// The error, and its hint on the next line.
fn message(error: &DataError) -> String {
    format!("{error}\nhint: {}", hints::joined(error))
}

#[track_caller]
fn check_loads(name: &str, file: &str) {
    let frames =
        Frames::load(&[fixture(file)], 4).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(frames.bytes(), expected(), "{name}");
    assert_eq!(
        (frames.count(), frames.height(), frames.width()),
        (5, 4, 4),
        "{name}"
    );
    assert_eq!(frames.segments(), std::slice::from_ref(&(0..5)), "{name}");
}

#[test]
fn every_way_to_store_frames_gives_the_same_bytes() {
    check_loads("HDF5 in one piece", "contiguous.h5");
    check_loads("HDF5 in chunks, deflated and shuffled", "gzip_shuffle.h5");
    check_loads("HDF5 in chunks along all axes, lzf, growable", "lzf.h5");
    check_loads("HDF5 in the file format of 1.10", "new_format.h5");
    check_loads("npy", "plain.npy");
    check_loads("npy in Fortran order", "fortran.npy");
    check_loads("npz with `frames` beside another array", "named.npz");
    check_loads("npz, deflated", "deflated.npz");
    check_loads("npz whose only array has another name", "only.npz");
}

#[test]
fn the_shipped_frames_have_the_known_sum() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/pong_frames.h5");
    let frames = Frames::load(&[path], 64).unwrap();
    assert_eq!(
        (frames.count(), frames.height(), frames.width()),
        (6000, 64, 64)
    );
    assert_eq!(
        frames
            .bytes()
            .iter()
            .map(|&byte| u64::from(byte))
            .sum::<u64>(),
        7_227_810_808
    );
}

#[test]
fn the_hash_is_of_the_frames_and_not_of_the_files() {
    let hash = |files: &[&str]| {
        let paths: Vec<PathBuf> = files.iter().map(|file| fixture(file)).collect();
        Frames::load(&paths, 4).unwrap().hash().to_hex().to_string()
    };
    let one = hash(&["contiguous.h5"]);
    assert_eq!(
        one,
        "0f6e04dce982a456cb8b82c314d14755952d09cb98257c7967010c52f9f412dc"
    );
    assert_eq!(hash(&["deflated.npz"]), one);
    assert_ne!(hash(&["contiguous.h5", "plain.npy"]), one);
    let twice = [expected(), expected()].concat();
    let together = Frames::from_bytes(4, 4, twice).unwrap();
    assert_ne!(
        hash(&["contiguous.h5", "plain.npy"]),
        together.hash().to_hex().to_string(),
        "two files have another order"
    );
}

#[test]
fn several_files_become_consecutive_segments() {
    let frames = Frames::load(
        &[
            fixture("lzf.h5"),
            fixture("plain.npy"),
            fixture("named.npz"),
        ],
        4,
    )
    .unwrap();
    assert_eq!(frames.segments(), [0..5, 5..10, 10..15]);
    assert_eq!(frames.bytes(), expected().repeat(3));
    assert_eq!(frames.frame(14), Some(&expected()[4 * 48..]));
    assert_eq!(frames.frame(15), None);
}

#[track_caller]
fn check_refused(name: &str, file: &str, frame_size: usize, wants: &[&str]) {
    let error = Frames::load(&[fixture(file)], frame_size).expect_err(name);
    let found = message(&error);
    for want in wants.iter().chain(&[file]) {
        assert!(found.contains(want), "{name}: `{want}` is not in\n{found}");
    }
}

#[test]
fn errors_say_what_was_found_what_was_expected_and_what_to_do() {
    check_refused(
        "a file format that is not read yet",
        "version_2.h5",
        4,
        &["layout version: 5", "with the library's defaults"],
    );
    check_refused(
        "no such file",
        "absent.h5",
        4,
        &["no file or folder", "hint: check `data.path`"],
    );
    check_refused(
        "another name",
        "other_name.h5",
        4,
        &["no array `frames`; it has `video`", "hint: rename"],
    );
    check_refused("several arrays", "none_named.npz", 4, &["it has `a`, `b`"]);
    check_refused(
        "float32 in HDF5",
        "float.h5",
        4,
        &["type f32, expected uint8", "astype"],
    );
    check_refused("int8 in HDF5", "signed.h5", 4, &["type i8, expected uint8"]);
    check_refused(
        "float64 in NumPy",
        "float.npy",
        4,
        &["'<f8', expected uint8"],
    );
    check_refused(
        "a pickled array is not loaded",
        "pickled.npy",
        4,
        &["'|O', expected uint8"],
    );
    check_refused(
        "no channels",
        "gray.h5",
        4,
        &["shape [5, 4, 4], expected [frames, height, width, 3]"],
    );
    check_refused(
        "channels first",
        "channels_first.h5",
        4,
        &["shape [5, 3, 4, 4], expected", "hint: RGB comes last"],
    );
    check_refused(
        "no frames",
        "empty.h5",
        4,
        &["shape [0, 4, 4, 3], expected"],
    );
    check_refused(
        "another size",
        "lzf.h5",
        64,
        &[
            "4x4 (height x width), expected 64x64 (`frame_size`)",
            "never resized",
        ],
    );
    check_refused(
        "a header that promises a trillion frames",
        "vast.h5",
        4,
        &["claims 43.7 TiB of frames", "hint"],
    );
}

#[test]
fn paths_that_are_not_datasets_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let none: [&Path; 0] = [];
    assert!(matches!(
        Frames::load(&none, 4),
        Err(DataError::NothingNamed)
    ));
    assert!(matches!(
        Frames::load(&[folder.path()], 4),
        Err(DataError::EmptyFolder { .. })
    ));
    let text = folder.path().join("frames.txt");
    std::fs::write(&text, "frames").unwrap();
    let error = Frames::load(&[&text], 4).unwrap_err();
    assert!(
        message(&error).contains("ends in `txt`, expected .h5"),
        "{error}"
    );
    for ending in ["h5", "npz", "npy"] {
        let path = folder.path().join(format!("text.{ending}"));
        std::fs::write(&path, "these are no frames at all, whatever the name says").unwrap();
        assert!(
            matches!(Frames::load(&[&path], 4), Err(DataError::Damaged { .. })),
            "{ending}"
        );
        std::fs::write(&path, "").unwrap();
        assert!(
            matches!(Frames::load(&[&path], 4), Err(DataError::Damaged { .. })),
            "empty {ending}"
        );
    }
}

/// Found by fuzzing: the parser allocated four gigabytes to read five kilobytes.
#[test]
fn a_chunk_past_the_end_of_the_file_is_rejected_before_memory_is_allocated() {
    let found = include_bytes!("../fuzz/regressions/datasets/chunk-larger-than-the-file");
    let folder = tempfile::tempdir().unwrap();
    // The first two bytes choose format and size.
    let error = load_damaged(folder.path(), "a.h5", &found[2..]).unwrap_err();
    assert!(message(&error).contains("a chunk of"), "{error}");
}

/// Loads a damaged copy of a fixture. It may be loaded or rejected, but must not panic or abort.
fn load_damaged(folder: &Path, file: &str, bytes: &[u8]) -> Result<Frames, DataError> {
    let path = folder.join(file);
    std::fs::write(&path, bytes).unwrap();
    Frames::load(&[&path], 4)
}

#[test]
fn truncated_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    for file in [
        "contiguous.h5",
        "gzip_shuffle.h5",
        "lzf.h5",
        "new_format.h5",
        "plain.npy",
        "named.npz",
        "deflated.npz",
    ] {
        let whole = std::fs::read(fixture(file)).unwrap();
        let step = whole.len() / 60 + 1;
        for end in (0..whole.len()).step_by(step) {
            match load_damaged(folder.path(), file, &whole[..end]) {
                Ok(frames) => assert_eq!(
                    frames.bytes(),
                    expected(),
                    "{file} cut to {end}: other frames"
                ),
                Err(
                    DataError::Damaged { .. }
                    | DataError::ClaimsTooMuch { .. }
                    | DataError::NoFrames { .. },
                ) => {}
                Err(other) => panic!("{file} cut to {end}: {other:?}"),
            }
        }
        assert!(
            load_damaged(folder.path(), file, &whole[..whole.len() / 2]).is_err(),
            "{file} cut in half"
        );
    }
}

#[test]
fn flipped_bytes_never_panic_and_never_change_the_shape() {
    let folder = tempfile::tempdir().unwrap();
    for file in [
        "contiguous.h5",
        "lzf.h5",
        "new_format.h5",
        "plain.npy",
        "deflated.npz",
    ] {
        let whole = std::fs::read(fixture(file)).unwrap();
        let step = whole.len() / 400 + 1;
        for place in (0..whole.len()).step_by(step) {
            for value in [0x00, 0xff, whole[place] ^ 0x80] {
                let mut damaged = whole.clone();
                damaged[place] = value;
                if let Ok(frames) = load_damaged(folder.path(), file, &damaged) {
                    assert_eq!(frames.frame_bytes(), 48, "{file}, byte {place} = {value}");
                }
            }
        }
    }
}

#[test]
fn a_hostile_npy_header_is_rejected_before_it_is_parsed() {
    let folder = tempfile::tempdir().unwrap();
    let npy = |version: u8, length: &[u8], text: &[u8]| {
        [b"\x93NUMPY", [version, 0].as_slice(), length, text].concat()
    };
    let deep = "(".repeat(9_000);
    let deep_length = (deep.len() as u16).to_le_bytes();
    let cases = [
        ("four gigabytes of header", npy(2, &[0xff; 4], b"{")),
        (
            "nine thousand brackets",
            npy(1, &deep_length, deep.as_bytes()),
        ),
        ("an unknown version", npy(9, &[2, 0, 0, 0], b"{}")),
    ];
    for (name, bytes) in cases {
        assert!(
            matches!(
                load_damaged(folder.path(), "a.npy", &bytes),
                Err(DataError::Damaged { .. })
            ),
            "{name}"
        );
    }
    let shape =
        "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999, 4, 4, 3), }\n";
    let bytes = npy(1, &(shape.len() as u16).to_le_bytes(), shape.as_bytes());
    match load_damaged(folder.path(), "a.npy", &bytes) {
        Err(
            DataError::ClaimsTooMuch {
                format: Format::Npy,
                ..
            }
            | DataError::Damaged { .. },
        ) => {}
        other => panic!("a shape that the file cannot hold: {other:?}"),
    }
}

/// Writes one picture of `width` x 4 pixels whose channels count up.
fn write_png(path: &Path, color: png::ColorType, depth: png::BitDepth, width: u32) {
    let file = std::fs::File::create(path).unwrap();
    let mut encoder = png::Encoder::new(file, width, 4);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == png::ColorType::Indexed {
        encoder.set_palette(
            (0..768)
                .map(|place| (place * 5 % 256) as u8)
                .collect::<Vec<u8>>(),
        );
    }
    let bytes = width as usize
        * 4
        * color.samples()
        * if depth == png::BitDepth::Sixteen {
            2
        } else {
            1
        };
    let data: Vec<u8> = (0..bytes).map(|place| (place * 3 % 256) as u8).collect();
    encoder
        .write_header()
        .unwrap()
        .write_image_data(&data)
        .unwrap();
}

#[track_caller]
fn check_png(name: &str, color: png::ColorType, pixel: impl Fn(usize) -> [usize; 3]) {
    let folder = tempfile::tempdir().unwrap();
    write_png(&folder.path().join("0.png"), color, png::BitDepth::Eight, 4);
    let frames =
        Frames::load(&[folder.path()], 4).unwrap_or_else(|error| panic!("{name}: {error}"));
    let want: Vec<u8> = (0..16)
        .flat_map(&pixel)
        .map(|value| (value % 256) as u8)
        .collect();
    assert_eq!(frames.bytes(), want, "{name}");
}

#[test]
fn pictures_of_every_8_bit_kind_become_rgb() {
    use png::ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
    check_png("RGB as it is", Rgb, |n| [9 * n, 9 * n + 3, 9 * n + 6]);
    check_png("RGBA without its alpha", Rgba, |n| {
        [12 * n, 12 * n + 3, 12 * n + 6]
    });
    check_png("gray three times", Grayscale, |n| [3 * n; 3]);
    check_png("gray with alpha", GrayscaleAlpha, |n| [6 * n; 3]);
    check_png("a palette's colours", Indexed, |n| {
        [45 * n, 45 * n + 5, 45 * n + 10]
    });
}

#[test]
fn a_folder_is_one_recording_in_the_order_of_its_numbers() {
    let folder = tempfile::tempdir().unwrap();
    for (name, file) in [("frame_10.png", 9), ("frame_9.PNG", 5), ("frame_1.png", 0)] {
        let path = folder.path().join(name);
        let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), 4, 4);
        encoder.set_color(png::ColorType::Grayscale);
        encoder
            .write_header()
            .unwrap()
            .write_image_data(&[file; 16])
            .unwrap();
    }
    std::fs::write(folder.path().join("notes.txt"), "not a picture").unwrap();
    let frames = Frames::load(&[folder.path()], 4).unwrap();
    assert_eq!(frames.segments(), std::slice::from_ref(&(0..3)));
    let first_bytes: Vec<u8> = (0..3)
        .map(|number| frames.frame(number).unwrap()[0])
        .collect();
    assert_eq!(first_bytes, [0, 5, 9]);
}

#[test]
fn pictures_that_do_not_fit_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    write_png(
        &folder.path().join("0.png"),
        png::ColorType::Rgb,
        png::BitDepth::Eight,
        4,
    );
    let second = folder.path().join("1.png");
    write_png(&second, png::ColorType::Rgb, png::BitDepth::Eight, 5);
    let error = Frames::load(&[folder.path()], 4).unwrap_err();
    assert!(
        matches!(
            error,
            DataError::FrameSize {
                found: (4, 5),
                expected: 4,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(message(&error).contains("1.png"), "{error}");
    write_png(&second, png::ColorType::Rgb, png::BitDepth::Sixteen, 4);
    let error = Frames::load(&[folder.path()], 4).unwrap_err();
    assert!(
        message(&error).contains("16-bit pixels, expected 8-bit RGB"),
        "{error}"
    );
    write_png(&second, png::ColorType::Rgb, png::BitDepth::Eight, 4);
    let whole = std::fs::read(&second).unwrap();
    for end in 0..whole.len() - 12 {
        std::fs::write(&second, &whole[..end]).unwrap();
        let cut = Frames::load(&[folder.path()], 4);
        assert!(
            matches!(
                cut,
                Err(DataError::Damaged {
                    format: Format::Png,
                    ..
                })
            ),
            "cut to {end}: {cut:?}"
        );
    }
}

// NumPy files made here, so that a test needs nothing else.

/// An npy file of version 1 with this header.
fn npy(descr: &str, fortran: bool, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let sides: String = shape.iter().map(|side| format!("{side}, ")).collect();
    let order = if fortran { "True" } else { "False" };
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({sides}), }}");
    while (11 + header.len()) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let length = (header.len() as u16).to_le_bytes();
    [
        b"\x93NUMPY\x01\x00".as_slice(),
        &length,
        header.as_bytes(),
        data,
    ]
    .concat()
}

fn npz(entries: &[(&str, &[u8])], method: zip::CompressionMethod) -> Vec<u8> {
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        archive.start_file(format!("{name}.npy"), options).unwrap();
        std::io::Write::write_all(&mut archive, bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

#[track_caller]
fn check_bytes_refused(name: &str, file: &str, bytes: &[u8], wants: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let error = load_damaged(folder.path(), file, bytes).expect_err(name);
    let found = message(&error);
    for want in wants {
        assert!(found.contains(want), "{name}: `{want}` is not in\n{found}");
    }
}

fn floats(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}

#[test]
fn a_wrong_type_gets_a_hint_that_fits_the_values() {
    const SHAPE: [usize; 4] = [5, 4, 4, 3];
    let scaled = |scale: f32, offset: f32| {
        floats(
            expected()
                .iter()
                .map(move |&byte| f32::from(byte) * scale + offset),
        )
    };
    let check = |name: &str, descr: &str, data: &[u8], want: &str| {
        let bytes = npy(descr, false, &SHAPE, data);
        check_bytes_refused(name, "a.npy", &bytes, &["expected uint8 (0 to 255)", want]);
        let packed = npz(&[("frames", &bytes)], zip::CompressionMethod::Deflated);
        check_bytes_refused(name, "a.npz", &packed, &["expected uint8 (0 to 255)", want]);
    };
    check(
        "0 to 1",
        "<f4",
        &scaled(1.0 / 255.0, 0.0),
        "`(frames * 255).round().astype(\"uint8\")`",
    );
    check(
        "-1 to 1",
        "<f4",
        &scaled(1.0 / 127.5, -1.0),
        "`((frames + 1) * 127.5).round().astype(\"uint8\")`",
    );
    check(
        "0 to 255",
        "<f4",
        &scaled(1.0, 0.0),
        "`frames.astype(\"uint8\")`",
    );
    let bits: Vec<u8> = expected().iter().map(|byte| byte & 1).collect();
    check("bool", "|b1", &bits, "`frames.astype(\"uint8\") * 255`");
    let wide: Vec<u8> = expected()
        .iter()
        .flat_map(|&byte| u16::from(byte).to_be_bytes())
        .collect();
    check(
        "bytes in u16, big-endian",
        ">u2",
        &wide,
        "`frames.astype(\"uint8\")`",
    );
    let full: Vec<u8> = expected()
        .iter()
        .flat_map(|&byte| (u16::from(byte) * 257).to_le_bytes())
        .collect();
    check("16 bits", "<u2", &full, "`(frames >> 8).astype(\"uint8\")`");
    let half: Vec<u8> = expected().iter().flat_map(|_| [0x00, 0x38]).collect();
    check("one value", "<f2", &half, "every value 0.5");
    let mut nan = scaled(1.0 / 255.0, 0.0);
    nan[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    check("NaN", "<f4", &nan, "values from 0.00392");
    check("NaN", "<f4", &nan, "1 that are NaN or infinite");
    check(
        "objects",
        "|O",
        b"\x80\x04]",
        "`np.stack(list(frames)).astype(\"uint8\")`",
    );
    check("text", "<U3", b"", "decode each");

    let first = npy("<f4", false, &[5, 3, 4, 4], &scaled(1.0 / 255.0, 0.0));
    check_bytes_refused(
        "floats with channels first",
        "a.npy",
        &first,
        &[
            "shape [5, 3, 4, 4], expected [frames, height, width, 3]",
            "`(frames.transpose(0, 2, 3, 1) * 255).round().astype(\"uint8\")`",
        ],
    );
    check_refused("floats in HDF5", "float.h5", 4, &["found ", "hint: "]);
}

#[test]
fn a_wrong_shape_gets_a_hint_that_can_be_followed() {
    let check = |name: &str, shape: &[usize], want: &str| {
        let bytes = npy("|u1", false, shape, &vec![7; shape.iter().product()]);
        check_bytes_refused(name, "a.npy", &bytes, &[want]);
    };
    check(
        "gray",
        &[5, 4, 4],
        "`np.repeat(frames[..., None], 3, axis=-1)`",
    );
    check("RGBA", &[5, 4, 4, 4], "`frames[..., :3]`");
    check(
        "channels first",
        &[5, 3, 4, 4],
        "`frames.transpose(0, 2, 3, 1)`",
    );
    check("clips", &[2, 5, 4, 4, 3], "several clips");
    check("no frames", &[0, 4, 4, 3], "the array is empty");
    check("not square", &[5, 4, 6, 3], "they must be square");
    check(
        "square, of another size",
        &[5, 8, 8, 3],
        "set `frame_size = 8`",
    );
}

#[test]
fn an_archive_is_read_to_its_end_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let array = npy("|u1", false, &[5, 4, 4, 3], &expected());
    for method in [
        zip::CompressionMethod::Stored,
        zip::CompressionMethod::Deflated,
    ] {
        let whole = npz(&[("frames", &array)], method);
        let start = 30 + "frames.npy".len();
        let mut noticed = 0;
        for place in start..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            match load_damaged(folder.path(), "a.npz", &damaged) {
                Ok(frames) => assert_eq!(frames.bytes(), expected(), "{method:?}, byte {place}"),
                Err(_) => noticed += 1,
            }
        }
        assert!(0 < noticed, "{method:?}");
    }
}

#[test]
fn bytes_after_the_array_are_refused() {
    let array = npy("|u1", false, &[5, 4, 4, 3], &expected());
    let one_more = [array.as_slice(), &[0]].concat();
    let twice = [array.as_slice(), &array].concat();
    check_bytes_refused(
        "one byte",
        "a.npy",
        &one_more,
        &["1 bytes after the array", "hint: "],
    );
    check_bytes_refused("two arrays", "a.npy", &twice, &["another array"]);
    for method in [
        zip::CompressionMethod::Stored,
        zip::CompressionMethod::Deflated,
    ] {
        let packed = npz(&[("frames", &one_more)], method);
        check_bytes_refused(
            "one byte in an archive",
            "a.npz",
            &packed,
            &["1 bytes after the array"],
        );
    }
}

#[test]
fn fortran_order_gives_the_same_frames() {
    let (frames, side) = (70, 4);
    let pixels: Vec<u8> = (0..frames * side * side * 3)
        .map(|place| (place * 11 % 251) as u8)
        .collect();
    let mut columns = Vec::new();
    for (channel, column, row) in (0..3).flat_map(|channel| {
        (0..side).flat_map(move |column| (0..side).map(move |row| (channel, column, row)))
    }) {
        columns
            .extend((0..frames).map(|n| pixels[((n * side + row) * side + column) * 3 + channel]));
    }
    let folder = tempfile::tempdir().unwrap();
    let bytes = npy("|u1", true, &[frames, side, side, 3], &columns);
    assert_eq!(
        load_damaged(folder.path(), "a.npy", &bytes)
            .unwrap()
            .bytes(),
        pixels
    );
    let packed = npz(&[("frames", &bytes)], zip::CompressionMethod::Deflated);
    assert_eq!(
        load_damaged(folder.path(), "a.npz", &packed)
            .unwrap()
            .bytes(),
        pixels
    );
    let cut = load_damaged(folder.path(), "a.npy", &bytes[..bytes.len() - 1]);
    assert!(matches!(cut, Err(DataError::Damaged { .. })), "{cut:?}");
}

#[test]
fn a_file_of_another_format_is_recognized() {
    let array = npy("|u1", false, &[5, 4, 4, 3], &expected());
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    check_bytes_refused(
        "npy as h5",
        "a.h5",
        &array,
        &[
            "not a valid HDF5 file",
            "an npy file",
            "rename it to `.npy`",
        ],
    );
    check_bytes_refused("npy as npz", "a.npz", &array, &["an npy file"]);
    check_bytes_refused(
        "an LFS pointer",
        "a.h5",
        lfs,
        &["Git LFS pointer", "`git lfs pull`"],
    );
    check_bytes_refused("a page", "a.npz", b"<!DOCTYPE html><html>", &["a web page"]);
    check_bytes_refused(
        "a pickle",
        "a.npy",
        b"\x80\x04\x95",
        &["pickle, which is never loaded"],
    );
    check_bytes_refused("empty", "a.npy", b"", &["it is empty"]);
    check_bytes_refused("zeros", "a.h5", &[0; 4096], &["begins with zeros"]);
    check_bytes_refused("a video", "a.mp4", b"", &["ends in `mp4`", "ffmpeg"]);
    let h5 = std::fs::read(fixture("contiguous.h5")).unwrap();
    check_bytes_refused(
        "HDF5 as MATLAB names it",
        "a.mat",
        &h5,
        &["an HDF5 file", "rename it to `.h5`"],
    );
    check_bytes_refused(
        "no extension",
        "frames",
        &array,
        &["has no extension", "rename it to `.npy`"],
    );
    check_bytes_refused(
        "one picture",
        "a.png",
        b"",
        &["give the folder that contains it"],
    );
}

// HDF5 files written by h5py. tests/interop/data_files.py creates many more.

#[test]
fn links_within_a_file_are_followed() {
    check_loads("a soft link in the format of 1.8", "soft_link.h5");
    check_loads("a soft link in the format of 1.10", "soft_link_new.h5");
    check_loads(
        "a soft link among so many that a heap holds them",
        "soft_link_dense.h5",
    );
    check_refused(
        "a link into another file",
        "external_link.h5",
        4,
        &["external link to `/obs` in `other.h5`", "hint: "],
    );
}

#[test]
fn arrays_in_groups_are_recordings_in_the_order_of_their_names() {
    let frames = Frames::load(&[fixture("in_groups.h5")], 4).unwrap();
    assert_eq!(frames.segments(), [0..5, 5..10]);
    let want: Vec<u8> = [9, 10]
        .iter()
        .flat_map(|number| expected().into_iter().map(move |byte| byte ^ number))
        .collect();
    assert_eq!(frames.bytes(), want);
    let paths: Vec<&str> = frames
        .recordings()
        .iter()
        .map(|found| found.path.as_str())
        .collect();
    assert!(paths[0].ends_with("in_groups.h5:/ep9/frames"), "{paths:?}");
}

#[test]
fn links_that_are_not_followed_are_reported() {
    let frames = Frames::load(&[fixture("external_in_group.h5")], 4).unwrap();
    assert_eq!(frames.bytes(), expected());
    let found: Vec<(&str, &str)> = frames
        .passed_over()
        .iter()
        .map(|found| (found.why.as_str(), found.example.as_str()))
        .collect();
    let want = [
        ("link into another file, which is not followed", "/ep1"),
        ("link that leads nowhere", "/ep2/frames"),
    ];
    assert_eq!(found, want);
}

#[test]
fn unsupported_hdf5_features_are_errors_with_hints() {
    check_refused(
        "a writer that crashed",
        "in_use.h5",
        4,
        &["marked as open for writing", "`h5clear -s "],
    );
    check_refused(
        "a filter",
        "blosc.h5",
        4,
        &["blosc (32001)", "import hdf5plugin", "compression=\"gzip\""],
    );
    check_refused(
        "the format of HDF5 2",
        "version_2.h5",
        4,
        &["HDF5 2", "data layout version: 5"],
    );
    check_refused(
        "floats",
        "float.h5",
        4,
        &[
            "type f32, expected uint8 (0 to 255); found values from ",
            "`",
        ],
    );
}

#[test]
fn damaged_links_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    for file in [
        "soft_link.h5",
        "soft_link_new.h5",
        "soft_link_dense.h5",
        "external_in_group.h5",
    ] {
        let whole = std::fs::read(fixture(file)).unwrap();
        let step = whole.len() / 300 + 1;
        for place in (0..whole.len()).step_by(step) {
            for value in [0x00, 0xff, whole[place] ^ 0x10] {
                let mut damaged = whole.clone();
                damaged[place] = value;
                if let Ok(frames) = load_damaged(folder.path(), file, &damaged) {
                    assert_eq!(frames.frame_bytes(), 48, "{file}, byte {place} = {value}");
                }
            }
        }
    }
}

// Folders of pictures.

fn write_gray(path: &Path, gray: u8) {
    let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), 4, 4);
    encoder.set_color(png::ColorType::Grayscale);
    encoder
        .write_header()
        .unwrap()
        .write_image_data(&[gray; 16])
        .unwrap();
}

#[test]
fn folders_that_are_not_read_are_reported_with_a_reason() {
    let deep = format!("{}/1.png", ["d"; 17].join("/"));
    let folder = pictures(&[("a/1.png", 1), (&deep, 2)]);
    #[cfg(unix)]
    std::os::unix::fs::symlink("a", folder.path().join("z")).unwrap();
    let frames = Frames::load(&[folder.path()], 4).unwrap();
    assert_eq!(frames.count(), 1);
    let reasons: Vec<&str> = frames
        .passed_over()
        .iter()
        .map(|found| found.why.as_str())
        .collect();
    assert!(
        reasons.contains(&"folder that lies too deep in others"),
        "{reasons:?}"
    );
    assert!(
        cfg!(not(unix)) || reasons.contains(&"another name of a folder that is read"),
        "{reasons:?}"
    );
}

/// A folder of gray pictures, named by their values.
fn pictures(names: &[(&str, u8)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, gray) in names {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_gray(&path, *gray);
    }
    folder
}

fn grays(frames: &Frames) -> Vec<u8> {
    (0..frames.count())
        .map(|number| frames.frame(number).unwrap()[0])
        .collect()
}

#[test]
fn hidden_files_are_not_frames() {
    let folder = pictures(&[
        ("f0.png", 0),
        ("f1.png", 1),
        (".thumb.png", 9),
        (".cache/f0.png", 9),
    ]);
    std::fs::write(folder.path().join("._f0.png"), "Mac OS X").unwrap();
    std::fs::write(folder.path().join("Thumbs.db"), "").unwrap();
    std::fs::create_dir(folder.path().join("@eaDir")).unwrap();
    write_gray(&folder.path().join("@eaDir/f0.png"), 9);
    let frames = Frames::load(&[folder.path()], 4).unwrap();
    assert_eq!(grays(&frames), [0, 1]);
    let [found] = frames.passed_over() else {
        panic!("{:?}", frames.passed_over());
    };
    assert_eq!((found.count, found.example.as_str()), (5, "._f0.png"));
}

#[test]
fn files_that_are_not_read_are_counted() {
    let folder = pictures(&[
        ("f0.png", 0),
        ("f1.png", 1),
        ("f2.png", 2),
        ("f5.png", 5),
        ("f6.png", 6),
    ]);
    for name in ["f3.jpg", "f4.JPG", "f7.webp", "notes.txt"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let frames = Frames::load(&[folder.path()], 4).unwrap();
    let [recording] = frames.recordings() else {
        panic!("{:?}", frames.recordings());
    };
    assert_eq!(recording.first.as_deref(), Some("f0.png"));
    assert_eq!(recording.last.as_deref(), Some("f6.png"));
    assert_eq!((recording.frames, recording.missing), (5, 2));
    let found: Vec<(&str, u64, &str)> = frames
        .passed_over()
        .iter()
        .map(|found| (found.why.as_str(), found.count, found.example.as_str()))
        .collect();
    let want = [
        ("folder without a PNG", 1, "empty"),
        ("no picture", 1, "notes.txt"),
        ("picture, but no PNG (.jpg)", 2, "f3.jpg"),
        ("picture, but no PNG (.webp)", 1, "f7.webp"),
    ];
    assert_eq!(found, want);
}

#[test]
fn subfolders_are_separate_recordings() {
    let folder = pictures(&[
        ("top.png", 1),
        ("ep1.10/0.png", 100),
        ("ep1.9/1.png", 91),
        ("ep1.9/0.png", 90),
        ("deep/er/0.png", 50),
    ]);
    let frames = Frames::load(&[folder.path()], 4).unwrap();
    assert_eq!(grays(&frames), [1, 50, 90, 91, 100]);
    assert_eq!(frames.segments(), [0..1, 1..2, 2..4, 4..5]);
    let ends: Vec<bool> = ["", "deep/er", "ep1.9", "ep1.10"]
        .iter()
        .zip(frames.recordings())
        .map(|(end, recording)| recording.path.ends_with(end))
        .collect();
    assert_eq!(ends, [true; 4]);
}

#[cfg(unix)]
#[test]
fn a_folder_that_links_to_itself_is_read_once() {
    let folder = pictures(&[("0.png", 1), ("more/0.png", 2)]);
    std::os::unix::fs::symlink(folder.path(), folder.path().join("more/again")).unwrap();
    assert_eq!(grays(&Frames::load(&[folder.path()], 4).unwrap()), [1, 2]);
}

#[test]
fn the_error_for_a_folder_without_pngs_lists_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let check = |wants: &[&str]| {
        let found = message(&Frames::load(&[folder.path()], 4).unwrap_err());
        for want in wants {
            assert!(found.contains(want), "`{want}` is not in\n{found}");
        }
    };
    check(&["it is empty"]);
    std::fs::write(folder.path().join("ep0.npz"), "").unwrap();
    check(&[
        "1 x file of arrays (.npz), `ep0.npz`",
        "give the files themselves",
    ]);
    std::fs::write(folder.path().join("0.jpg"), "").unwrap();
    check(&["1 x picture, but no PNG (.jpg), `0.jpg`", "mogrify"]);
}

#[cfg(unix)]
#[test]
fn a_pipe_is_rejected() {
    let folder = pictures(&[("0.png", 1)]);
    for name in ["a.npy", "1.png"] {
        let made = std::process::Command::new("mkfifo")
            .arg(folder.path().join(name))
            .status();
        assert!(made.unwrap().success());
    }
    let error = Frames::load(&[folder.path().join("a.npy")], 4).unwrap_err();
    assert!(matches!(error, DataError::NoFile { .. }), "{error:?}");
    assert_eq!(grays(&Frames::load(&[folder.path()], 4).unwrap()), [1]);
}

#[test]
fn frames_named_by_times_are_in_the_order_of_time() {
    let folder = pictures(&[
        ("0.25.png", 1),
        ("0.5.png", 2),
        ("-1.png", 0),
        ("10.0.png", 4),
        ("1.75.png", 3),
    ]);
    assert_eq!(
        grays(&Frames::load(&[folder.path()], 4).unwrap()),
        [0, 1, 2, 3, 4]
    );
}

#[test]
fn an_animated_picture_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.png");
    let mut encoder = png::Encoder::new(std::fs::File::create(&path).unwrap(), 4, 4);
    encoder.set_animated(3, 0).unwrap();
    let mut writer = encoder.write_header().unwrap();
    for gray in 0..3 {
        writer.write_image_data(&[gray; 16]).unwrap();
    }
    writer.finish().unwrap();
    let error = Frames::load(&[folder.path()], 4).unwrap_err();
    assert!(
        message(&error).contains("animated PNG of 3 frames"),
        "{error}"
    );
    std::fs::write(&path, b"\xff\xd8\xff\xe0\x00\x10JFIF").unwrap();
    let error = Frames::load(&[folder.path()], 4).unwrap_err();
    assert!(message(&error).contains("looks like a JPEG"), "{error}");
}

#[test]
fn a_picture_is_read_and_checked_to_its_end() {
    let folder = pictures(&[("0.png", 1)]);
    let path = folder.path().join("0.png");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 12]).unwrap();
    let cut = Frames::load(&[folder.path()], 4);
    assert!(
        matches!(cut, Err(DataError::Damaged { .. })),
        "no end: {cut:?}"
    );
    // From the header chunk on, a checksum covers each bit.
    for place in 16..whole.len() {
        let mut damaged = whole.clone();
        damaged[place] ^= 4;
        std::fs::write(&path, &damaged).unwrap();
        if let Ok(frames) = Frames::load(&[folder.path()], 4) {
            assert_eq!(grays(&frames), [1], "byte {place}");
        }
    }
}
