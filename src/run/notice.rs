//! What a user should be told while a run is prepared or resumed, as data.

use std::path::PathBuf;

use super::differences::ConfigDifference;
use super::rate_change::RateChange;
use crate::events::StageName;

/// Takes notices in the order in which they arise.
pub type Tell<'a> = dyn FnMut(Notice) + 'a;

/// Something that is worth knowing and stops nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A given checkpoint has weights of float64, which are rounded to float32.
    WeightsRounded { checkpoint: PathBuf },
    /// A given checkpoint does not say how many updates it has done, so the stage counts from 0.
    UpdatesUnknown {
        checkpoint: PathBuf,
        stage: StageName,
    },
    /// The first config of another run is used, and differs from the given one in these keys.
    OtherConfigUsed { keys: Vec<String> },
    /// The config in the log of `run` is used, and differs from the given one.
    LogConfigUsed {
        run: PathBuf,
        difference: ConfigDifference,
    },
    /// Missing checkpoints were to be given up, and none is missing.
    NothingToGiveUp,
    /// A change of settings moves the learning rate.
    RateChanged(RateChange),
    /// The ranks of this machine have more threads than there are cores.
    Oversubscribed {
        /// On this machine.
        ranks: u32,
        threads_each: u32,
        cores: usize,
        /// The most threads that a rank should have, where it was configured to have more.
        threads_most: Option<usize>,
    },
    /// The ranks could not form a group, and the run continues with one, as was allowed.
    FellBack { why: String },
}
