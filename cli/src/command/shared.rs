//! What several commands do.

use tinygate::config::{ConfigError, Override};
use tinygate::events::Record;
use tinygate::store::ReadError;

use crate::output::Summary;
#[cfg(not(feature = "train"))]
use crate::output::advised;

/// Folds the events up to `last`, or all of them.
///
/// # Errors
/// The first fault of the log before `last`.
pub fn fold(
    records: impl Iterator<Item = Result<Record, ReadError>>,
    last: Option<u64>,
) -> Result<Summary, ReadError> {
    let mut summary = Summary::empty();
    for record in records {
        let record = record?;
        if last.is_some_and(|last| last < record.seq.get()) {
            break;
        }
        summary.add(&record);
    }
    Ok(summary)
}

pub fn overrides(texts: &[String]) -> Result<Vec<Override>, ConfigError> {
    texts
        .iter()
        .map(|text| Override::parse("--set", text))
        .collect()
}

/// The answer of a build without the feature `train` to a run of the built-in trainer.
#[cfg(not(feature = "train"))]
pub fn no_trainer() -> anyhow::Error {
    advised(
        "this build has no trainer",
        "build it with the feature `train` and libtorch; `make build` does both",
    )
}
