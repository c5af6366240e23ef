//! `replay`: recomputes every decision of the given logs, and compares.

use std::path::Path;

use tinygate_replay::{Audit, Outcome, audit_file, places};
use tinygate_words::{audit_json_line, audit_text};

use crate::args::ReplayArgs;
use crate::exit::Exit;
use crate::output::{self, advised};

pub fn perform(args: &ReplayArgs) -> anyhow::Result<Exit> {
    let mut outcomes = Vec::new();
    for place in &args.log {
        if !place.exists() {
            // The others are still audited.
            output::error(&advised(
                format!("there is nothing at `{}`", place.display()),
                "name run directories, exported logs, or folders of them",
            ));
            outcomes.push(Outcome::Unreadable);
            continue;
        }
        for path in places::logs(place)? {
            if places::has_no_log(&path) {
                output::say(&format!(
                    "{}: there is no run here, so nothing was checked",
                    path.display()
                ));
                outcomes.push(Outcome::NothingChecked);
                continue;
            }
            let audit = audit_file(&path);
            outcomes.push(audit.outcome);
            print(&path, &audit, args.json)?;
            if args.retrain && audit.outcome == Outcome::Agreed {
                match retrain(args, &path)? {
                    Exit::Done => {}
                    Exit::NothingChecked => outcomes.push(Outcome::NothingChecked),
                    exit @ (Exit::Interrupted | Exit::NoProgress) => return Ok(exit),
                    Exit::Refused | Exit::Environment | Exit::LogDamaged | Exit::NewerBuild => {
                        outcomes.push(Outcome::Diverged);
                    }
                }
            }
        }
    }
    if outcomes.is_empty() {
        output::say("there is no log here, so nothing was checked");
    }
    Ok(Exit::of_outcome(Outcome::most_severe(outcomes)))
}

#[cfg(feature = "train")]
fn retrain(args: &ReplayArgs, path: &Path) -> anyhow::Result<Exit> {
    if !places::is_run(path) {
        anyhow::bail!(advised(
            format!(
                "`{}` is not a run directory, and chunks are trained again from a run's checkpoints",
                path.display()
            ),
            "name the run directory, or leave `--retrain` out",
        ));
    }
    super::retrain::perform(args, path)
}

#[cfg(not(feature = "train"))]
fn retrain(_: &ReplayArgs, _: &Path) -> anyhow::Result<Exit> {
    Err(super::shared::no_trainer())
}

fn print(path: &Path, audit: &Audit, json: bool) -> anyhow::Result<()> {
    if json {
        output::data_line(&audit_json_line(path, audit)?)?;
    } else {
        output::data(&format!("{}: {}", path.display(), audit_text(audit)))?;
    }
    Ok(())
}
