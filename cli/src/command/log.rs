//! `log`: the events themselves.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use tinygate::events::{Event, Record};

use super::records;
use crate::args::LogArgs;
use crate::exit::{EmptyLog, Exit};
use crate::output;

/// Between two looks at a log that another process writes.
const LOOK: Duration = Duration::from_millis(100);

pub fn perform(args: &LogArgs) -> anyhow::Result<Exit> {
    let mut records = records(&args.dir)?;
    let (mut read, mut over) = (false, false);
    loop {
        for record in records.by_ref() {
            let record = record?;
            read = true;
            let seq = record.seq.get();
            if args.to.is_some_and(|to| to < seq) {
                return Ok(Exit::Done);
            }
            if args.from.is_none_or(|from| from <= seq) {
                print(&record, args.json)?;
            }
            over = matches!(record.event, Event::RunFinished(_) | Event::RunStopped(_));
            if args.to == Some(seq) {
                return Ok(Exit::Done);
            }
        }
        // A stopped run may go on, in its log and beyond; a follower of the last word is done.
        if over || !args.follow {
            break;
        }
        sleep(LOOK);
    }
    if !read {
        let place = args.dir.display().to_string();
        return Err(EmptyLog { place }.into());
    }
    Ok(Exit::Done)
}

fn print(record: &Record, json: bool) -> anyhow::Result<()> {
    let line = if json {
        serde_json::to_string(record).context("cannot write an event as JSON")?
    } else {
        output::event_line(record)
    };
    Ok(output::data_line(&line)?)
}
