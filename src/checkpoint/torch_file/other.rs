//! Recognizes other formats that are given instead of a `torch.save` archive, by their
//! first bytes.

/// What the file is, and what to do about it; `None` for an archive or an unknown format.
pub fn other_format(bytes: &[u8]) -> Option<&'static str> {
    let text = |start: &[u8]| bytes.trim_ascii_start().starts_with(start);
    let starts = |start: &[u8]| bytes.starts_with(start);
    if text(b"version https://git-lfs") {
        return Some("a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`");
    }
    if text(b"<!DOCTYPE") || text(b"<!doctype") || text(b"<html") || text(b"<?xml") {
        return Some("a web page, not the file that it links to; download it again");
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some(
            "a tar archive, as PyTorch 0.1 wrote them; unpack it, or load it with PyTorch and save it anew with \
             `torch.save`",
        );
    }
    if bytes.get(8..9) == Some(b"{") && !starts(b"PK") {
        return Some(
            "a safetensors file; load it with Python and save its tensors with `torch.save`",
        );
    }
    if starts(&[0x1f, 0x8b]) {
        return Some("compressed with gzip; unpack it with `gunzip`");
    }
    if starts(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Some("compressed with zstd; unpack it with `zstd -d`");
    }
    if starts(b"\x89HDF\r\n\x1a\n") {
        return Some("an HDF5 file, which holds frames and no checkpoint");
    }
    if starts(b"\x93NUMPY") {
        return Some("a NumPy array; save its values with `torch.save`");
    }
    if starts(b"GGUF") {
        return Some("a GGUF file, which holds no model of TinyWorlds");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, bytes: &[u8], want: Option<&str>) {
        let found = other_format(bytes);
        match want {
            Some(want) => assert!(found.is_some_and(|found| found.contains(want)), "{name}"),
            None => assert_eq!(found, None, "{name}"),
        }
    }

    #[test]
    fn other_formats_are_recognized() {
        let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        check("Git LFS", lfs, Some("git lfs pull"));
        check("a web page", b"\n<!DOCTYPE html><html>", Some("web page"));
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        check("tar", &tar, Some("tar archive"));
        check(
            "safetensors",
            b"\x40\0\0\0\0\0\0\0{\"a\":",
            Some("safetensors"),
        );
        check("gzip", &[0x1f, 0x8b, 8], Some("gzip"));
        check("an archive", b"PK\x03\x04\0\0\0\0{", None);
        check("zeros", &[0; 600], None);
        check("nothing", b"", None);
    }
}
