//! `checkpoint verify`: whether training can go on from checkpoints, and why not.
//!
//! A checkpoint inside a run is held to the hashes of the run's log as well.
//! Nothing in a file is executed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tinygate::checkpoint::{self, Acceptance, Accepted, FILE_NAMES, FileRecord, Origin};
use tinygate::events::Event;
use tinygate::store::disk::JOURNAL;

use super::records;
use super::walk::walk;
use crate::args::VerifyArgs;
use crate::exit::Exit;
use crate::output::{self, Style, count};

/// How far below a folder checkpoints are looked for: `<run>/<stage>/checkpoints/<name>`.
const DEPTH_MOST: u32 = 6;
/// How far above a checkpoint its run is.
const RUN_ABOVE: usize = 4;

pub fn verify(args: &VerifyArgs) -> anyhow::Result<Exit> {
    let mut refused = false;
    let mut runs = Runs::default();
    for place in &args.dir {
        for path in &find(place)? {
            refused |= !judge(path, &mut runs)?;
        }
    }
    Ok(if refused { Exit::Refused } else { Exit::Done })
}

/// Prints the verdict; whether it was accepted.
fn judge(path: &Path, runs: &mut Runs) -> anyhow::Result<bool> {
    let style = Style::of_stdout();
    let expected = runs.expected(path)?;
    match checkpoint::accept(path, expected) {
        Acceptance::Accepted(accepted) => {
            let verdict = style.good("accepted");
            let what = describe(&accepted, expected.is_some());
            output::data_line(&format!("{verdict}  {}  {what}", path.display()))?;
            Ok(true)
        }
        Acceptance::Rejected { reason } => {
            let verdict = style.bad("refused ");
            let code = reason.code();
            output::data_line(&format!("{verdict}  {}  {code}: {reason}", path.display()))?;
            Ok(false)
        }
    }
}

fn describe(accepted: &Accepted, in_log: bool) -> String {
    let step = accepted.step.map_or("unknown".to_owned(), count);
    let origin = match accepted.origin {
        Origin::Tinygate if in_log => "tinygate's, hashes as in the log",
        Origin::Tinygate => "tinygate's",
        Origin::Foreign => "foreign",
    };
    format!(
        "{origin}, {step} updates, {} tensors, {} numbers",
        accepted.tensors,
        count(accepted.elements)
    )
}

/// The checkpoints at or below a path, in the order of their names.
fn find(place: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let at = || {
        let place = place.display();
        format!(
            "cannot look into `{place}`\nhint: name a checkpoint's directory, a run, or a folder of them"
        )
    };
    if !fs::metadata(place).with_context(at)?.is_dir() {
        anyhow::bail!(
            "`{}` is a file, and a checkpoint is a directory\nhint: name the directory it is in",
            place.display()
        );
    }
    let mut found = Vec::new();
    walk(place, DEPTH_MOST, |folder| {
        let (is_checkpoint, below) = look(folder)?;
        if is_checkpoint {
            found.push(folder.to_owned());
            return Ok(Vec::new());
        }
        Ok(below)
    })?;
    if found.is_empty() {
        // An empty folder given by name is a checkpoint without its files.
        found.push(place.to_owned());
    }
    found.sort();
    Ok(found)
}

/// Whether a folder has a checkpoint's files, or its name; and the folders in it.
fn look(folder: &Path) -> io::Result<(bool, Vec<PathBuf>)> {
    let mut below = Vec::new();
    let mut has_file = false;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        has_file |= FILE_NAMES.iter().any(|known| name == *known);
        // Links, such as a stage's `best`, lead to what is found anyway.
        if entry.file_type()?.is_dir() && !name.as_encoded_bytes().starts_with(b".") {
            below.push(entry.path());
        }
    }
    Ok((has_file, below))
}

/// What the logs of the runs around checkpoints say of their files; each is read once.
#[derive(Default)]
struct Runs(BTreeMap<PathBuf, BTreeMap<PathBuf, Vec<FileRecord>>>);

impl Runs {
    /// `None` where no log names the checkpoint.
    fn expected(&mut self, path: &Path) -> anyhow::Result<Option<&[FileRecord]>> {
        let path = fs::canonicalize(path)
            .with_context(|| format!("cannot look into `{}`", path.display()))?;
        let has_log = |folder: &&Path| folder.join(JOURNAL).is_file();
        let Some(run) = path.ancestors().skip(1).take(RUN_ABOVE).find(has_log) else {
            return Ok(None);
        };
        if !self.0.contains_key(run) {
            self.0.insert(run.to_owned(), named_in_log(run)?);
        }
        let files = self.0.get(run).and_then(|named| named.get(&path));
        Ok(files.map(Vec::as_slice))
    }
}

/// The files of every checkpoint of a run, as its log names them.
fn named_in_log(run: &Path) -> anyhow::Result<BTreeMap<PathBuf, Vec<FileRecord>>> {
    let mut named = BTreeMap::new();
    for record in records(run)? {
        if let Event::CheckpointWritten(written) = record?.event {
            let files = written.files.iter().map(Into::into).collect();
            named.insert(run.join(written.checkpoint.path), files);
        }
    }
    Ok(named)
}
