//! Reads a dataset as a run does. `tests/interop/data_files.py` compares the result with the libraries that wrote it.
//!
//! `frames SIDE OUT PATH...` writes the pixels to OUT and prints what was read, or prints an error and exits with 2.
//! Frames from which nothing can be learned, in windows of two frames and batches of one, are an error too.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use tinygate::advice::{Advice, Hint};
use tinygate::data::still::{self, Needs, StillError};
use tinygate::data::trivial::{self, MeanImage};
use tinygate::data::{DataError, Frames, WindowError, WindowShape, Windows};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.as_slice() {
        [side, out, paths @ ..] if !paths.is_empty() => read(side, out, paths),
        _ => Err("usage: frames SIDE OUT PATH...".into()),
    };
    let printed = result.and_then(|json| Ok(writeln!(std::io::stdout(), "{json}")?));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for hint in hints(error.as_ref()) {
                if let Hint::Text(text) = hint {
                    eprintln!("hint: {text}");
                }
            }
            ExitCode::from(2)
        }
    }
}

/// The hints of an error, if its type has any.
fn hints(error: &(dyn Error + 'static)) -> Vec<Hint> {
    let data = error.downcast_ref::<DataError>().map(Advice::hints);
    let windows = || error.downcast_ref::<WindowError>().map(Advice::hints);
    let still = || error.downcast_ref::<StillError>().map(Advice::hints);
    data.or_else(windows).or_else(still).unwrap_or_default()
}

fn read(side: &str, out: &str, paths: &[String]) -> Result<Json, Box<dyn Error>> {
    let frames = Arc::new(Frames::load(paths, side.parse()?)?);
    let shape = WindowShape {
        context_length: 2,
        frame_stride: 1,
    };
    let windows = Windows::new(Arc::clone(&frames), shape, 1)?;
    let ids = windows.held_out_spread(windows.held_out_len());
    let trivial = trivial::measure(&windows, &MeanImage::of(&windows), &ids)?;
    let previous = trivial.previous_frame.map(|loss| loss.all);
    let needs = Needs { change: true };
    still::check(&windows, needs, Some(trivial.mean_image.all), previous)?;
    std::fs::write(out, frames.bytes())?;
    let recordings = frames.recordings().iter().map(|recording| {
        json!({
            "path": recording.path,
            "frames": recording.frames,
            "first": recording.first,
            "last": recording.last,
            "missing": recording.missing,
        })
    });
    let passed_over = frames.passed_over().iter().map(|passed_over| {
        json!({
            "path": passed_over.path,
            "why": passed_over.why,
            "count": passed_over.count,
            "example": passed_over.example,
        })
    });
    Ok(json!({
        "shape": [frames.count(), frames.height(), frames.width(), 3],
        "blake3": frames.hash().to_hex().to_string(),
        "recordings": recordings.collect::<Vec<_>>(),
        "passed_over": passed_over.collect::<Vec<_>>(),
    }))
}
