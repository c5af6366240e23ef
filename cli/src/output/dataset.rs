//! What was read of the data, in a few lines.

use tinygate::data::{Frames, still};
use tinygate::events::{Dataset, PassedOver, Recording};

use super::count;

/// Recordings and warnings of a kind that are shown one by one.
const SHOWN: usize = 4;

/// The size of the dataset, and its recordings.
pub fn lines(dataset: &Dataset) -> Vec<String> {
    let recordings = match dataset.recordings.len() {
        0 | 1 => String::new(),
        several => format!(" in {} recordings", count(several as u64)),
    };
    let mut lines = vec![format!(
        "data: {} frames of {}x{}{recordings}; {} windows to train on, {} held out",
        count(dataset.frames),
        dataset.height,
        dataset.width,
        count(dataset.training_windows),
        count(dataset.held_out_windows)
    )];
    lines.extend(some(&dataset.recordings, "  ", recording));
    lines
}

fn recording(recording: &Recording) -> String {
    let names = match (&recording.first, &recording.last) {
        (Some(first), Some(last)) => format!(", `{first}` to `{last}`"),
        (Some(_) | None, _) => String::new(),
    };
    format!(
        "  {}: {} frames{names}",
        recording.path,
        count(recording.frames)
    )
}

/// What a person should look at before training.
pub fn warnings(dataset: &Dataset, frames: &Frames) -> Vec<String> {
    let gaps: Vec<&Recording> = dataset
        .recordings
        .iter()
        .filter(|recording| 0 < recording.missing)
        .collect();
    let mut warnings = some(&gaps, "warning: ", |recording| gap(recording));
    let passed_over: Vec<&PassedOver> = dataset
        .passed_over
        .iter()
        .filter(|passed_over| is_worth_a_word(passed_over))
        .collect();
    warnings.extend(some(&passed_over, "warning: ", |found| {
        format!(
            "warning: `{}`: not read: {} x {}, such as `{}`",
            found.path,
            count(found.count),
            found.why,
            found.example
        )
    }));
    let brightest = still::brightest(frames);
    if brightest <= 1 {
        warnings.push(format!(
            "warning: the brightest value of all frames is {brightest} of 255; floats from 0 to 1 become frames by \
             `(frames * 255).round().astype(\"uint8\")`"
        ));
    }
    warnings
}

fn gap(recording: &Recording) -> String {
    format!(
        "warning: `{}`: {} missing between `{}` and `{}`; windows run across the gaps",
        recording.path,
        match recording.missing {
            1 => "1 number is".to_owned(),
            several => format!("{} numbers are", count(several)),
        },
        recording.first.as_deref().unwrap_or_default(),
        recording.last.as_deref().unwrap_or_default()
    )
}

/// Hidden files and notes lie beside any pictures.
fn is_worth_a_word(passed_over: &PassedOver) -> bool {
    passed_over.why.starts_with("picture") || passed_over.why.starts_with("chunk")
}

fn some<T>(all: &[T], indent: &str, line: impl Fn(&T) -> String) -> Vec<String> {
    let mut lines: Vec<String> = all.iter().take(SHOWN).map(line).collect();
    if let Some(more) = all.len().checked_sub(SHOWN).filter(|more| 0 < *more) {
        lines.push(format!("{indent}... and {more} more"));
    }
    lines
}
