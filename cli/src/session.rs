//! How a command was called, as far as its steps must know.

use tinygate::run::Notice;
#[cfg(feature = "train")]
use tinygate::{config::Config, run::builtin::Permission, train::ranks::Job};

use crate::output;

/// A command that trains, as it was called.
#[derive(Clone, Debug)]
pub struct Session {
    pub output: Output,
    /// The job that a launcher put this process into.
    #[cfg(feature = "train")]
    pub job: Option<Job>,
    /// `--allow-single-gpu-fallback`
    #[cfg(feature = "train")]
    pub allow_fallback: bool,
}

/// What a command prints.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// JSON on stdout.
    pub json: bool,
    /// Nothing but errors on stderr.
    pub quiet: bool,
}

impl Output {
    /// A line on stderr.
    pub fn say(self, line: &str) {
        if !self.quiet {
            output::say(line);
        }
    }

    pub fn say_all(self, lines: &[String]) {
        lines.iter().for_each(|line| self.say(line));
    }

    /// Something that the engine wants the user to know.
    pub fn notice(self, notice: &Notice) {
        self.say(&output::notice(notice));
    }
}

#[cfg(feature = "train")]
impl Session {
    /// Whether the run may continue with fewer devices than ranks.
    pub fn permission(&self, config: &Config) -> Permission {
        match (self.allow_fallback, config.allow_single_gpu_fallback) {
            (true, _) => Permission::Granted { by: "command line" },
            (false, true) => Permission::Granted { by: "config" },
            (false, false) => Permission::Denied,
        }
    }

    /// Whether this process is one of the other ranks of a launcher's job.
    pub fn is_follower(&self) -> bool {
        self.job.as_ref().is_some_and(|job| 0 < job.rank)
    }
}
