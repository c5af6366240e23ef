//! A version in a log that is newer than this build.

use tinygate_advice::{Advice, Hint};

/// Data that a newer build wrote. It is not damaged, and this build must not interpret it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownVersion {
    /// What has the version: `log format`, `kind`, `chunk_started`, ...
    pub what: String,
    pub found: u32,
    pub known: u32,
    /// The build that created the log, if its header is known.
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
