//! `status`: shows where a run stands, also while a process writes it.

use std::path::Path;

use anyhow::bail;
use serde::Serialize;
use tinygate::run::{EmptyLog, read};
use tinygate::store::RunLock;
use tinygate_words::numbers::plural;

use super::shared::fold;
use crate::args::StatusArgs;
use crate::exit::Exit;
use crate::output::{self, StageSummary, Style, Summary, advised, timestamp};

pub fn perform(args: &StatusArgs) -> anyhow::Result<Exit> {
    let summary = fold(read(&args.dir)?, args.at)?;
    if let (Some(at), Some((last, _))) = (args.at, summary.last)
        && last.get() < at
    {
        bail!(advised(
            format!("the log ends at event {last}, before {at}"),
            "give `--at` an event of the log, or leave it out",
        ));
    }
    let holder = Holder::of(args);
    if summary.events == 0 {
        return Err(EmptyLog::at(&args.dir).into());
    }
    if args.json {
        let json = serde_json::to_string(&StatusJson::of(args, &summary, holder))?;
        output::data_line(&json)?;
    } else {
        for line in lines(args, &summary, &holder) {
            output::data_line(&line)?;
        }
    }
    Ok(Exit::Done)
}

/// Which process has the run open.
enum Holder {
    Process {
        pid: String,
        host: String,
    },
    None,
    /// For a past state or an exported log.
    Unknown,
}

impl Holder {
    fn of(args: &StatusArgs) -> Holder {
        if args.at.is_some() || !args.dir.is_dir() {
            return Holder::Unknown;
        }
        match RunLock::holder(&args.dir) {
            Some((pid, host)) => Holder::Process { pid, host },
            None => Holder::None,
        }
    }

    fn is_none(&self) -> bool {
        matches!(self, Holder::None)
    }
}

#[derive(Serialize)]
struct StatusJson {
    /// Its name when it was created.
    run: Option<String>,
    /// The directory's name now; null for an exported log.
    directory: Option<String>,
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
    fn of(args: &StatusArgs, summary: &Summary, holder: Holder) -> StatusJson {
        let created = summary.state().created.as_ref();
        StatusJson {
            run: created.map(|created| created.run.clone()),
            directory: directory_name(&args.dir),
            phase: summary.phase(holder.is_none()),
            events: summary.events,
            last_seq: summary.last.map(|(seq, _)| seq.get()),
            last_time_ms: summary.last.map(|(_, time_ms)| time_ms),
            process: match holder {
                Holder::Process { pid, host } => Some(ProcessJson { pid, host }),
                Holder::None | Holder::Unknown => None,
            },
            process_starts: summary.state().process.starts,
            stages: summary.stages(),
        }
    }
}

/// The name of a run's directory. It may have been renamed since the run was created.
fn directory_name(path: &Path) -> Option<String> {
    if !path.is_dir() {
        return None;
    }
    let whole = std::fs::canonicalize(path).ok()?;
    Some(whole.file_name()?.to_string_lossy().into_owned())
}

fn lines(args: &StatusArgs, summary: &Summary, holder: &Holder) -> Vec<String> {
    let style = Style::of_stdout();
    let mut lines = Vec::new();
    let created = summary.state().created.as_ref();
    let created = created.map_or("run", |created| created.run.as_str());
    let directory = directory_name(&args.dir);
    let name = match &directory {
        Some(name) if name != created => {
            format!("{} (created as `{created}`)", style.strong(name))
        }
        Some(_) | None => style.strong(created),
    };
    let phase = match summary.phase(holder.is_none()) {
        "interrupted" => format!("interrupted ({}), resumable", summary.interruption()),
        phase => phase.replace('_', " "),
    };
    let process = match holder {
        Holder::Process { pid, .. } if pid == "unknown" => {
            ", another process has it open".to_owned()
        }
        Holder::Process { pid, host } => format!(", process {pid} on {host} has it open"),
        Holder::None => ", no process has it open".to_owned(),
        Holder::Unknown => String::new(),
    };
    lines.push(format!("{name}: {phase}{process}"));
    if let Some((seq, time_ms)) = summary.last {
        let time = timestamp(time_ms);
        let events = plural(summary.events, "event", "events");
        lines.push(format!("{events}, the last is {seq} at {time} UTC"));
    }
    lines.push(String::new());
    lines
        .extend(summary.lines_without(|path| directory.is_some() && !args.dir.join(path).exists()));
    lines
}
