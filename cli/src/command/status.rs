//! `status`: where a run stands, read beside whoever writes it.

use anyhow::bail;
use serde::Serialize;
use tinygate::store::RunLock;

use super::{fold, records};
use crate::args::StatusArgs;
use crate::exit::{EmptyLog, Exit};
use crate::output::{self, StageSummary, Style, Summary, timestamp};

pub fn perform(args: &StatusArgs) -> anyhow::Result<Exit> {
    let summary = fold(records(&args.dir)?, args.at)?;
    if let (Some(at), Some((last, _))) = (args.at, summary.last)
        && last.get() < at
    {
        bail!(
            "the log ends at event {last}, before {at}\nhint: give `--at` an event that there is, or leave it out"
        );
    }
    let attention = Attention::of(args);
    if summary.events == 0 {
        let place = args.dir.display().to_string();
        return Err(EmptyLog { place }.into());
    }
    if args.json {
        let json = serde_json::to_string(&StatusJson::of(&summary, attention))?;
        output::data_line(&json)?;
    } else {
        for line in lines(&summary, &attention) {
            output::data_line(&line)?;
        }
    }
    Ok(Exit::Done)
}

/// Who is at work on the run.
enum Attention {
    Process {
        pid: String,
        host: String,
    },
    Nobody,
    /// Of a moment in the past or an exported log nothing is known.
    Unknown,
}

impl Attention {
    fn of(args: &StatusArgs) -> Attention {
        if args.at.is_some() || !args.dir.is_dir() {
            return Attention::Unknown;
        }
        match RunLock::holder(&args.dir) {
            Some((pid, host)) => Attention::Process { pid, host },
            None => Attention::Nobody,
        }
    }

    fn is_nobody(&self) -> bool {
        matches!(self, Attention::Nobody)
    }
}

#[derive(Serialize)]
struct StatusJson {
    run: Option<String>,
    /// `empty`, `under_way`, `interrupted` (resumable), `stopped` or `finished`.
    phase: &'static str,
    events: u64,
    last_seq: Option<u64>,
    last_time_ms: Option<u64>,
    /// The process that has the run open now.
    process: Option<ProcessJson>,
    process_starts: u32,
    stages: Vec<StageSummary>,
}

#[derive(Serialize)]
struct ProcessJson {
    pid: String,
    host: String,
}

impl StatusJson {
    fn of(summary: &Summary, attention: Attention) -> StatusJson {
        let created = summary.state.created.as_ref();
        StatusJson {
            run: created.map(|created| created.run.clone()),
            phase: summary.phase(attention.is_nobody()),
            events: summary.events,
            last_seq: summary.last.map(|(seq, _)| seq.get()),
            last_time_ms: summary.last.map(|(_, time_ms)| time_ms),
            process: match attention {
                Attention::Process { pid, host } => Some(ProcessJson { pid, host }),
                Attention::Nobody | Attention::Unknown => None,
            },
            process_starts: summary.state.process.starts,
            stages: summary.stages(),
        }
    }
}

fn lines(summary: &Summary, attention: &Attention) -> Vec<String> {
    let style = Style::of_stdout();
    let mut lines = Vec::new();
    let name = summary
        .state
        .created
        .as_ref()
        .map(|created| created.run.as_str());
    let phase = match summary.phase(attention.is_nobody()) {
        "interrupted" => format!("interrupted ({}), resumable", summary.interruption()),
        phase => phase.replace('_', " "),
    };
    let process = match attention {
        Attention::Process { pid, host } => format!(", process {pid} on {host} has it open"),
        Attention::Nobody => ", no process has it open".to_owned(),
        Attention::Unknown => String::new(),
    };
    lines.push(format!(
        "{}: {phase}{process}",
        style.strong(name.unwrap_or("run"))
    ));
    if let Some((seq, time_ms)) = summary.last {
        let time = timestamp(time_ms);
        lines.push(format!(
            "{} events, the last is {seq} at {time} UTC",
            summary.events
        ));
    }
    lines.push(String::new());
    lines.extend(summary.lines());
    lines
}
