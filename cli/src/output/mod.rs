//! Output: data on stdout, text for people on stderr.
//!
//! The text comes from `tinygate_words`. Colours are only added on a terminal, and no information
//! is conveyed by colour alone. Nothing here decides, reads a log or trains.

mod console;
mod error;
mod gate;
mod hint;
mod notice;
mod streams;
mod style;

use std::io;

use tracing_subscriber::EnvFilter;

pub use console::Console;
pub use error::{Advise, Advised, advised, error};
pub use gate::GateJson;
pub use notice::notice;
pub use streams::{data, data_line, say};
pub use style::Style;
pub use tinygate_words::dataset;
pub use tinygate_words::numbers::{bytes, count, timestamp};
#[cfg(feature = "train")]
pub use tinygate_words::numbers::{duration, number};
pub use tinygate_words::{Align, StageSummary, Summary, Table, event_line, hint};

/// Prints warnings of the libraries on stderr; `RUST_LOG` selects more.
pub fn warnings_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    // A second call, in a test, has no effect.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(Style::of_stderr().colours())
        .without_time()
        .with_target(false)
        .try_init();
}
