//! `explain`: why a decision was made, in words.

use anyhow::bail;
use tinygate::events::{Event, Policy, Record};
use tinygate_replay::explain;

use super::records;
use crate::args::ExplainArgs;
use crate::exit::{EmptyLog, Exit};
use crate::output;

pub fn perform(args: &ExplainArgs) -> anyhow::Result<Exit> {
    let mut policy: Option<Policy> = None;
    let mut found: Option<Record> = None;
    let mut any = false;
    for record in records(&args.dir)? {
        let record = record?;
        any = true;
        if let (Event::RunCreated(created), None) = (&record.event, &policy) {
            policy = Some(created.policy.clone());
        }
        let wanted = match args.seq {
            Some(seq) => record.seq.get() == seq,
            None => is_explained(&record.event),
        };
        if wanted {
            found = Some(record);
        }
        if args.seq.is_some() && found.is_some() {
            break;
        }
    }
    let Some(record) = found else {
        let place = args.dir.display().to_string();
        match args.seq {
            _ if !any => return Err(EmptyLog { place }.into()),
            Some(seq) => {
                bail!("the log has no event {seq}\nhint: `tinygate log {place}` lists them")
            }
            None => bail!("nothing was decided yet\nhint: `tinygate log {place}` lists the events"),
        }
    };
    output::data_line(&format!("event {}", record.seq))?;
    output::data_line(&explain(&record.event, policy.as_ref()))?;
    Ok(Exit::Done)
}

/// A decision that somebody may ask the reasons of.
fn is_explained(event: &Event) -> bool {
    matches!(
        event,
        Event::GateDecided(_)
            | Event::StageReopened(_)
            | Event::FailureDecided(_)
            | Event::StageStopped(_)
    )
}
