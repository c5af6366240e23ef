//! The config of a run that follows another: its first config, with what its ladders deferred.

use std::collections::BTreeSet;
use std::path::Path;

use super::error::{EmptyLog, NextCycleError};
use super::notice::{Notice, Tell};
use super::read::read;
use super::resume::value_text;
use crate::config::{Config, Override};
use crate::events::{Event, Parent, SettingPatch};

/// Takes the first config of the run at `run`, with the settings that its ladders deferred and with
/// `changes`. Where `given` differs from it, the user is told.
///
/// # Errors
/// A run that cannot be read, and a config that the changes make invalid.
pub fn next_cycle(
    run: &Path,
    given: Option<&Config>,
    changes: &[Override],
    tell: &mut Tell<'_>,
) -> Result<(Config, Parent), NextCycleError> {
    let mut created = None;
    let mut patches: Vec<SettingPatch> = Vec::new();
    for record in read(run)? {
        let event = record?.event;
        if let Event::RunCreated(first) = event {
            created.get_or_insert(first);
        } else if let Event::PatchDeferred(deferred) = event {
            patches.push(deferred.patch);
        }
    }
    let Some(created) = created else {
        return Err(EmptyLog::at(run).into());
    };
    let first = Config::from_json(&created.config)?;
    let mut all = Vec::new();
    for patch in &patches {
        let text = format!("{}={}", patch.key.as_str(), value_text(patch.to));
        all.push(Override::parse("deferred setting", &text)?);
    }
    all.extend_from_slice(changes);
    let config = first.with(&all)?;
    if let Some(given) = given {
        let keys = differing(&first, &given.with(changes)?, changes);
        if !keys.is_empty() {
            tell(Notice::OtherConfigUsed { keys });
        }
    }
    let path = std::path::absolute(run).map_err(|source| NextCycleError::NotFound {
        run: run.to_owned(),
        source,
    })?;
    let Some(text) = path.to_str() else {
        return Err(NextCycleError::NotUnicode { run: path });
    };
    let parent = Parent {
        run: created.run.clone(),
        path: text.to_owned(),
        patches,
    };
    Ok((config, parent))
}

/// Keys of `given` whose value is not that of `first`, but for those in `changes`.
fn differing(first: &Config, given: &Config, changes: &[Override]) -> Vec<String> {
    let changed: BTreeSet<&str> = changes.iter().map(Override::key).collect();
    let first = first.entries();
    let entries = given.entries().into_iter();
    entries
        .filter(|entry| !changed.contains(entry.0.as_str()) && !first.contains(entry))
        .map(|(key, _)| key)
        .collect()
}
