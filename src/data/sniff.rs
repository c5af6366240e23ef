//! Recognizes a file by its first bytes, if its extension is wrong or missing.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// In what way a file is empty, if it is.
pub(super) fn emptiness(path: &Path) -> Option<&'static str> {
    let start = first_bytes(path)?;
    if start.is_empty() {
        Some("it is empty")
    } else if start.iter().all(|&byte| byte == 0) {
        Some("it begins with zeros, as after an interrupted download")
    } else {
        None
    }
}

fn first_bytes(path: &Path) -> Option<Vec<u8>> {
    let mut start = Vec::new();
    let file = File::open(path).ok()?;
    file.take(512).read_to_end(&mut start).ok()?;
    Some(start)
}

/// What a file looks like, and what to do about it; `None` if it is not recognized.
pub(super) fn look(path: &Path) -> Option<(&'static str, &'static str)> {
    let start = first_bytes(path)?;
    let convert = "convert it, or rename it if only its extension is wrong";
    let text = String::from_utf8_lossy(&start);
    let text = text.trim_start().to_lowercase();
    let begins = |signature: &[u8]| start.starts_with(signature);
    Some(if text.starts_with("version https://git-lfs") {
        (
            "a Git LFS pointer",
            "fetch the file itself with `git lfs pull`",
        )
    } else if text.starts_with("<!doctype")
        || text.starts_with("<html")
        || text.starts_with("<?xml")
    {
        (
            "a web page",
            "the download returned a page instead of the file; download it again",
        )
    } else if begins(b"\x89HDF\r\n\x1a\n") {
        ("an HDF5 file", "rename it to `.h5`")
    } else if begins(b"\x93NUMPY") {
        ("an npy file", "rename it to `.npy`")
    } else if begins(b"PK\x03\x04") {
        (
            "a zip archive",
            "rename it to `.npz` if NumPy wrote it, otherwise unpack it",
        )
    } else if begins(b"\x89PNG\r\n\x1a\n") {
        (
            "a PNG",
            "rename it to `.png`, and give its folder as the path",
        )
    } else if begins(b"\xff\xd8\xff") {
        (
            "a JPEG",
            "convert it to PNG, with Pillow: `Image.open(path).save(\"frame.png\")`",
        )
    } else if begins(b"GIF8") {
        ("a GIF", "save its pictures as PNGs")
    } else if begins(b"RIFF") {
        ("a WebP picture, sound or video", convert)
    } else if begins(b"BM") {
        ("a BMP", convert)
    } else if begins(b"II*\0") || begins(b"MM\0*") {
        ("a TIFF", convert)
    } else if begins(b"\x1f\x8b") {
        ("a gzip archive", "unpack it: `gunzip FILE`")
    } else if begins(b"BZh") || begins(b"\xfd7zXZ") || begins(b"\x28\xb5\x2f\xfd") {
        ("a compressed file", "unpack it")
    } else if begins(b"\x0e\x03\x13\x01") {
        ("an HDF4 file", "convert it with `h4toh5`")
    } else if begins(b"MATLAB 5.0") {
        (
            "a MATLAB 5 file",
            "save it in MATLAB with `-v7.3`, or convert it to npy",
        )
    } else if start.len() > 1 && start[0] == 0x80 && (2..=5).contains(&start[1]) {
        (
            "a Python pickle, which is never loaded",
            "load it in Python and save the array with `np.save`",
        )
    } else {
        return None;
    })
}
