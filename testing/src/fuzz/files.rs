//! Files from elsewhere: checkpoints, frames, configs.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tempfile::TempDir;
use tinygate::advice::Advice;
use tinygate::checkpoint::AdamWState;
use tinygate::checkpoint::torch_file::{self, Value};
use tinygate::config::{Config, Override};
use tinygate::data::still::{self, Needs};
use tinygate::data::{Frames, WindowShape, Windows};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Reads the bytes as an archive, and as the pickle inside one.
pub fn pickle(data: &[u8]) {
    check_archive(data);
    if let Some(archive) = archive_of(data) {
        check_archive(&archive);
    }
}

fn check_archive(bytes: &[u8]) {
    let Ok(loaded) = torch_file::read(bytes) else {
        return;
    };
    if let Ok(state) = AdamWState::from_value(&loaded.value) {
        let _ = state.to_value();
    }
    // Opaque values cannot be written.
    let Ok(written) = torch_file::write("archive", &loaded.value) else {
        return;
    };
    let again = torch_file::read(&written).map(|loaded| loaded.value);
    let same = again.is_ok_and(|again| is_same(&again, &loaded.value));
    assert!(same, "a value changes when it is written and read");
}

/// Compares also by text, in which a NaN equals itself.
fn is_same(one: &Value, other: &Value) -> bool {
    one == other || format!("{one:?}") == format!("{other:?}")
}

/// An archive whose pickle is `data`, with storages `0` to `3`.
fn archive_of(data: &[u8]) -> Option<Vec<u8>> {
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let mut add = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("archive/{name}"), options).ok()?;
        zip.write_all(bytes).ok()
    };
    add("data.pkl", data)?;
    add("byteorder", b"little")?;
    for (name, bytes) in [("0", 4), ("1", 32), ("2", 48), ("3", 0)] {
        add(&format!("data/{name}"), &vec![7; bytes])?;
    }
    add("version", b"3\n")?;
    Some(zip.finish().ok()?.into_inner())
}

/// Reads a file of frames. The first byte gives the format, the second the side.
pub fn datasets(data: &[u8]) {
    let Some(([format, side], bytes)) = data.split_first_chunk::<2>() else {
        return;
    };
    let side = [4, 8, 64, 1][usize::from(*side % 4)];
    let name = ["frames.h5", "frames.npz", "frames.npy", "folder/0.png"][usize::from(*format % 4)];
    let Some(file) = folder().map(|folder| folder.join(name)) else {
        return;
    };
    if fs::write(&file, bytes).is_err() {
        return;
    }
    let path = match file.parent() {
        Some(parent) if name.starts_with("folder/") => parent,
        Some(_) | None => &file,
    };
    // The same file twice gives two segments.
    let Ok(frames) = Frames::load(&[path, path], side) else {
        return;
    };
    assert!(frames.count() > 0);
    assert_eq!(frames.bytes().len(), frames.count() * side * side * 3);
    let _ = frames.hash();
    let lengths = frames.recordings().iter().map(|recording| recording.frames);
    let segments = frames.segments().iter().map(|segment| segment.len());
    assert!(lengths.eq(segments), "each recording is a segment");
    let shape = WindowShape {
        context_length: 2,
        frame_stride: 1,
    };
    if let Ok(windows) = Windows::new(Arc::new(frames), shape, 1) {
        let ids = windows.held_out_spread(4);
        assert!(windows.gather(&ids).is_ok());
        let _ = still::check(&windows, Needs { change: true }, None, None);
    }
}

/// A folder for the files of frames.
fn folder() -> Option<PathBuf> {
    static FOLDER: OnceLock<Option<TempDir>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().ok()?;
        fs::create_dir(folder.path().join("folder")).ok()?;
        Some(folder)
    });
    folder.as_ref().map(|folder| folder.path().to_owned())
}

/// Reads a config, and each of its lines as an override of the default one.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let base = Path::new("/folder/of/the/config");
    match Config::parse(text, "config.toml", base, &[]) {
        Ok(loaded) => {
            let config = &loaded.config;
            let again = Config::from_json(&config.to_json());
            assert_eq!(again.as_ref().ok(), Some(config));
            let shown = config.to_toml(&loaded.given);
            let again = Config::parse(&shown, "shown.toml", base, &[]);
            assert_eq!(again.ok().map(|again| again.config).as_ref(), Some(config));
        }
        Err(error) => {
            for problem in error.problems() {
                let _ = (problem.to_string(), problem.fault.hints());
            }
        }
    }
    let overrides: Vec<Override> = text
        .lines()
        .take(8)
        .filter_map(|line| Override::parse("--set", line).ok())
        .collect();
    let _ = Config::parse("", "config.toml", base, &overrides);
}
