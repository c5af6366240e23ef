//! The auditor as a separate program, which reads logs and needs nothing else of tinygate.
//!
//! Its output and exit codes are those of `tinygate replay`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use tinygate_replay::{Outcome, audit_file, places};
use tinygate_words::{audit_json_line, audit_text, hint};

const HELP: &str = "\
Recompute every recorded decision of logs of tinygate, and compare

Usage: tinygate-audit [--json] LOG...

Arguments:
  LOG...  Run directories, exported logs, or folders of them

Options:
      --json     Print one JSON object per log
  -h, --help     Print help
  -V, --version  Print version

Exit codes: 0 every decision agrees; 1 one differs; 2 usage, or a log that cannot be read; 3 log damaged; 4 written by a
newer build; 5 nothing to check
";

/// The exit code of wrong usage, the same as for a log that cannot be read.
const USAGE: u8 = 2;

enum Request {
    Audit { logs: Vec<PathBuf>, json: bool },
    Text(String),
}

fn main() -> ExitCode {
    let code = match parse(std::env::args_os().skip(1)) {
        Ok(Request::Text(text)) => print(&text).map(|()| 0),
        Ok(Request::Audit { logs, json }) => audit(&logs, json),
        Err(what) => {
            complain(&what, "tinygate-audit --help");
            Ok(USAGE)
        }
    };
    match code {
        Ok(code) => ExitCode::from(code),
        // The reader of stdout has closed it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string(), "check where the output is written to");
            ExitCode::from(USAGE)
        }
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Request, String> {
    let mut logs = Vec::new();
    let (mut json, mut options) = (false, true);
    for argument in arguments {
        match argument.to_str() {
            Some("--") if options => options = false,
            Some("--json") if options => json = true,
            Some("-h" | "--help") if options => return Ok(Request::Text(HELP.to_owned())),
            Some("-V" | "--version") if options => {
                let version = env!("CARGO_PKG_VERSION");
                return Ok(Request::Text(format!("tinygate-audit {version}\n")));
            }
            Some(other) if options && 1 < other.len() && other.starts_with('-') => {
                return Err(format!("unknown option `{other}`"));
            }
            Some(_) | None => logs.push(PathBuf::from(argument)),
        }
    }
    if logs.is_empty() {
        return Err("no log is given".to_owned());
    }
    Ok(Request::Audit { logs, json })
}

fn audit(named: &[PathBuf], json: bool) -> io::Result<u8> {
    let mut outcomes = Vec::new();
    for place in named {
        if !place.exists() {
            // The others are audited nevertheless.
            complain(
                &format!("there is nothing at `{}`", place.display()),
                "name run directories, exported logs, or folders of them",
            );
            outcomes.push(Outcome::Unreadable);
            continue;
        }
        let logs = match places::logs(place) {
            Ok(logs) => logs,
            Err(error) => {
                complain(&error.to_string(), &hint(&error).unwrap_or_default());
                return Ok(USAGE);
            }
        };
        for log in logs {
            if places::has_no_log(&log) {
                say(&format!(
                    "{}: there is no run here, so nothing was checked",
                    log.display()
                ));
                outcomes.push(Outcome::NothingChecked);
                continue;
            }
            let audit = audit_file(&log);
            outcomes.push(audit.outcome);
            if json {
                print(&format!("{}\n", audit_json_line(&log, &audit)?))?;
            } else {
                print(&format!("{}: {}", log.display(), audit_text(&audit)))?;
            }
        }
    }
    if outcomes.is_empty() {
        say("there is no log here, so nothing was checked");
    }
    Ok(Outcome::most_severe(outcomes).exit_code())
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints a line for people. A closed stderr is not an error.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn complain(what: &str, hint: &str) {
    say(&format!("error: {what}"));
    if !hint.is_empty() {
        say(&format!("\nhint: {hint}"));
    }
}
