//! The engine's notices, as lines for a terminal.

use tinygate::run::{ConfigDifference, Notice, RateChange};
use tinygate_words::numbers::{number, plural};

/// One notice; some have a second line with a hint.
pub fn notice(notice: &Notice) -> String {
    match notice {
        Notice::WeightsRounded { checkpoint } => format!(
            "note: the checkpoint `{}` has weights of float64; they are rounded to float32",
            checkpoint.display()
        ),
        Notice::UpdatesUnknown { checkpoint, stage } => format!(
            "note: the checkpoint `{}` does not say how many updates it has done; `{stage}` counts from 0",
            checkpoint.display()
        ),
        Notice::OtherConfigUsed { keys } => format!(
            "warning: the first config of the other run is used; CONFIG differs in {}",
            quoted(keys, ", ")
        ),
        Notice::LogConfigUsed { run, difference } => {
            let ConfigDifference {
                key,
                given,
                recorded,
            } = difference;
            let value =
                |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
            format!(
                "warning: `{key}` is {} in the config given; the run was created with {}, which is used \
                 (`tinygate resume {} --set` changes what may change)",
                value(given),
                value(recorded),
                run.display()
            )
        }
        Notice::NothingToGiveUp => "no checkpoint is missing, so none is given up".to_owned(),
        Notice::RateChanged(change) => {
            let RateChange {
                stage,
                keys,
                update,
                before,
                after,
            } = change;
            format!(
                "warning: {} changes the learning rate of `{stage}` at update {update} from {} to {}",
                quoted(keys, " and "),
                number(*before),
                number(*after)
            )
        }
        Notice::Oversubscribed {
            ranks,
            threads_each,
            cores,
            threads_most,
        } => oversubscribed(*ranks, *threads_each, *cores, *threads_most),
        Notice::FellBack { why } => format!("warning: continuing with one rank: {why}"),
    }
}

fn oversubscribed(
    ranks: u32,
    threads_each: u32,
    cores: usize,
    threads_most: Option<usize>,
) -> String {
    let threads = plural(u64::from(threads_each), "thread", "threads");
    let all = if ranks == 1 {
        threads
    } else {
        format!(
            "{} with {threads} each",
            plural(u64::from(ranks), "rank", "ranks")
        )
    };
    let hint = match threads_most {
        Some(most) => format!("set `threads = {most}` or leave it out"),
        None => format!("train with {cores} or fewer ranks on this machine"),
    };
    format!(
        "warning: {all}, and this process may use {}: training will be slower than with as many threads as cores\n\
         hint: {hint}",
        plural(cores as u64, "core", "cores")
    )
}

fn quoted(texts: &[String], between: &str) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| format!("`{text}`")).collect();
    quoted.join(between)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygate::events::StageName;

    #[test]
    fn a_changed_rate_has_its_reasons_and_both_values() {
        let found = notice(&Notice::RateChanged(RateChange {
            stage: StageName::new("dynamics"),
            keys: vec![
                "dynamics.n_updates".to_owned(),
                "dynamics.learning_rate".to_owned(),
            ],
            update: 11,
            before: 0.001,
            after: 0.000_25,
        }));
        let want = "warning: `dynamics.n_updates` and `dynamics.learning_rate` changes the learning rate of \
                    `dynamics` at update 11 from 0.001 to 0.00025";
        assert_eq!(found, want);
    }

    #[track_caller]
    fn check(ranks: u32, threads_each: u32, cores: usize, most: Option<usize>, want: &str) {
        let found = notice(&Notice::Oversubscribed {
            ranks,
            threads_each,
            cores,
            threads_most: most,
        });
        assert_eq!(found, want);
    }

    #[test]
    fn more_threads_than_cores_are_counted() {
        check(
            1,
            500,
            1,
            Some(1),
            "warning: 500 threads, and this process may use 1 core: training will be slower than with as many \
             threads as cores\nhint: set `threads = 1` or leave it out",
        );
        check(
            4,
            2,
            4,
            Some(1),
            "warning: 4 ranks with 2 threads each, and this process may use 4 cores: training will be slower than \
             with as many threads as cores\nhint: set `threads = 1` or leave it out",
        );
        check(
            3,
            1,
            2,
            None,
            "warning: 3 ranks with 1 thread each, and this process may use 2 cores: training will be slower than \
             with as many threads as cores\nhint: train with 2 or fewer ranks on this machine",
        );
    }
}
