//! A version in a log that this build does not know.

use tinygate_advice::{Advice, Hint};

/// Written by a newer build: no damage, and nothing this build may guess at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownVersion {
    /// What carries the version: `log format`, `kind`, `chunk_started`, ...
    pub what: String,
    pub found: u32,
    pub known: u32,
    /// The build that made the log, where its header says so.
    pub written_by: Option<String>,
}

impl std::fmt::Display for UnknownVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "written by a newer build: {} {}, this build knows up to {}",
            self.what, self.found, self.known
        )
    }
}

impl Advice for UnknownVersion {
    fn hints(&self) -> Vec<Hint> {
        vec![match &self.written_by {
            Some(version) => Hint::text(format!("use tinygate {version} or later")),
            None => Hint::text("use a later tinygate"),
        }]
    }
}
