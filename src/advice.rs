//! What to do about an error, as data.
//!
//! An error says what is wrong; its hints say what to do, apart from its text. A
//! hint about this program names what it can do and never how a person asks for it:
//! whoever talks to the person, a terminal or a page, has the words for that.
//! Depends on nothing else of the engine.

use std::borrow::Cow;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Something outside of this program.
    Text(Cow<'static, str>),
    /// Look at a config that this program writes.
    ExampleConfig,
    /// Look at the list of all keys of a config.
    ListKeys,
    /// Write an override of a config in its form.
    OverrideForm,
    /// From which folder a relative path starts: in a config, and in an override.
    RelativePaths,
    /// Start a run: there is none yet.
    StartRun,
    /// Start another run: this one cannot take the change.
    StartAnotherRun,
    /// Start a run from a checkpoint.
    StartFromCheckpoint,
    /// Start a run with the weights of a checkpoint, without its optimizer.
    FreshOptimizer,
    /// Train one stage alone.
    OneStage { stage: &'static str },
    /// Resume the run.
    Resume,
    /// Read the events of the log.
    ReadLog,
    /// Decide the log again and compare.
    AuditLog,
    /// Report the fault together with the log.
    ReportWithLog,
}

impl Hint {
    pub fn text(text: impl Into<Cow<'static, str>>) -> Hint {
        Hint::Text(text.into())
    }
}

/// An error that may know what to do about it.
pub trait Advice {
    /// What to do, in this order; empty when there is nothing to say.
    fn hints(&self) -> Vec<Hint>;
}
