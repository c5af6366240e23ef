//! Checkpoints of a program: the host hashes their files, and judges them by what it recorded.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use tinygate::checkpoint::{MODEL_FILE, RejectReason};
use tinygate::events::FileRecord;
use tinygate::machine::JudgeCheckpoint;
use tinygate::trainer::wire::{ReportedCheckpoint, ReportedFile};
use tinygate::trainer::{FileJudge, Judge, Verdict, is_absent, judged, refusal};

/// The folder of a stage's checkpoints, in the stage's folder.
const FOLDER: &str = "checkpoints";

/// The BLAKE3 hashes of a checkpoint's files, in the order of its report.
///
/// # Errors
/// A path outside of the stage's checkpoints, a link, or a file that is not as reported.
pub fn hashes(run: &Path, written: &ReportedCheckpoint) -> Result<Vec<String>, String> {
    let path = &written.checkpoint.path;
    let wrong = |why: String| format!("it reported the checkpoint `{path}`, {why}");
    let parts = parts(path).unwrap_or_default();
    if !matches!(parts.as_slice(), [stage, FOLDER, _] if *stage == written.stage.as_str()) {
        let want = format!("which is not in `{}/{FOLDER}`", written.stage);
        return Err(wrong(want));
    }
    if written.files.is_empty() {
        return Err(wrong("which has no files".to_owned()));
    }
    let mut names = BTreeSet::new();
    let mut hashes = Vec::with_capacity(written.files.len());
    for file in &written.files {
        let name = &file.name;
        if !names.insert(name) {
            return Err(wrong(format!("which lists `{name}` twice")));
        }
        let Some(inside) = self::parts(name) else {
            return Err(wrong(format!("whose file `{name}` is not inside it")));
        };
        let below = parts.iter().chain(&inside).copied();
        let found = hash_of(run, below, file);
        hashes.push(found.map_err(|why| wrong(format!("whose file `{name}` {why}")))?);
    }
    Ok(hashes)
}

/// The parts of a relative path without `.` and `..`.
fn parts(path: &str) -> Option<Vec<&str>> {
    let parts = Path::new(path).components().map(|part| match part {
        Component::Normal(name) => name.to_str(),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => {
            None
        }
    });
    let parts: Vec<&str> = parts.collect::<Option<_>>()?;
    // A path that is written in another way is another name in the log.
    (!parts.is_empty() && parts.join("/") == path).then_some(parts)
}

fn hash_of<'a>(
    run: &Path,
    below: impl Iterator<Item = &'a str>,
    file: &ReportedFile,
) -> Result<String, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let mut path = run.to_owned();
    let mut kind = None;
    for part in below {
        path.push(part);
        let found = fs::symlink_metadata(&path).map_err(unreadable)?;
        if found.is_symlink() {
            return Err("is reached through a link".to_owned());
        }
        kind = Some(found);
    }
    if !kind.is_some_and(|kind| kind.is_file()) {
        return Err("is not a regular file".to_owned());
    }
    let (size, hash) = hash(&path).map_err(unreadable)?;
    if size != file.size {
        return Err(format!("has {size} bytes, not {}", file.size));
    }
    match &file.blake3 {
        Some(reported) if *reported != hash => {
            Err(format!("has the BLAKE3 hash {hash}, not {reported}"))
        }
        Some(_) | None => Ok(hash),
    }
}

/// The size of a file and its hash, in hexadecimal.
fn hash(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0_u64;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((size, hasher.finalize().to_hex().to_string())),
            Ok(count) => {
                hasher.update(buffer.get(..count).unwrap_or_default());
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Judges the checkpoints of programs: every file must be as recorded. A checkpoint in TinyWorlds'
/// layout must also be one that tinygate can read.
pub struct RecordJudge {
    directory: PathBuf,
    tinyworlds: FileJudge,
}

impl RecordJudge {
    /// `directory` is the run directory.
    pub fn new(directory: &Path) -> RecordJudge {
        RecordJudge {
            directory: directory.to_owned(),
            tinyworlds: FileJudge::new(directory),
        }
    }

    fn check(&self, checkpoint: &Path, recorded: &FileRecord) -> Result<(), RejectReason> {
        let name = recorded.name.clone();
        let path = checkpoint.join(&name);
        let found = match fs::metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(RejectReason::MissingFile { name });
            }
            Err(error) => return Err(unreadable(name, &error.to_string())),
        };
        if !found.is_file() {
            return Err(unreadable(name, "it is not a regular file"));
        }
        if found.len() != recorded.size {
            return Err(RejectReason::SizeMismatch {
                name,
                expected: recorded.size,
                found: found.len(),
            });
        }
        match hash(&path) {
            Err(error) => Err(unreadable(name, &error.to_string())),
            Ok((_, hash)) if hash != recorded.blake3 => Err(RejectReason::HashMismatch {
                name,
                expected: recorded.blake3.clone(),
                found: hash,
            }),
            Ok(_) => Ok(()),
        }
    }
}

fn unreadable(name: String, error: &str) -> RejectReason {
    RejectReason::Unreadable {
        name,
        error: error.to_owned(),
    }
}

impl Judge for RecordJudge {
    fn judge(&self, asked: &JudgeCheckpoint, weights_only: bool) -> Verdict {
        let path = self.directory.join(&asked.checkpoint.path);
        let mut files = asked.files.iter();
        let accepted = files.try_for_each(|file| self.check(&path, file));
        match accepted {
            Ok(()) if asked.files.iter().any(|file| file.name == MODEL_FILE) => {
                self.tinyworlds.judge(asked, weights_only)
            }
            Err(reason) if is_absent(&reason) => Verdict::Absent {
                detail: refusal(&asked.checkpoint, "to resume from", &reason),
                verdict: judged(&asked.stage, &asked.checkpoint, Err(reason)),
            },
            accepted => Verdict::Judged(judged(&asked.stage, &asked.checkpoint, accepted)),
        }
    }
}
