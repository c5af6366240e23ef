//! `replay`: recompute every decision of every log named, and compare.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use tinygate_replay::{Audit, Outcome, audit_file};

use crate::args::ReplayArgs;
use crate::exit::Exit;
use crate::output;

/// Logs looked for below one folder.
const FOLDERS_MOST: usize = 100_000;
/// How deep below a folder.
const DEPTH_MOST: u32 = 8;
/// What a log in a folder is told by: its name's ending, or its first bytes.
const EXTENSION: &str = "tgj";
const MAGIC: &[u8] = b"TGJRNL";

pub fn perform(args: &ReplayArgs) -> anyhow::Result<Exit> {
    let mut outcomes = Vec::new();
    for place in &args.log {
        for path in logs(place)? {
            let audit = audit_file(&path);
            outcomes.push(audit.outcome);
            print(&path, &audit, args.json)?;
            if args.retrain && audit.outcome == Outcome::Agreed {
                match retrain(args, &path)? {
                    Exit::Done => {}
                    Exit::NothingChecked => outcomes.push(Outcome::NothingChecked),
                    Exit::Interrupted => return Ok(Exit::Interrupted),
                    Exit::Refused | Exit::Environment | Exit::LogDamaged | Exit::NewerBuild => {
                        outcomes.push(Outcome::Diverged);
                    }
                }
            }
        }
    }
    if outcomes.is_empty() {
        output::say("there is no log here, so nothing was checked");
    }
    Ok(Exit::of_outcome(Outcome::gravest(outcomes)))
}

#[cfg(feature = "train")]
fn retrain(args: &ReplayArgs, path: &Path) -> anyhow::Result<Exit> {
    if !is_run(path) {
        anyhow::bail!(
            "`{}` is no run directory, and chunks are trained again from a run's checkpoints\n\
             hint: name the run directory, or leave `--retrain` out",
            path.display()
        );
    }
    super::retrain::perform(args, path)
}

#[cfg(not(feature = "train"))]
fn retrain(_: &ReplayArgs, _: &Path) -> anyhow::Result<Exit> {
    Err(super::no_trainer())
}

/// One log's answer, as a program reads it.
#[derive(Serialize)]
struct AuditJson<'a> {
    log: String,
    #[serde(flatten)]
    audit: &'a Audit,
}

fn print(path: &Path, audit: &Audit, json: bool) -> anyhow::Result<()> {
    let log = path.display().to_string();
    if json {
        let json = serde_json::to_string(&AuditJson { log, audit })?;
        output::data_line(&json)?;
    } else {
        output::data(&format!("{log}: {audit}"))?;
    }
    Ok(())
}

/// A run directory or a file is a log itself; a folder holds some.
fn logs(place: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !place.is_dir() || is_run(place) {
        return Ok(vec![place.to_owned()]);
    }
    let mut found = Vec::new();
    let mut waiting = vec![(place.to_owned(), 0)];
    let mut seen = 0;
    while let Some((folder, depth)) = waiting.pop() {
        seen += 1;
        if FOLDERS_MOST < seen {
            anyhow::bail!("`{}` has more than {FOLDERS_MOST} folders", place.display());
        }
        let at = || format!("cannot look into `{}`", folder.display());
        for entry in fs::read_dir(&folder).with_context(at)? {
            let path = entry.with_context(at)?.path();
            if path.is_dir() {
                if is_run(&path) {
                    found.push(path);
                } else if depth < DEPTH_MOST {
                    waiting.push((path, depth + 1));
                }
            } else if is_log_file(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_run(path: &Path) -> bool {
    path.join("log").is_dir()
}

fn is_log_file(path: &Path) -> bool {
    if path
        .extension()
        .is_some_and(|extension| extension == EXTENSION)
    {
        return true;
    }
    let mut start = [0; MAGIC.len()];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == MAGIC
}
