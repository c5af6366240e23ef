//! `explain`: why a decision was made, in words.

use anyhow::bail;
use tinygate::events::Record;
use tinygate::machine::{self, RunState};

use super::records;
use crate::args::ExplainArgs;
use crate::exit::{EmptyLog, Exit};
use crate::output::{self, Style};

pub fn perform(args: &ExplainArgs) -> anyhow::Result<Exit> {
    let mut state = RunState::empty();
    let mut found: Option<(Record, RunState)> = None;
    let mut any = false;
    for record in records(&args.dir)? {
        let record = record?;
        any = true;
        machine::apply(&mut state, &record.event);
        let wanted = match args.seq {
            Some(seq) => record.seq.get() == seq,
            None => output::is_explained(&record.event),
        };
        if wanted {
            found = Some((record, state.clone()));
        }
        if args.seq.is_some() && found.is_some() {
            break;
        }
    }
    match found {
        Some((record, state)) => {
            output::data_line(&output::event_line(&record))?;
            for line in output::decision_lines(&record.event, &state, Style::of_stdout()) {
                output::data_line(&line)?;
            }
            Ok(Exit::Done)
        }
        None if !any => {
            let place = args.dir.display().to_string();
            Err(EmptyLog { place }.into())
        }
        None => match args.seq {
            Some(seq) => bail!("the log has no event {seq}\nhint: `tinygate log` lists its events"),
            None => bail!("nothing was decided yet\nhint: `tinygate log` lists the events"),
        },
    }
}
