//! Runs, for any program: prepare, create, resume and drive one.
//!
//! A request is a value ([`NewRun`], [`Resume`]), and so is its result. What a user should be told
//! meanwhile is a [`Notice`]; what went wrong is a typed error with [`Advice`](crate::advice::Advice).
//! A run can be driven with any [`Trainer`](crate::trainer::Trainer); `builtin` (feature `train`) has
//! libtorch's. Nothing here prints, reads an environment variable, handles a signal or exits.
//!
//! Invariant: a run directory exists only from [`Prepared::create`] on. A request that is refused
//! before leaves nothing behind.
//!
//! ```no_run
//! use std::error::Error;
//! use std::path::Path;
//!
//! use tinygate::config::Config;
//! use tinygate::controller::{Ending, Host, Observer};
//! use tinygate::run::{AnyModel, Group, NewRun, Opened, Resume, this_process};
//!
//! /// Starts the run of a config, or resumes it.
//! fn train(dir: &Path, host: Host<'_>, observer: &mut dyn Observer) -> Result<Ending, Box<dyn Error>> {
//!     let mut tell = |notice| eprintln!("{notice:?}");
//!     let mut run = if tinygate::run::exists(dir) {
//!         match Resume::new(dir, "ada", "example").open(&mut |_| {}, &mut tell)? {
//!             Opened::Finished(_) => return Ok(Ending::Finished),
//!             Opened::Unfinished(resumed) => resumed.begin(&Group::alone(), observer, &mut tell)?,
//!         }
//!     } else {
//!         let config = Config::load(Path::new("tinygate.toml"), &[])?.config;
//!         let prepared = NewRun::new(config).prepare(dir, &AnyModel, &mut tell)?;
//!         prepared.create(&Group::alone())?
//!     };
//!     let ending = run.drive(this_process(), host, observer)?;
//!     run.close()?;
//!     Ok(ending)
//! }
//! ```

#[cfg(feature = "train")]
pub mod builtin;
mod differences;
pub mod dry_run;
mod error;
mod given;
mod lost;
mod models;
mod next_cycle;
mod notice;
mod open_run;
mod prepare;
mod process;
mod rate_change;
mod read;
mod resume;
pub mod retrain;
mod stopped;

pub use differences::{ConfigDifference, differences};
pub use error::{
    EmptyLog, GivenError, LostError, NewRunError, NextCycleError, PassedStageChange, ReadRunError,
    ResumeError,
};
pub use given::GivenCheckpoint;
pub use lost::LostCheckpoints;
pub use models::{AnyModel, GivenUse, Models, TinyWorlds, UnknownModel};
pub use next_cycle::next_cycle;
pub use notice::{Notice, Tell};
pub use open_run::Run;
pub use prepare::{Draft, NewRun, Prepared};
pub use process::{Group, now_ms, this_process};
pub use rate_change::RateChange;
pub use read::{check_run, exists, read};
pub use resume::{Opened, Resumable, Resume};
pub use stopped::StoppedRun;
