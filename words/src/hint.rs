//! Hints in the words of the command line: here advice meets the names of commands and flags.
//!
//! Both programs print these, and the JSON form of an audit holds them, so this is the only place
//! below the programs where a command or a flag is named.

use tinygate_advice::{Advice, Hint};

use crate::numbers::plural;

/// What to do about an error, as one sentence; `None` when there is nothing to suggest.
pub fn hint(advice: &impl Advice) -> Option<String> {
    hint_of(&advice.hints())
}

/// These hints, joined in their order.
pub fn hint_of(hints: &[Hint]) -> Option<String> {
    let words: Vec<String> = hints.iter().map(words).collect();
    (!words.is_empty()).then(|| words.join("; "))
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
        Hint::WeightsOfOtherSettings => "`--allow-other-settings` takes its weights anyway",
        Hint::MomentsOfOtherSettings => {
            "`--allow-other-settings` continues with its moments and tinygate's settings"
        }
        Hint::ZeroMoments => {
            "`--fresh-optimizer` takes its weights, with moments that start at zero"
        }
        Hint::SingleRankFallback => {
            "`--allow-single-gpu-fallback` lets `run` and `resume` continue with one rank and more accumulation; \
             a new run takes as many as `nproc_per_node` says"
        }
        Hint::DataElsewhere => "`--set data.path=...` names another place",
        Hint::ResumeEveryRank => "resume the run with `tinygate resume` on every rank",
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
        Hint::NameStage => "write STAGE=CHECKPOINT",
        Hint::VerifyCheckpoints => "`tinygate checkpoint verify` looks into others",
        Hint::TrainSomeStages => "`--stage` trains one stage alone",
        Hint::CheckConfig => "`tinygate config show` checks the config of any stage",
        Hint::OriginalData => "name the run's own data with `--set data.path=...`",
        Hint::StartRunWith { key, value } => {
            return format!(
                "start another run with it: `tinygate run CONFIG --dir DIR --set {key}={value}`"
            );
        }
        Hint::GiveCheckpoint { stage } => {
            return format!("give its checkpoint with `--init-from {stage}=CHECKPOINT`");
        }
        Hint::TrainFurther {
            stage,
            dir,
            overrides,
        } => return train_further(stage, dir, overrides),
        Hint::TrainAnew { stage } => {
            return format!(
                "without them, train the stage again in another run: `tinygate run CONFIG --stage {stage} --dir DIR`"
            );
        }
        Hint::GiveUp { dir } => {
            return format!("`tinygate resume {dir} --give-up` gives up what is missing");
        }
        Hint::ResumeWithData { dir } => {
            return format!("say where it is now: `tinygate resume {dir} --set data.path=PATH`");
        }
        Hint::Explain { dir } => return format!("`tinygate explain {dir}` says why"),
        Hint::AllowRetries { dir, set: None } => {
            return format!("`tinygate resume {dir} --retries N` allows N more failures");
        }
        Hint::AllowRetries {
            dir,
            set: Some(set),
        } => {
            return format!("`tinygate resume {dir} --retries N --set {set}` changes it as well");
        }
        Hint::FewerRanks { ranks } => {
            let ranks = plural(u64::from(*ranks), "rank", "ranks");
            return format!(
                "`allow_single_gpu_fallback = true` or `--allow-single-gpu-fallback` lets `run` and `resume` continue \
                 with {ranks} and more accumulation; a new run can ask for fewer with `nproc_per_node`"
            );
        }
    };
    text.to_owned()
}

fn train_further(stage: &str, dir: &str, overrides: &[(String, String)]) -> String {
    let sets: String = overrides
        .iter()
        .map(|(key, value)| format!(" --set {key}={value}"))
        .collect();
    format!(
        "train it further in another run: `tinygate run CONFIG --stage {stage} --init-from {stage}={dir}/{stage}/best \
         --dir DIR{sets}`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_joined_in_their_order() {
        let found = hint_of(&[Hint::AuditLog, Hint::ReportWithLog]);
        let want =
            "`tinygate replay` checks the log; report it with the run's log (`tinygate export`)";
        assert_eq!(found.as_deref(), Some(want));
        assert_eq!(hint_of(&[]), None);
    }
}
