//! What the end of a run's process means for the command.

use tinygate::controller::Ending;
use tinygate::run::{Run, StoppedRun};
use tinygate::trainer::NoProgress;
use tinygate_words::hint_of;

use crate::exit::Exit;
use crate::output::{Console, advised};

/// The exit of a run, and what the user can do.
pub fn exit(run: &Run, ending: Ending, console: &Console) -> anyhow::Result<Exit> {
    let resume = format!("`tinygate resume {}`", run.dir().display());
    match ending {
        Ending::Finished => Ok(Exit::Done),
        Ending::Stopped => {
            let stopped = StoppedRun::of(run.dir(), run.state());
            if let Some(hint) = stopped.and_then(|stopped| hint_of(&stopped.remedies())) {
                console.say(&hint);
            }
            Ok(Exit::Refused)
        }
        Ending::Interrupted { .. } => {
            console.say(&format!("continue with {resume}"));
            Ok(Exit::Interrupted)
        }
        Ending::NoProgress(NoProgress {
            silence_seconds,
            limit_seconds,
        }) => {
            console.say(&format!(
                "the trainer made no progress for {silence_seconds} s, {limit_seconds} s are allowed"
            ));
            console.say(&format!("continue with {resume}"));
            Ok(Exit::NoProgress)
        }
        Ending::Environment { detail } => Err(advised(
            detail,
            format!("nothing is lost; fix it and continue with {resume}"),
        )),
    }
}
