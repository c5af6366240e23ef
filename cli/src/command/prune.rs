//! `prune`: deletes the checkpoints that retention may delete.
//!
//! The machine decides what is deleted: the request is an event, and so is each deletion that follows
//! from it. Without `--delete` nothing is written, and the same decisions are only shown.

use std::path::Path;

use serde::Serialize;
use tinygate::controller::{Controller, Fold, Observer};
use tinygate::events::{Event, PruneRequested, Record};
use tinygate::machine::{Decision, Machine, RunState};
use tinygate::run::{EmptyLog, LostCheckpoints, now_ms, read};
use tinygate::store::Store;
use tinygate::trainer::Progress;

use super::user;
use crate::args::PruneArgs;
use crate::exit::Exit;
use crate::output::{self, bytes, count};

pub fn perform(args: &PruneArgs) -> anyhow::Result<Exit> {
    let pruned = if args.delete {
        delete(args)?
    } else {
        preview(args)?
    };
    if args.json {
        output::data_line(&serde_json::to_string(&pruned)?)?;
    } else {
        pruned.print(args)?;
    }
    Ok(Exit::Done)
}

#[derive(Debug, Serialize)]
struct Pruned {
    deleted: bool,
    checkpoints: Vec<Entry>,
    /// All of them.
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Entry {
    /// Relative to the run directory.
    path: String,
    bytes: u64,
}

impl Pruned {
    fn of(dir: &Path, paths: Vec<String>, deleted: bool) -> Pruned {
        let checkpoints: Vec<Entry> = paths
            .into_iter()
            .map(|path| Entry {
                bytes: size(&dir.join(&path)),
                path,
            })
            .collect();
        Pruned {
            deleted,
            bytes: checkpoints.iter().map(|entry| entry.bytes).sum(),
            checkpoints,
        }
    }

    fn print(&self, args: &PruneArgs) -> anyhow::Result<()> {
        let verb = if self.deleted {
            "deleted"
        } else {
            "would delete"
        };
        for entry in &self.checkpoints {
            output::data_line(&format!("{verb} `{}`, {}", entry.path, bytes(entry.bytes)))?;
        }
        let number = self.checkpoints.len() as u64;
        let noun = if number == 1 {
            "checkpoint"
        } else {
            "checkpoints"
        };
        let total = format!("{} {noun}, {}", count(number), bytes(self.bytes));
        if self.checkpoints.is_empty() {
            output::data_line("nothing to delete: best, passed and resume points stay")?;
        } else if self.deleted {
            output::data_line(&format!("{total} deleted"))?;
        } else {
            output::data_line(&format!("{total}; nothing was deleted"))?;
            output::say(&format!(
                "hint: `tinygate prune {} --keep {} --delete` deletes them",
                args.dir.display(),
                args.keep
            ));
        }
        Ok(())
    }
}

fn request(args: &PruneArgs) -> PruneRequested {
    PruneRequested {
        keep_last: args.keep,
        who: user::name(),
    }
}

/// What would be deleted. The log is only read.
fn preview(args: &PruneArgs) -> anyhow::Result<Pruned> {
    let mut machine = Machine::default();
    for record in read(&args.dir)? {
        machine.apply(&record?.event);
    }
    if machine.state().created.is_none() {
        return Err(EmptyLog::at(&args.dir).into());
    }
    machine.apply(&Event::PruneRequested(request(args)));
    let mut paths = Vec::new();
    while let Decision::Record(event) = machine.decide()
        && let Event::CheckpointDeleted(deleted) = &*event
    {
        paths.push(deleted.checkpoint.path.clone());
        machine.apply(&event);
    }
    Ok(Pruned::of(&args.dir, paths, false))
}

fn delete(args: &PruneArgs) -> anyhow::Result<Pruned> {
    let before = preview(args)?;
    let mut fold = Fold::new();
    let (store, repairs) = Store::open_and_read(&args.dir, |record| fold.add(record))?;
    let mut controller = Controller::resume(fold, &store, &args.dir, now_ms)?;
    if let Some(lost) = LostCheckpoints::of(&args.dir, controller.state()) {
        return Err(lost.pruning_error(&args.dir).into());
    }
    controller.record_repairs(repairs.into_iter().map(Into::into))?;
    let mut seen = Deleted::default();
    if !before.checkpoints.is_empty() {
        controller.prune(request(args), &mut seen)?;
    }
    drop(controller);
    store.close()?;
    let entry = |path: String| {
        let known = before.checkpoints.iter().find(|entry| entry.path == path);
        Entry {
            bytes: known.map_or(0, |entry| entry.bytes),
            path,
        }
    };
    let checkpoints: Vec<Entry> = seen.0.into_iter().map(entry).collect();
    Ok(Pruned {
        deleted: true,
        bytes: checkpoints.iter().map(|entry| entry.bytes).sum(),
        checkpoints,
    })
}

/// Paths of the checkpoints whose deletion was recorded.
#[derive(Default)]
struct Deleted(Vec<String>);

impl Observer for Deleted {
    fn recorded(&mut self, record: &Record, _: &RunState) {
        if let Event::CheckpointDeleted(deleted) = &record.event {
            self.0.push(deleted.checkpoint.path.clone());
        }
    }

    fn progressed(&mut self, _: &Progress) {}
}

/// Bytes of the files in a folder, as far as they can be read.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .filter(std::fs::Metadata::is_file)
        .map(|file| file.len())
        .sum()
}
