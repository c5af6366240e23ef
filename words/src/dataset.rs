//! What was read from the data, in a few lines.

use tinygate_events::{Dataset, PassedOver, Recording};

use crate::numbers::count;

/// How many recordings, and warnings of a kind, are shown.
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

/// What a user should check before training.
///
/// `brightest` is the highest value of all frames.
pub fn warnings(dataset: &Dataset, brightest: u8) -> Vec<String> {
    let gaps: Vec<&Recording> = dataset
        .recordings
        .iter()
        .filter(|recording| 0 < recording.missing)
        .collect();
    let mut warnings = some(&gaps, "warning: ", |recording| gap(recording));
    let passed_over: Vec<&PassedOver> = dataset
        .passed_over
        .iter()
        .filter(|passed_over| deserves_a_warning(passed_over))
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

/// Hidden files and notes are common next to pictures and need no warning.
fn deserves_a_warning(passed_over: &PassedOver) -> bool {
    [
        "picture",
        "chunk",
        "file of arrays",
        "array",
        "link",
        "group",
        "folder that lies too deep",
    ]
    .iter()
    .any(|start| passed_over.why.starts_with(start))
}

fn some<T>(all: &[T], indent: &str, line: impl Fn(&T) -> String) -> Vec<String> {
    let mut lines: Vec<String> = all.iter().take(SHOWN).map(line).collect();
    if let Some(more) = all.len().checked_sub(SHOWN).filter(|more| 0 < *more) {
        lines.push(format!("{indent}... and {more} more"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(number: usize, missing: u64) -> Recording {
        Recording {
            path: format!("ep{number}"),
            frames: 10,
            height: 2,
            width: 2,
            first: Some("f0.png".to_owned()),
            last: Some("f9.png".to_owned()),
            missing,
        }
    }

    fn dataset(recordings: Vec<Recording>, passed_over: Vec<PassedOver>) -> Dataset {
        Dataset {
            files: Vec::new(),
            blake3: String::new(),
            frames: 10 * recordings.len() as u64,
            height: 2,
            width: 2,
            training_windows: 5,
            held_out_windows: 2,
            recordings,
            passed_over,
        }
    }

    #[test]
    fn recordings_are_listed_up_to_a_few() {
        let found = lines(&dataset(
            (0..6).map(|number| clip(number, 0)).collect(),
            Vec::new(),
        ));
        let want = [
            "data: 60 frames of 2x2 in 6 recordings; 5 windows to train on, 2 held out",
            "  ep0: 10 frames, `f0.png` to `f9.png`",
            "  ep1: 10 frames, `f0.png` to `f9.png`",
            "  ep2: 10 frames, `f0.png` to `f9.png`",
            "  ep3: 10 frames, `f0.png` to `f9.png`",
            "  ... and 2 more",
        ];
        assert_eq!(found, want);
    }

    #[test]
    fn gaps_and_skipped_pictures_get_a_warning() {
        let passed_over = |why: &str, example: &str| PassedOver {
            path: "ep0".to_owned(),
            why: why.to_owned(),
            count: 24,
            example: example.to_owned(),
        };
        let passed_over = vec![
            passed_over("hidden or made by the system", ".DS_Store"),
            passed_over("no picture", "notes.txt"),
            passed_over("picture, but no PNG (.jpg)", "f1.jpg"),
            passed_over("link into another file, which is not followed", "/ep1"),
            passed_over("folder without a PNG", "notes"),
            passed_over("folder that lies too deep in others", "q"),
        ];
        let found = warnings(&dataset(vec![clip(0, 0), clip(1, 3)], passed_over), 200);
        let want = [
            "warning: `ep1`: 3 numbers are missing between `f0.png` and `f9.png`; windows run across the gaps",
            "warning: `ep0`: not read: 24 x picture, but no PNG (.jpg), such as `f1.jpg`",
            "warning: `ep0`: not read: 24 x link into another file, which is not followed, such as `/ep1`",
            "warning: `ep0`: not read: 24 x folder that lies too deep in others, such as `q`",
        ];
        assert_eq!(found, want);
        assert!(warnings(&dataset(vec![clip(0, 0)], Vec::new()), 2).is_empty());
    }

    #[test]
    fn frames_of_only_0_and_1_get_a_warning() {
        let found = warnings(&dataset(vec![clip(0, 0)], Vec::new()), 1);
        assert!(
            found[0].contains("is 1 of 255") && found[0].contains("frames * 255"),
            "{found:?}"
        );
    }
}
