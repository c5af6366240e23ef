//! `status`: where a run stands, read beside whoever writes it.

use std::path::Path;

use serde::Serialize;
use tinygate::store::RunLock;

use super::{fold, records};
use crate::args::StatusArgs;
use crate::exit::{EmptyLog, Exit};
use crate::output::{self, StageSummary, Style, Summary, timestamp};

pub fn perform(args: &StatusArgs) -> anyhow::Result<Exit> {
    let summary = fold(records(&args.dir)?, args.at)?;
    if summary.events == 0 {
        let place = args.dir.display().to_string();
        return Err(EmptyLog { place }.into());
    }
    if args.json {
        let json = serde_json::to_string(&StatusJson::of(&summary, &args.dir))?;
        output::data_line(&json)?;
    } else {
        for line in lines(&summary, &args.dir) {
            output::data_line(&line)?;
        }
    }
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct StatusJson {
    run: Option<String>,
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
    fn of(summary: &Summary, run: &Path) -> StatusJson {
        let created = summary.state.created.as_ref();
        StatusJson {
            run: created.map(|created| created.run.clone()),
            phase: summary.phase(),
            events: summary.events,
            last_seq: summary.last.map(|(seq, _)| seq.get()),
            last_time_ms: summary.last.map(|(_, time_ms)| time_ms),
            process: RunLock::holder(run).map(|(pid, host)| ProcessJson { pid, host }),
            process_starts: summary.state.process.starts,
            stages: summary.stages(),
        }
    }
}

fn lines(summary: &Summary, run: &Path) -> Vec<String> {
    let style = Style::of_stdout();
    let mut lines = Vec::new();
    let name = summary
        .state
        .created
        .as_ref()
        .map(|created| created.run.as_str());
    let process = match RunLock::holder(run) {
        Some((pid, host)) => format!("process {pid} on {host} has it open"),
        None => "no process has it open".to_owned(),
    };
    lines.push(format!(
        "{}: {}, {process}",
        style.strong(name.unwrap_or("run")),
        summary.phase().replace('_', " ")
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
