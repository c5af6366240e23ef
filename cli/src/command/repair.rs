//! `repair`: repairs both copies of a log, and says how.

use std::path::Path;

use anyhow::Context;
use tinygate::events::{Event, Record, Seq};
use tinygate::machine::Machine;
use tinygate::run::{EmptyLog, LostCheckpoints, now_ms, read};
use tinygate::store::{Durability, EventLog, LogCopy, Repair, RepairOptions, Store, rehearse};
use tinygate_words::describe;

use super::user;
use crate::args::{CopyName, RepairArgs};
use crate::exit::Exit;
use crate::output::{self, count, say};

pub fn perform(args: &RepairArgs) -> anyhow::Result<Exit> {
    let options = RepairOptions {
        accept_loss: args.accept_loss,
        keep: args.keep.map(|copy| match copy {
            CopyName::Journal => LogCopy::Journal,
            CopyName::Sled => LogCopy::Sled,
        }),
    };
    // Whether this repair loses events: then it fails without the option.
    let loses = args.accept_loss && {
        let lossless = RepairOptions {
            accept_loss: false,
            ..options
        };
        rehearse(&args.dir, lossless).is_err()
    };
    let events = if args.dry_run {
        let (events, repairs) = rehearse(&args.dir, options).with_context(|| cannot(&args.dir))?;
        say("tried on a copy of the log; nothing here was changed:");
        say_all(&args.dir, &repairs);
        say(&format!(
            "{} events, the same in both copies",
            count(events)
        ));
        if loses {
            let sound = read(&args.dir)?.map_while(Result::ok);
            let lost = lost_of(&args.dir, sound);
            for checkpoint in lost.iter().flat_map(|lost| &lost.missing) {
                say(&format!(
                    "the checkpoint `{}` would be given up, since its files are missing",
                    checkpoint.path
                ));
            }
        }
        events
    } else {
        repair(&args.dir, options, loses)?
    };
    if events == 0 {
        return Err(EmptyLog::at(&args.dir).into());
    }
    Ok(Exit::Done)
}

fn cannot(dir: &Path) -> String {
    format!("cannot repair `{}`", dir.display())
}

/// Returns how many events the log has.
fn repair(dir: &Path, options: RepairOptions, loses: bool) -> anyhow::Result<u64> {
    let (store, repairs) = Store::repair(dir, options).with_context(|| cannot(dir))?;
    let events = store.head();
    say_all(dir, &repairs);
    say(&format!(
        "{} events, the same in both copies",
        count(events.get())
    ));
    // Whole blocks may hold events that this build cannot read. Then nothing is appended.
    for record in store.read(Seq::FIRST)? {
        record?;
    }
    if events != Seq::FIRST && !repairs.is_empty() {
        let now = now_ms();
        let facts: Vec<(u64, Event)> = repairs
            .into_iter()
            .map(|repair| (now, Event::StoreRepaired(repair.into())))
            .collect();
        store.append(events, &facts, Durability::Durable)?;
    }
    if loses {
        give_up_lost(dir, &store)?;
    }
    store.close()?;
    Ok(events.get())
}

/// The lost events may have deleted checkpoints that the log now has again. These are given up too.
fn give_up_lost(dir: &Path, store: &Store) -> anyhow::Result<()> {
    let records: Vec<Record> = store.read(Seq::FIRST)?.collect::<Result<_, _>>()?;
    let Some(lost) = lost_of(dir, records) else {
        return Ok(());
    };
    let events = match lost.give_up(
        &user::name(),
        "its files went with the events that are lost",
    ) {
        Ok(events) => events,
        // The log is repaired anyway. `resume` refuses, and says what to do.
        Err(none_left) => {
            let hint = output::hint(&none_left).unwrap_or_default();
            say(&format!("warning: {none_left}\nhint: {hint}"));
            return Ok(());
        }
    };
    let now = now_ms();
    for event in events {
        let event = Event::CheckpointGivenUp(event);
        say(&describe(&event));
        store.append(store.head(), &[(now, event)], Durability::Durable)?;
    }
    Ok(())
}

fn lost_of(dir: &Path, records: impl IntoIterator<Item = Record>) -> Option<LostCheckpoints> {
    let mut machine = Machine::default();
    for record in records {
        machine.apply(&record.event);
    }
    LostCheckpoints::of(dir, machine.state())
}

fn say_all(dir: &Path, repairs: &[Repair]) {
    for repair in repairs {
        say(&repair.detail);
        if let Some(quarantine) = &repair.quarantine {
            let place = dir.join(quarantine);
            say(&format!("  its bytes are kept in `{}`", place.display()));
        }
    }
    if repairs.is_empty() {
        say("there was nothing to repair");
    }
}
