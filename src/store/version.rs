//! A version in a log that this build does not know.

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
            "written by a newer build: {} {}, this build knows up to {}\nhint: ",
            self.what, self.found, self.known
        )?;
        match &self.written_by {
            Some(version) => write!(f, "use tinygate {version} or later"),
            None => write!(f, "use a later tinygate"),
        }
    }
}
