//! `explain`: why a decision was made.

use std::path::Path;

use anyhow::bail;
use tinygate::events::{Event, Policy, Record};
use tinygate::run::{EmptyLog, read};
use tinygate::store::RunLock;
use tinygate_words::{describe, explain};

use crate::args::ExplainArgs;
use crate::exit::Exit;
use crate::output::{self, advised};

pub fn perform(args: &ExplainArgs) -> anyhow::Result<Exit> {
    let mut policy: Option<Policy> = None;
    let mut found: Option<Record> = None;
    let mut any = false;
    let mut end = End::Unknown;
    for record in read(&args.dir)? {
        let record = record?;
        any = true;
        end.see(&record);
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
    let place = args.dir.display().to_string();
    let interrupted = end.text(&args.dir).filter(|_| args.seq.is_none());
    let Some(record) = found else {
        match args.seq {
            _ if !any => return Err(EmptyLog::at(&args.dir).into()),
            Some(seq) => {
                bail!(advised(
                    format!("the log has no event {seq}"),
                    format!("`tinygate log {place}` lists them"),
                ))
            }
            None => {
                let Some(interrupted) = interrupted else {
                    bail!(advised(
                        "nothing was decided yet",
                        format!("`tinygate log {place}` lists the events"),
                    ));
                };
                output::data_line(&format!("{interrupted}; nothing was decided before that"))?;
                return Ok(Exit::Done);
            }
        }
    };
    output::data_line(&format!("event {}", record.seq))?;
    output::data_line(&explain(&record.event, policy.as_ref()))?;
    if let Some(interrupted) = interrupted {
        output::data_line(&format!("after that, {interrupted}"))?;
    }
    Ok(Exit::Done)
}

/// How the last process of the log ended, as far as the log says.
enum End {
    /// No process has begun, or the run has ended.
    Unknown,
    Started,
    Interrupted(String),
}

impl End {
    fn see(&mut self, record: &Record) {
        if let Event::ProcessStarted(_) = &record.event {
            *self = End::Started;
        }
        if let Event::RunInterrupted(_) = &record.event {
            let what = describe(&record.event);
            *self = End::Interrupted(format!("event {}: {what}", record.seq));
        }
        if let Event::RunFinished(_) | Event::RunStopped(_) = &record.event {
            *self = End::Unknown;
        }
    }

    /// `None` while a process has the run open, and for an exported log.
    fn text(&self, dir: &Path) -> Option<String> {
        if !dir.is_dir() || RunLock::holder(dir).is_some() {
            return None;
        }
        match self {
            End::Unknown => None,
            End::Started => Some(
                "the run's process ended without recording why: it was killed, or the machine stopped"
                    .to_owned(),
            ),
            End::Interrupted(text) => Some(text.clone()),
        }
    }
}

/// A decision that has reasons to explain.
fn is_explained(event: &Event) -> bool {
    matches!(
        event,
        Event::GateDecided(_)
            | Event::StageReopened(_)
            | Event::FailureDecided(_)
            | Event::StageStopped(_)
    )
}
