//! `replay`: recompute every decision of every log named, and compare.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tinygate::store::disk::JOURNAL;
use tinygate::store::{FILE_MAGIC, Presence, presence};
use tinygate_replay::{Audit, Outcome, audit_file};

use super::walk::walk;
use crate::args::ReplayArgs;
use crate::exit::Exit;
use crate::output;

/// How deep below a folder.
const DEPTH_MOST: u32 = 8;
/// What a log in a folder is told by: its name's ending, or its first bytes.
const EXTENSION: &str = "tgj";

pub fn perform(args: &ReplayArgs) -> anyhow::Result<Exit> {
    let mut outcomes = Vec::new();
    for place in &args.log {
        if !place.exists() {
            // The others are looked at all the same.
            output::error(&anyhow::anyhow!(
                "there is nothing at `{}`\nhint: name run directories, exported logs, or folders of them",
                place.display()
            ));
            outcomes.push(Outcome::Unreadable);
            continue;
        }
        for path in logs(place)? {
            if path.is_dir() && presence(&path).is_ok_and(|found| found == Presence::Remains) {
                output::say(&format!(
                    "{}: there is no run here, so nothing was checked",
                    path.display()
                ));
                outcomes.push(Outcome::NothingChecked);
                continue;
            }
            let audit = audit_file(&path);
            outcomes.push(audit.outcome);
            print(&path, &audit, args.json)?;
            if args.retrain && audit.outcome == Outcome::Agreed {
                match retrain(args, &path)? {
                    Exit::Done => {}
                    Exit::NothingChecked => outcomes.push(Outcome::NothingChecked),
                    exit @ (Exit::Interrupted | Exit::NoProgress) => return Ok(exit),
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
    walk(place, DEPTH_MOST, |folder| {
        let mut below = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if !path.is_dir() {
                if is_log_file(&path) {
                    found.push(path);
                }
            } else if is_run(&path) {
                found.push(path);
            } else {
                below.push(path);
            }
        }
        Ok(below)
    })?;
    found.sort();
    Ok(found)
}

fn is_run(path: &Path) -> bool {
    path.join(JOURNAL).parent().is_some_and(Path::is_dir)
}

fn is_log_file(path: &Path) -> bool {
    if path
        .extension()
        .is_some_and(|extension| extension == EXTENSION)
    {
        return true;
    }
    let mut start = [0; FILE_MAGIC.len()];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == FILE_MAGIC
}
