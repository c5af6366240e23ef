//! `log`: prints the events.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use tinygate::events::{Event, Record};
use tinygate::run::{EmptyLog, read};

use crate::args::LogArgs;
use crate::exit::Exit;
use crate::output;

/// Between two reads of a log that another process writes.
const POLL: Duration = Duration::from_millis(100);

pub fn perform(args: &LogArgs) -> anyhow::Result<Exit> {
    let mut records = read(&args.dir)?;
    let (mut last, mut printed, mut over) = (None, false, false);
    'log: loop {
        for record in records.by_ref() {
            let record = record?;
            let seq = record.seq.get();
            last = Some(seq);
            if args.to.is_some_and(|to| to < seq) {
                break 'log;
            }
            if args.from.is_none_or(|from| from <= seq) {
                print(&record, args.json)?;
                printed = true;
            }
            over = matches!(record.event, Event::RunFinished(_) | Event::RunStopped(_));
            if args.to == Some(seq) {
                break 'log;
            }
        }
        // A stopped run may be resumed later, but there is nothing to follow now.
        if over || !args.follow {
            break;
        }
        sleep(POLL);
    }
    let Some(last) = last else {
        return Err(EmptyLog::at(&args.dir).into());
    };
    if !printed {
        output::say(&nothing_printed(args, last));
    }
    Ok(Exit::Done)
}

/// Why no event of the log was printed.
fn nothing_printed(args: &LogArgs, last: u64) -> String {
    let from = args.from.unwrap_or(0);
    match args.to {
        Some(to) if to < from => format!("there is no event from {from} to {to}"),
        Some(_) | None => format!("there is no event from {from} on: the log ends at {last}"),
    }
}

fn print(record: &Record, json: bool) -> anyhow::Result<()> {
    let line = if json {
        serde_json::to_string(record).context("cannot write an event as JSON")?
    } else {
        output::event_line(record)
    };
    Ok(output::data_line(&line)?)
}
