//! Hints in the words of the command line: here the engine's advice meets the names
//! of commands and flags.

use std::error::Error;

use tinygate::advice::{Advice, Hint};
use tinygate::checkpoint::RejectReason;
use tinygate::config::{ConfigError, Problem};
use tinygate::controller::ControlError;
use tinygate::data::still::StillError;
use tinygate::data::{DataError, WindowError};
use tinygate::picture::png::PictureError;
use tinygate::setup::SetupError;

/// What to do, as one sentence; `None` when there is nothing to say.
pub fn hint(advice: &impl Advice) -> Option<String> {
    let hints = advice.hints();
    let words: Vec<String> = hints.iter().map(words).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

/// A problem of a config with its hint below it.
pub fn problem(problem: &Problem) -> String {
    match hint(&problem.fault) {
        Some(hint) => format!("{problem}\n  hint: {hint}"),
        None => problem.to_string(),
    }
}

/// The hint of a cause of an error.
pub fn of_cause(cause: &(dyn Error + 'static)) -> Option<String> {
    fn of<E: Error + Advice + 'static>(cause: &(dyn Error + 'static)) -> Option<String> {
        cause.downcast_ref::<E>().and_then(hint)
    }
    let known = [
        of::<ConfigError>,
        of::<ControlError>,
        of::<DataError>,
        of::<WindowError>,
        of::<StillError>,
        of::<SetupError>,
        of::<PictureError>,
        of::<RejectReason>,
    ];
    known.into_iter().find_map(|of| of(cause))
}

fn words(hint: &Hint) -> String {
    let text = match hint {
        Hint::Text(text) => text,
        Hint::ExampleConfig => "`tinygate config init` prints a config to begin with",
        Hint::ListKeys => "`tinygate config show` lists every key with what it takes",
        Hint::OverrideForm => "write it like `--set video_tokenizer.learning_rate=1e-3`",
        Hint::RelativePaths => {
            "in a config it starts at the config's folder, after `--set` at the working directory"
        }
        Hint::StartRun => "start one with `tinygate run CONFIG --dir DIR`",
        Hint::StartAnotherRun => "start a new run with `tinygate run`",
        Hint::StartFromCheckpoint => {
            "`tinygate run --init-from STAGE=CHECKPOINT` starts from a checkpoint"
        }
        Hint::FreshOptimizer => "`run --init-from` takes its weights with `--fresh-optimizer`",
        Hint::OneStage { stage } => return format!("`--stage {stage}` trains that stage alone"),
        Hint::Resume => "resume it with `tinygate resume DIR`",
        Hint::ResumeMoved { dir } => {
            return format!("resume the run where it is now: `tinygate resume {dir}`");
        }
        Hint::ReadWhileRunning => "`tinygate status` and `tinygate log` read it meanwhile",
        Hint::RebuildLog => "`tinygate repair DIR` rebuilds a run's log from its other copy",
        Hint::ExportSoundEvents => "`tinygate export` keeps the events before the damage",
        Hint::KeepOneCopy => {
            "`tinygate repair DIR --keep journal` (or `--keep sled`) continues with one and keeps the other aside"
        }
        Hint::AcceptLoss => {
            "`tinygate repair DIR --accept-loss` continues with the sound events and keeps the rest aside"
        }
        Hint::ReplaceFile => "replace it with `--force`",
        Hint::ReadLog => "see `tinygate log`",
        Hint::AuditLog => "`tinygate replay` checks the log",
        Hint::ReportWithLog => "report it with the run's log (`tinygate export`)",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_joined_in_their_order() {
        let found = hint(&ControlError::Stuck {
            phase: "done".to_owned(),
            head: tinygate::events::Seq::FIRST,
        });
        let want =
            "`tinygate replay` checks the log; report it with the run's log (`tinygate export`)";
        assert_eq!(found.as_deref(), Some(want));
    }

    #[test]
    fn a_cause_is_found_by_its_type() {
        let missing = DataError::Missing { path: "a".into() };
        let hint = of_cause(&SetupError::Data(missing));
        assert!(hint.is_some_and(|hint| hint.contains("`--set`")));
        assert_eq!(of_cause(&std::io::Error::other("no")), None);
    }
}
