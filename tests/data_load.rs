//! Frames from files that h5py, NumPy and libpng wrote, and what is said about files that hold something else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers are tests"
)]

use std::path::{Path, PathBuf};
use tinygate::data::{DataError, Format, Frames};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/data")
        .join(name)
}

/// What the small fixtures hold: `[5, 4, 4, 3]`.
fn expected() -> Vec<u8> {
    (0..5 * 4 * 4 * 3)
        .map(|place| (place * 7 % 256) as u8)
        .collect()
}

fn message(error: &DataError) -> String {
    error.to_string()
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
fn several_files_follow_each_other_as_segments() {
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
fn what_does_not_fit_is_named_with_what_was_found_expected_and_to_do() {
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
        "Fortran order",
        "fortran.npy",
        4,
        &["in C order", "transposed"],
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
            "4x4 (height x width), expected 64x64 by `frame_size`",
            "never resized",
        ],
    );
    check_refused(
        "a header that promises a trillion frames",
        "vast.h5",
        4,
        &["claims 48000000000000 bytes", "hint"],
    );
}

#[test]
fn paths_that_are_no_dataset_are_named() {
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

/// Found by fuzzing: the parser asked for four gigabytes to read five kilobytes.
#[test]
fn a_chunk_that_passes_the_end_of_the_file_is_refused_before_memory_is_asked_for() {
    let found = include_bytes!("../fuzz/regressions/datasets/chunk-larger-than-the-file");
    let folder = tempfile::tempdir().unwrap();
    // the first two bytes choose format and size
    let error = load_damaged(folder.path(), "a.h5", &found[2..]).unwrap_err();
    assert!(message(&error).contains("a chunk of"), "{error}");
}

/// Loads a damaged copy of a fixture; it may load or be refused, but nothing may panic or abort.
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
fn a_hostile_npy_header_is_refused_before_it_is_parsed() {
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
fn pictures_that_do_not_fit_are_named() {
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
